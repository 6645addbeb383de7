"""Search methods, one entry each in a table: which search models wrap what, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

import nasopt
from benchmarks_mlperf_tiny.errors import BenchmarkError
from nasopt.errors import nearest
from nasopt.search.regularizer import FEWEST


@dataclass(frozen=True)
class Stage:
    """One search: wrap a network, search, export.

    Attributes:
        search_class: name of the search model in `nasopt`.
        start: what is wrapped: the task's seed, its supernet, or what the stage before has found.
    """

    search_class: str
    start: Literal["seed", "supernet", "found"]


@dataclass(frozen=True)
class Method:
    """A search method: one stage, or several in sequence. No stage at all is plain training of the seed.

    Attributes:
        regularizer: cost that is reduced if nothing else is said.
        is_binary: it finds networks with binary weights: steps of the search alternate between architecture and weights,
            and what is found is pre-trained in full precision before it is binarised and fine-tuned.
    """

    name: str
    stages: tuple[Stage, ...]
    regularizer: str = "macs"
    is_binary: bool = False


_LAYERS_FIRST = (Stage("SuperNet", "supernet"), Stage("PIT", "found"))
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("seed", ()),
        Method("pit", (Stage("PIT", "seed"),)),
        Method("supernet", (Stage("SuperNet", "supernet"),)),
        Method("pit_supernet", (Stage("PITSuperNet", "supernet"),)),
        Method("pit_after_supernet", _LAYERS_FIRST),
        Method("nasb", (Stage("NASB", "seed"),), regularizer="ops", is_binary=True),
    )
}


def get_method(name: str) -> Method:
    """The method of that name.

    Raises:
        BenchmarkError: it is unknown.
    """
    if name not in METHODS:
        raise BenchmarkError(f"unknown method {name!r}: available are {', '.join(METHODS)}.{nearest(name, METHODS)}")
    return METHODS[name]


def default_cost(name: str, precision: str | None) -> str:
    """What the method of that name reduces if nothing else is said: bytes where widths are searched, which MACs do not see.

    Raises:
        BenchmarkError: it is unknown.
    """
    method = get_method(name)
    if precision is None or not method.stages:
        return method.regularizer
    return method.regularizer if isinstance(nasopt.Precision.parse(precision).weights, int) else "flash"


def wrap(
    stage: Stage,
    network: nn.Module,
    input_shape: tuple[int, ...],
    regularizer: Any,
    epochs: int,
    steps: int = 0,
    precision: str | None = None,
) -> Any:
    """The search model of a stage of that many epochs and training steps.

    Of the branches of a supernet one is drawn per step; within half of the epochs draws turn into decisions. Under a budget,
    masks are set by importance while its limits fall, where there are steps enough.
    """
    if isinstance(regularizer, nasopt.Budget) and stage.search_class in ("PIT", "PITSuperNet") and steps >= FEWEST:
        regularizer = nasopt.Budget(dict(regularizer.limits), steps=steps)
    settings: dict[str, Any] = {"regularizer": regularizer}
    if precision is not None:
        settings["precision"] = nasopt.Precision.parse(precision)
    if stage.start == "supernet":
        cooling = nasopt.schedule.exponential(1.0, 0.1, epochs / 2)
        settings |= {"paths": "sampled", "hard_softmax": True, "temperature": cooling}
    return getattr(nasopt, stage.search_class)(network, input_shape=input_shape, **settings)
