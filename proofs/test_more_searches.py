"""Two processes search as one: settings beside those of unit_test/methods/test_distributed.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from supernet_toys import Nested, Plain, Tied
from test_distributed import CASES, SHAPE, check_alike, check_as_one, choices, nasb, search, search_all, without_norms
from worlds import World

from nasopt import PIT, SuperNet

MORE: dict[str, Callable[[], Any]] = {
    "pit": lambda: PIT(without_norms(), SHAPE, relative=True),
    "supernet": lambda: SuperNet(choices(), SHAPE, relative=True),
    "supernet_norms": lambda: SuperNet(Plain(), SHAPE, relative=True, gumbel_softmax=True, paths="two"),
    "supernet_nested": lambda: SuperNet(Nested(), SHAPE, relative=True, hard_softmax=True, paths="sampled"),
    "supernet_tied": lambda: SuperNet(Tied(), SHAPE, relative=True, paths="two"),
    "nasb": lambda: nasb("stage1"),
}


def search_more(rank: int, count: int) -> dict[str, Any]:
    CASES.update(MORE)
    return search_all(rank, count, list(MORE))


def test_more_searches() -> None:
    with World(2) as world:
        first, second = world.run(search_more)
    CASES.update(MORE)
    for name in MORE:
        check_alike(first[name], second[name])
        check_as_one(search(name), first[name])
