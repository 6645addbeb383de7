"""Batches of a loader: inputs, alone or with targets, in the order of the network's inputs."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nasopt.errors import ConfigError
from nasopt.export.subject import Subject, to_plain


def required_inputs(network: nn.Module) -> int:
    """Number of inputs that `forward` cannot do without; at least 1."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(network.forward).parameters.values()
    return max(1, sum(p.kind in kinds and p.default is p.empty for p in parameters))


def split_batch(batch: Any, inputs: int) -> tuple[Any, Any]:
    """`(inputs, target)` of a batch; the target is None where there is none.

    A batch is `x` or `(x, y)`; of a network with several inputs `(a, b)`, `(a, b, y)`, `((a, b), y)` or a dict.

    Raises:
        ConfigError: it is nothing of that sort.
    """
    if isinstance(batch, Mapping):
        return dict(batch), None
    if not isinstance(batch, (tuple, list)):
        return _tensor(batch), None
    if batch and isinstance(batch[0], (tuple, list, Mapping)):
        given = batch[0]
        values = dict(given) if isinstance(given, Mapping) else tuple(_tensor(x) for x in given)
        return values, batch[1] if len(batch) > 1 else None
    if not inputs <= len(batch) <= inputs + 1:
        raise ConfigError(
            f"a batch holds {len(batch)} values, the network takes {inputs} input(s): give x or (x, y), of several inputs "
            "((a, b), y)"
        )
    values = tuple(_tensor(x) for x in batch[:inputs])
    return values[0] if inputs == 1 else values, batch[inputs] if len(batch) > inputs else None


def _tensor(value: Any) -> Tensor:
    try:
        return to_plain(torch.as_tensor(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"a batch holds a {type(value).__name__}, which is no tensor: give x or (x, y)") from error


def aligned(values: Any, subject: Subject, batch: int | None, where: str) -> list[Tensor]:
    """Tensors of a batch's inputs in the order of the file's.

    Args:
        values: as `split_batch` gives them.
        subject: whose example tells shapes and types.
        batch: the number of samples that the file is fixed to, or None.
        where: for messages.

    Raises:
        ConfigError: another number of inputs, another shape, no sample, another number of samples than the file takes.
    """
    if isinstance(values, Mapping):
        names = list(inspect.signature(subject.network.forward).parameters)
        values = [values[name] for name in names if name in values]
    tensors = [to_plain(torch.as_tensor(x)) for x in (values if isinstance(values, (tuple, list)) else [values])]
    wanted = subject.tensors
    if [x.shape[1:] for x in tensors] != [x.shape[1:] for x in wanted]:
        shapes = [", ".join(str(tuple(x.shape[1:])) for x in side) for side in (tensors, wanted)]
        raise ConfigError(f"{where}: samples have shape {shapes[0]}, the example's have {shapes[1]}")
    if any(len(x) == 0 for x in tensors if x.dim()):
        raise ConfigError(f"{where} holds no sample")
    if batch is not None and len(tensors[0]) != batch:
        raise ConfigError(
            f"{where} has {len(tensors[0])} samples, but the network's forward fixes the batch at {batch}: give batches of "
            f"{batch} (drop_last=True)"
        )
    return [x.to(example.dtype) for x, example in zip(tensors, wanted)]


def first_and_all(calibration: Any, max_batches: int | None) -> tuple[Any, Iterator[Any]]:
    """`(first batch, iterator over all that may be looked at, the first included)` of a calibration set.

    Raises:
        ConfigError: there is no batch, or it is no iterable of batches.
    """
    if max_batches is not None and max_batches < 1:
        raise ConfigError(f"max_batches is {max_batches}: at least one batch must set the ranges")
    batches = itertools.islice(iterate(calibration, "calibration"), max_batches)
    first = next(batches, None)
    if first is None:
        raise ConfigError(
            "calibration holds no batch, so the ranges of activations are unknown: give a few hundred real samples"
        )
    return first, itertools.chain([first], batches)


def calibration_tensors(subject: Subject, batches: Iterable[Any], batch: int | None) -> Iterator[list[Tensor]]:
    """Tensors of the network's inputs, batch by batch.

    Raises:
        ConfigError: a batch does not fit, or holds values that are not finite.
    """
    for number, item in enumerate(batches):
        where = f"calibration batch {number}"
        tensors = aligned(split_batch(item, len(subject.tensors))[0], subject, batch, where)
        if not all(bool(torch.isfinite(x).all()) for x in tensors):
            raise ConfigError(f"{where} holds values that are not finite: they would set the ranges of activations")
        yield tensors


def iterate(batches: Any, what: str) -> Iterator[Any]:
    """An iterator over batches.

    Raises:
        ConfigError: it cannot be iterated, or is one tensor rather than batches of them.
    """
    if isinstance(batches, (Tensor, str, Mapping)) or not isinstance(batches, Iterable):
        raise ConfigError(f"{what} is a {type(batches).__name__}: give an iterable of batches, x or (x, y)")
    return iter(batches)
