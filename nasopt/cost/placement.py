"""Greedy placement of buffers in one arena, as TensorFlow Lite Micro plans it: largest first, at the lowest free offset."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from nasopt.cost.memory import lifetimes
from nasopt.graph.buffers import ActivationMemory, is_rescaled

MOST_COPIES = 3
"""Of so many copies whose need depends on values all combinations are looked at, of more all and none."""
Lives = Mapping[str, tuple[int, int]]
"""First and last step of buffers."""


def place(sizes: Mapping[str, int], live: Lives) -> dict[str, int]:
    """Offset of every buffer, so that no two that are live together overlap.

    Args:
        sizes: of the buffers, in the order in which they are made; of equal sizes the last is placed first.
        live: first and last step of each.
    """
    offsets: dict[str, int] = {}
    last_first = list(sizes)[::-1]
    for name in sorted(last_first, key=lambda name: -sizes[name]):
        offset = 0
        for other in sorted(_beside(name, offsets, live), key=lambda other: offsets[other]):
            if offsets[other] - offset >= sizes[name]:
                break
            offset = max(offset, offsets[other] + sizes[other])
        offsets[name] = offset
    return offsets


def tower(sizes: Mapping[str, int], live: Lives) -> list[str]:
    """Buffers that lie on top of each other from offset 0 to the end of the arena, whose size is the sum of theirs.

    So the arena is linear in the sizes of these buffers, as long as the order of the sizes stays.
    """
    offsets = place(sizes, live)
    if not offsets:
        return []
    top = max(offsets, key=lambda name: offsets[name] + sizes[name])
    names = [top]
    while offsets[top] > 0:
        # A buffer starts at 0 or where one that is live together with it ends.
        below = _beside(top, offsets, live)
        top = next(name for name in below if offsets[name] + sizes[name] == offsets[top] and sizes[name])
        names.append(top)
    return names


def plans(memory: ActivationMemory) -> list[Lives]:
    """Lifetimes of the buffers that an engine may place, the first with all of them.

    Whether something is copied into the scale of what it is concatenated to depends on its values.
    """
    whole = lifetimes(memory)
    copies = [step for step in memory.steps if is_rescaled(step)]
    some = itertools.product((False, True), repeat=len(copies))
    found: list[Lives] = []
    for dropped in some if len(copies) <= MOST_COPIES else [(False,) * len(copies), (True,) * len(copies)]:
        lives = dict(whole)
        for step in itertools.compress(copies, dropped):
            _, last = lives.pop(step.writes[0])
            first, before = lives[step.reads[0]]
            lives[step.reads[0]] = first, max(before, last)
        found.append(lives)
    return found


def _beside(name: str, others: Mapping[str, int], live: Lives) -> Sequence[str]:
    first, last = live[name]
    return [other for other in others if other != name and live[other][0] <= last and first <= live[other][1]]
