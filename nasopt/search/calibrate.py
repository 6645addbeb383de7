"""Calibration: steps of activations from data, to those of the least squared error."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils import _pytree as pytree

from nasopt.arguments import check_batches, check_count, short
from nasopt.errors import ConfigError, ExportError, RangeWarning
from nasopt.nn.quantise import HasWidths, Quantise
from nasopt.search.deciding import DecidingModel
from nasopt.search.passes import eval_mode
from nasopt.uncompiled import uncompiled

# log2 of steps that single precision holds.
_FURTHEST = 120.0
# Steps of an input that differ by this factor are of other data.
_FAR = 8.0


@torch.no_grad()
def calibrate(model: DecidingModel, batches: Iterable[Any], max_batches: int | None) -> None:
    """Run `model` in eval mode without rounding activations, and set every point's steps by what comes by.

    Raises:
        ConfigError: no batch, or values that are not finite.
    """
    check_batches("calibrate", batches)
    if max_batches is not None:
        check_count("calibrate: max_batches", max_batches, 1)
    seen = 0
    with unrounded(model.net) as points:
        with eval_mode(model):
            for batch in itertools.islice(batches, max_batches):
                model._run(_inputs(model, batch), every_branch=True)
                seen += 1
        if not seen:
            raise ConfigError("calibrate: there is no batch: pass some inputs, such as a DataLoader over training data")
        placeholders = [node for node in model.net.graph.nodes if node.op == "placeholder"]
        inputs = {str(user.target): str(node.target) for node in placeholders for user in node.users}
        for name, point in points.items():
            assert point.samples is not None
            before = float(point.step()) if bool(point.is_calibrated) and name in inputs else None
            _set(name, point, point.samples)
            if before is not None:
                _warn_of_range(inputs[name], before, float(point.step()))
    _agree(points.values())


@contextmanager
def unrounded(net: nn.Module) -> Iterator[dict[str, Quantise]]:
    """Let the points of a network pass activations on and keep samples of them; gives the points by path."""
    points = points_of(net)
    try:
        for point in points.values():
            point.samples = []
        yield points
    finally:
        for point in points.values():
            point.samples = None


def _inputs(model: DecidingModel, batch: Any) -> tuple[Any, ...]:
    count = len(model.example.traced)
    try:
        if isinstance(batch, dict):
            inputs = model.example.bind((), batch)
        else:
            inputs = model.example.bind(tuple(batch)[:count] if isinstance(batch, (tuple, list)) else (batch,), {})
    except TypeError as error:
        raise ConfigError(f"calibrate: {error}") from error
    for name, given in zip(model.example.traced, inputs):
        if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(given)):
            raise ConfigError(f"calibrate: a batch holds {short(given)} where the input {name!r} belongs, a tensor")
    return inputs


def _set(name: str, point: Quantise, samples: list[Tensor]) -> None:
    if not samples:  # in a branch that is not the likeliest: what the others show is not known of it
        return
    values = _of_all_processes(torch.cat([x.reshape(-1) for x in samples]).float())
    if not bool(torch.isfinite(values).all()):
        raise ConfigError(f"calibrate: activations of {name!r} are not finite: check the data and the weights")
    point.calibrate(values)


def _warn_of_range(name: str, before: float, now: float) -> None:
    if not 1 / _FAR < now / before < _FAR:
        warnings.warn(
            f"calibrate: the step of input {name!r} was {before:.3g} and is {now:.3g} now: give data as the network was trained "
            "on, scaled alike",
            RangeWarning,
            stacklevel=4,
        )


def _of_all_processes(values: Tensor) -> Tensor:
    """Values that all processes have seen, `(n,)`: steps are those of the whole batch."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    length = torch.tensor([len(values)], device=values.device)
    lengths = [torch.zeros_like(length) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, length)
    counts = [int(one) for one in lengths]
    padded = torch.nn.functional.pad(values, (0, max(counts) - len(values)))
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts)])


def _agree(points: Iterable[Quantise]) -> None:
    """All processes take the steps of the first one."""
    if dist.is_available() and dist.is_initialized():
        for point in points:
            dist.broadcast(point.log_steps.data, 0)
            ready = point.is_calibrated.to(torch.uint8)
            dist.broadcast(ready, 0)
            point.is_calibrated.copy_(ready.bool())


@uncompiled
def set_first_steps(model: DecidingModel, inputs: tuple[Any, ...]) -> None:
    """Calibrate with the first batch in train mode.

    Raises:
        ConfigError: in eval mode, where no batch has set steps yet.
    """
    if model._has_steps or any(p.samples is not None for p in points_of(model.net).values()):
        return
    waiting = [name for name, point in points_of(model.net).items() if not bool(point.is_calibrated)]
    if waiting and not model.training:
        raise ConfigError(
            f"the steps of {len(waiting)} activations ({waiting[0]!r} is the first) are not set, so eval mode would round to "
            "nothing: call model.calibrate(batches), or train at least one batch first"
        )
    if waiting:
        calibrate(model, [inputs], 1)
    model._has_steps = True


def check_calibrated(net: nn.Module) -> None:
    """Raise an `ExportError` where the steps of an activation are not set."""
    waiting = [name for name, point in points_of(net).items() if not bool(point.is_calibrated)]
    if waiting:
        raise ExportError(
            f"the steps of {len(waiting)} activations ({waiting[0]!r} is the first) are not set: call "
            "model.calibrate(batches), or train at least one batch first"
        )
    for path, layer in net.named_modules():
        if isinstance(layer, HasWidths):
            _check_steps(path, layer)


def _check_steps(path: str, layer: HasWidths) -> None:
    """Raise an `ExportError` where a step is 0, infinite or NaN."""
    steps = layer.log2_steps.detach()
    lost = (~(steps.abs() < _FURTHEST)).nonzero().tolist()
    if lost:
        where = f"layer {path!r}, channel {lost[0][1]}" if len(lost[0]) > 1 else f"activation {path!r}"
        value = float(steps[tuple(lost[0])])
        raise ExportError(
            f"{where}: its step is 2^{value:g}, which holds no numbers: fit it anew (model.calibrate(batches) for activations, "
            "fit_steps() of a layer), and train with a smaller rate, steps without weight decay (model.param_groups)"
        )


def points_of(net: nn.Module) -> dict[str, Quantise]:
    """All quantisation points by path."""
    return {name: layer for name, layer in net.named_modules() if isinstance(layer, Quantise)}
