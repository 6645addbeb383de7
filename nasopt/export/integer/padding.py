"""Padding and cropping over space as part of the convolutions that read them: no memory for a padded value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from nasopt.export.integer.arithmetic import Array
from nasopt.export.integer.parts import Step, Value


def fuse_padding(steps: Sequence[Step], values: Mapping[str, Value], kept: Sequence[str]) -> list[Step]:
    """Steps without moves that only put zeros around space, or cut it, for convolutions alone; these read what was moved.

    Args:
        steps: in order.
        values: of the program.
        kept: values that are needed for something else.
    """
    found = {step.output: step for step in steps}
    for move in reversed(steps):  # what is cut from a padded value first: both together are one padding
        around = _around(move, values) if move.kind == "move" and move.output not in kept else None
        readers = [step for step in found.values() if move.output in step.inputs]
        if around is None or not readers or not all(_takes(step, around) for step in readers):
            continue
        del found[move.output]
        for step in readers:
            before = [own + more for own, (more, _) in zip(step.settings["before"], around)]
            after = [own + more for own, (_, more) in zip(step.settings["after"], around)]
            settings = {**step.settings, "before": before, "after": after}
            found[step.output] = replace(step, inputs=move.inputs, settings=settings)
    return list(found.values())


def _takes(step: Step, around: Sequence[tuple[int, int]]) -> bool:
    """Whether a step is a convolution that does not put zeros where something is cut."""
    if step.kind != "accumulate" or step.settings["kind"] != "conv":
        return False
    own = zip(step.settings["before"], step.settings["after"])
    return all(min(more) >= 0 or not any(padding) for padding, more in zip(own, around))


def _around(move: Step, values: Mapping[str, Value]) -> list[tuple[int, int]] | None:
    """Zeros (negative: elements that are cut) before and after each dimension of space; None of any other move."""
    index, shape = move.arrays["index"], values[move.inputs[0]].shape
    if len(move.inputs) != 1 or index.ndim != len(shape) or index.ndim < 3 or index.shape[:2] != shape[:2]:
        return None
    inside = np.argwhere(index > 0)
    if not len(inside):
        return None
    first = inside[0]
    source = np.unravel_index(int(index[tuple(first)]) - 1, shape)
    before = [int(out - at) for out, at in zip(first[2:], source[2:])]
    after = [out - size - b for out, size, b in zip(index.shape[2:], shape[2:], before)]
    around = list(zip(before, after))
    numbers = np.arange(1, int(np.prod(shape)) + 1).reshape(shape)
    return around if np.array_equal(padded(numbers, around), index) else None


def padded(x: Array, around: Sequence[tuple[int, int]]) -> Array:
    """Zeros around the last dimensions, or fewer elements where a number is negative."""
    lead = x.ndim - len(around)
    x = np.pad(x, [(0, 0)] * lead + [(max(b, 0), max(a, 0)) for b, a in around])
    cut = tuple(slice(max(-b, 0), n - max(-a, 0)) for n, (b, a) in zip(x.shape[lead:], around))
    return x[(slice(None),) * lead + cut]
