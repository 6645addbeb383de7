"""Which search methods are there? One table; a method is one entry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn

import nasopt
from benchmarks_mlperf_tiny.errors import BenchmarkError
from nasopt.errors import nearest


class SearchModel(Protocol):
    """What the search loop uses of a nasopt search model."""

    def __call__(self, x: Tensor) -> Tensor: ...
    def train(self, mode: bool = True) -> Any: ...
    def to(self, device: torch.device) -> Any: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> Any: ...
    def get_regularization_loss(self) -> Tensor: ...
    def get_cost(self, metric: str, discrete: bool = False) -> Any: ...
    def search_space(self) -> dict[str, Any]: ...
    def param_groups(self, lr: float, arch_lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]: ...
    def net_parameters(self) -> Iterator[nn.Parameter]: ...
    def freeze_arch(self) -> Any: ...
    def unfreeze_arch(self) -> Any: ...
    def freeze_net(self) -> Any: ...
    def unfreeze_net(self) -> Any: ...
    def settle_budget(self) -> None: ...
    def arch_structure(self) -> dict[str, Any]: ...
    def arch_export(self, verify: bool = True) -> nn.Module: ...


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
    about: str
    stages: tuple[Stage, ...]
    regularizer: str = "macs"
    is_binary: bool = False


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("seed", "no search: trains the seed with the same recipe", ()),
        Method("pit", "channels and kernels by masks", (Stage("PIT", "seed"),)),
        Method("supernet", "one of several layers at each place", (Stage("SuperNet", "supernet"),)),
        Method("pit_supernet", "layers and masks at once", (Stage("PITSuperNet", "supernet"),)),
        Method(
            "pit_after_supernet", "layers first, then masks", (Stage("SuperNet", "supernet"), Stage("PIT", "found"))
        ),
        Method("nasb", "cells with binary weights", (Stage("NASB", "seed"),), regularizer="ops", is_binary=True),
    )
}


def available(method: Method) -> bool:
    """Whether this version of nasopt has everything the method needs."""
    return all(hasattr(nasopt, stage.search_class) for stage in method.stages)


def available_names(methods: Iterable[Method]) -> str:
    """Names of the available methods, for a message."""
    return ", ".join(method.name for method in methods if available(method))


def get_method(name: str) -> Method:
    """The method of that name.

    Raises:
        BenchmarkError: unknown, or not part of this version of nasopt.
    """
    usable = available_names(METHODS.values())
    if name not in METHODS:
        raise BenchmarkError(f"unknown method {name!r}: available are {usable}.{nearest(name, METHODS)}")
    if not available(METHODS[name]):
        raise BenchmarkError(f"method {name!r} is not part of this version of nasopt: available are {usable}")
    return METHODS[name]


def wrap(stage: Stage, network: nn.Module, input_shape: tuple[int, ...], regularizer: Any, epochs: int) -> SearchModel:
    """The search model of a stage of so many epochs.

    Of the branches of a supernet one is drawn per step; within half of the epochs draws turn into decisions.
    """
    settings: dict[str, Any] = {"regularizer": regularizer}
    if stage.start == "supernet":
        cooling = nasopt.schedule.exponential(1.0, 0.1, epochs / 2)
        settings |= {"paths": "sampled", "hard_softmax": True, "temperature": cooling}
    search_class = getattr(nasopt, stage.search_class)
    return cast(SearchModel, search_class(network, input_shape=input_shape, **settings))
