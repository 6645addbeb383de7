"""Programs over integers: steps over arrays, run by NumPy."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nasopt.errors import ConfigError, RangeWarning
from nasopt.export.integer.arithmetic import NUDGE, Array
from nasopt.export.integer.kernels import KERNELS
from nasopt.export.integer.parts import Input, Output, Step, Value


@dataclass(frozen=True)
class Program:
    """What a quantised network computes, in integers.

    Attributes:
        inputs, values_by_name, steps, outputs: what happens, in order.
        structure: of what the network returns: nested lists and dicts of numbers of outputs.
        arguments: names of the arguments of the network's `forward`.
        left_out: names of calls behind the last integer that are not part of it.
    """

    inputs: tuple[Input, ...]
    values_by_name: Mapping[str, Value]
    steps: tuple[Step, ...]
    outputs: tuple[Output, ...]
    structure: Any
    arguments: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    def __call__(self, *inputs: Any, raw: bool = False) -> Any:
        """Outputs as the network structures them: NumPy arrays of any number of samples.

        Args:
            inputs: arrays or tensors, samples along their first dimension.
            raw: integers, int64, in place of real numbers; several where an output is a sum of values on several grids.

        Raises:
            ConfigError: inputs of another number or shape, or not finite.
        """
        values = self.values(*inputs)
        found = [_integers(output, values) if raw else _real(output, values) for output in self.outputs]
        return _structured(self.structure, found)

    def values(self, *inputs: Any) -> dict[str, Array]:
        """Integers of every value by name, `(samples, *shape of one sample)`, int64.

        Raises:
            ConfigError: as of a call.
        """
        if len(inputs) != len(self.arguments):
            raise ConfigError(
                f"the program takes {len(self.arguments)} inputs ({', '.join(self.arguments)}), got {len(inputs)}"
            )
        found = {one.value: self._rounded(one, inputs[one.position]) for one in self.inputs}
        for step in self.steps:
            found[step.output] = KERNELS[step.kind](step, *(found[name] for name in step.inputs))
        return found

    def _rounded(self, given: Input, x: Any) -> Array:
        value = self.values_by_name[given.value]
        array = np.asarray(x.detach().cpu().numpy() if hasattr(x, "detach") else x, np.float64)
        if array.shape[1:] != value.shape[1:] or not array.ndim or array.shape[0] % (value.shape[0] or 1):
            raise ConfigError(
                f"input {given.name!r} has shape {array.shape}: give (samples, {', '.join(map(str, value.shape[1:]))})"
            )
        if not np.isfinite(array).all():
            raise ConfigError(f"input {given.name!r} is not finite everywhere")
        levels = array / value.step
        _warn_of_range(given.name, levels, value)
        levels = np.clip(levels, value.low, value.high)
        return np.floor(levels + (0.5 + NUDGE)).astype(np.int64).reshape(-1, *value.shape)

    def __str__(self) -> str:
        lines = []
        for one in self.inputs:
            lines.append(f"{one.value}: {_described(self.values_by_name[one.value])} = input {one.name}")
        for step in self.steps:
            value = self.values_by_name[step.output]
            lines.append(f"{step.output}: {_described(value)} = {step.kind}({', '.join(step.inputs)})")
        return "\n".join(
            lines + [f"output {i}: {', '.join(n for n, _ in o.terms)}" for i, o in enumerate(self.outputs)]
        )


def _described(value: Value) -> str:
    return f"{'x'.join(map(str, value.shape[1:] or value.shape))} of {value.bits} bits"


def _warn_of_range(name: str, levels: Array, value: Value) -> None:
    """Where a quarter of the numbers or more lie far outside of a grid, or all of them next to its zero."""
    largest = np.abs(levels).max(initial=0)
    outside = float(np.mean((levels < value.low - 1) | (levels > value.high + 1))) if levels.size else 0.0
    is_small = 0 < largest <= 2 and value.high > 50
    if is_small or (outside > 0.25 and largest > 2 * value.high):
        low, high = value.low * value.step, value.high * value.step
        warnings.warn(
            f"input {name!r} holds numbers up to {largest * value.step:.3g} in size, its grid goes from {low:.3g} to {high:.3g}: "
            "give data as the network was trained on, scaled alike",
            RangeWarning,
            stacklevel=5,
        )


def _integers(output: Output, values: Mapping[str, Array]) -> Any:
    found = [_samples(values[name], output) for name, _ in output.terms]
    return found[0] if len(found) == 1 else tuple(found)


def _real(output: Output, values: Mapping[str, Array]) -> Array:
    if output.table is not None:
        places = values[output.terms[0][0]] - output.first
        if output.table.ndim == 2:  # one row per channel, behind samples and the batch of one
            rows = np.arange(len(output.table)).reshape(-1, *[1] * (places.ndim - 3))
            return _samples(output.table[rows, places], output)
        return _samples(output.table[places], output)
    total: Any = 0.0
    for name, scale in output.terms:
        value = values[name]
        missing = len(output.shape) + 1 - value.ndim
        total = total + value.reshape(len(value), *[1] * missing, *value.shape[1:]) * scale
    return _samples(np.clip(total, output.low, output.high), output)


def _samples(value: Array, output: Output) -> Array:
    """Samples along the dimension where the network has them."""
    rank = value.ndim - 1
    if not rank:
        return value
    dim = min(output.batch_dim, rank - 1)
    moved = np.moveaxis(value, 0, dim)
    return moved.reshape(*moved.shape[:dim], -1, *moved.shape[dim + 2 :])


def _structured(structure: Any, found: Sequence[Any]) -> Any:
    if isinstance(structure, Mapping):
        return {key: _structured(one, found) for key, one in structure.items()}
    if isinstance(structure, (list, tuple)):
        return tuple(_structured(one, found) for one in structure)
    return None if structure is None else found[structure]
