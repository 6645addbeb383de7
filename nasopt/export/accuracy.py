"""Accuracy of a network and of its files on real data: one pass, all of them side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from nasopt.checked import checked
from nasopt.errors import ConfigError
from nasopt.export.batches import aligned, iterate, split_batch
from nasopt.export.compare import Runner
from nasopt.export.subject import Subject

Metric = Callable[[Any, Any], float]


@checked
def top1(outputs: Tensor, targets: Tensor) -> float:
    """Share of samples `(N, classes)`, or of their places `(N, classes, ...)`, whose largest output is the target `(N, ...)`.

    Raises:
        ConfigError: outputs or targets of other shapes.
    """
    if outputs.dim() < 2 or targets.shape != (outputs.shape[0], *outputs.shape[2:]):
        raise ConfigError(
            f"top1 takes outputs (N, classes, ...) and targets (N, ...), got {tuple(outputs.shape)} and {tuple(targets.shape)}"
        )
    return float((outputs.argmax(1) == targets).double().mean())


def metric_name(metric: Metric) -> str:
    """For reports: of a function its name, of an object that of its class."""
    return getattr(metric, "__name__", type(metric).__name__)


def accuracies(
    subject: Subject, runners: Mapping[str, Runner], data: Iterable[Any], metric: Metric, batch: int | None
) -> dict[str, float]:
    """The metric of every runner on the outputs and targets of all batches.

    Args:
        subject: the network.
        runners: by name.
        data: batches of `(x, y)`.
        metric: `(outputs, targets) -> float`: tensors of all samples; a tuple of tensors where there are several outputs;
            targets are None where batches have none.
        batch: the number of samples that files are fixed to, or None.

    Raises:
        ConfigError: no batch, a batch that does not fit, or no targets for `top1`.
    """
    outputs: dict[str, list[list[Tensor]]] = {name: [] for name in runners}
    targets: list[Any] = []
    inputs = len(subject.tensors)
    for number, item in enumerate(iterate(data, "data")):
        values, target = split_batch(item, inputs)
        tensors = aligned(values, subject, batch, f"batch {number} of data")
        targets.append(target)
        for name, run in runners.items():
            outputs[name].append(run(tensors))
    if not targets:
        raise ConfigError("data holds no batch, so no accuracy can be measured: give batches of (x, y), or no data")
    if metric is top1 and any(target is None for target in targets):
        raise ConfigError("data holds inputs without targets, so top1 cannot be measured: give batches of (x, y)")
    joined = None if targets[0] is None else torch.cat([torch.as_tensor(target).cpu() for target in targets])
    return {name: float(metric(_join(lists), joined)) for name, lists in outputs.items()}


def _join(batches: list[list[Tensor]]) -> Any:
    tensors = tuple(torch.cat(parts) for parts in zip(*batches))
    return tensors[0] if len(tensors) == 1 else tensors
