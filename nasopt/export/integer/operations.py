"""What calls of a network's graph make of integers: steps of the program under construction, or formulas to round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nasopt.errors import ExportError
from nasopt.export.integer.arithmetic import Array
from nasopt.export.integer.formulas import Formula, kept_in_accumulators
from nasopt.export.integer.kernels import LIMIT
from nasopt.export.integer.parts import Step, Value
from nasopt.export.integer.windows import Windows, windows_of
from nasopt.graph.execute import layer_of, run_node
from nasopt.graph.integer_roles import is_addition, is_largest, is_matrix_product, is_product, is_subtraction
from nasopt.nn.quantise import Quantise


@dataclass(frozen=True)
class Integers:
    """A value of the program on a grid; `point` made it."""

    name: str
    point: Quantise | None


@dataclass(frozen=True)
class Real:
    """Integers of accumulators: `clip(scale value, low, high)`."""

    name: str
    scale: Array
    low: float
    high: float


@dataclass
class Draft:
    """A program under construction.

    Attributes:
        network: the found network, in double precision.
        concrete: values of all nodes for one sample.
        known: what is known of the value of a node: `Integers`, `Real`, a `Formula`, ...
        values, steps: of the program.
    """

    network: Any
    concrete: Mapping[Any, Any]
    known: dict[Any, Any] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def shape(self, node: Any) -> tuple[int, ...]:
        """Of one sample; of several results the first one's."""
        value = self.concrete[node]
        return tuple(value.shape if isinstance(value, Tensor) else value[0].shape)

    def add(self, step: Step, value: Value) -> str:
        """Append a step; the name of its value."""
        self.steps.append(step)
        self.values[step.output] = value
        return step.output

    def run_on(self, node: Any, replaced: Mapping[Any, Tensor]) -> Any:
        """A node with other values in place of some that it reads."""
        with torch.no_grad():
            return run_node(self.network, node, {**self.concrete, **replaced})


def extended(draft: Draft, node: Any, given: Any, read: Any) -> Any:
    """Clipping and dropout: bounds of a formula, or a step where the value is rounded already."""
    shape = (2, *(1,) * (draft.concrete[given].dim() - 1))  # as samples: some dropouts look at dimensions
    ends = torch.tensor([-math.inf, math.inf], dtype=torch.float64).reshape(shape)
    try:
        ends = draft.run_on(node, {given: ends})
    except (RuntimeError, TypeError, ValueError):
        return None
    if ends.shape != shape or not bool((ends[0] <= ends[1]).all()):
        return None
    ends = ends.flatten()
    low, high = float(ends[0]), float(ends[1])
    if isinstance(read, (Formula, Real)):
        return replace(read, low=min(max(read.low, low), high), high=max(min(read.high, high), low))
    if not isinstance(read, Integers) or (low, high) == (-math.inf, math.inf):
        return read if isinstance(read, Integers) else None
    value = draft.values[read.name]
    if (low, high) == (0, math.inf):  # exact
        if value.low >= 0:
            return read
        step = Step("requantise", (read.name,), node.name, {"low": 0, "high": value.high}, {}, node.name)
        return Integers(draft.add(step, replace(value, low=0)), read.point)
    return Formula("requantise", (read.name,), value.shape, node.name, (np.array(value.step),), low=low, high=high)


def pooled(draft: Draft, node: Any, layer: nn.Module | None, given: Any) -> Windows | None:
    """Windows of a call; None where it is no pooling and no reduction."""
    word = type(layer).__name__ if layer is not None else str(getattr(node.target, "__name__", node.target))
    args, kwargs = pytree.tree_map(
        lambda x: draft.concrete.get(x, x) if hasattr(x, "op") else x, (node.args, node.kwargs)
    )
    run = lambda x: draft.run_on(node, {given: x})  # noqa: E731
    return windows_of(layer, word, args, dict(kwargs), draft.concrete[given], run)


def pool_step(draft: Draft, node: Any, windows: Windows) -> tuple[dict[str, Any], dict[str, Array]]:
    """Settings and arrays of its step."""
    settings = {
        "function": windows.function,
        "dims": list(windows.dims),
        "dilation": list(windows.dilation),
        "shape": list(draft.shape(node)),
    }
    arrays = {}
    for axis, (starts, ends) in enumerate(windows.ranges):
        arrays[f"start{axis}"], arrays[f"end{axis}"] = np.array(starts, np.int32), np.array(ends, np.int32)
    return settings, arrays


def written(draft: Draft, node: Any, layer: nn.Module | None, given: list[Any], read: list[Any]) -> Formula | None:
    """Sums, differences, products and averages of activations."""
    if not all(isinstance(one, Integers) for one in read):
        return None
    shape, values = draft.shape(node), [draft.values[one.name] for one in read]
    if is_addition(draft.network, node) or is_product(draft.network, node):
        both = [draft.known[one] for one in node.args]
        first, second = (draft.values[one.name].step for one in both)
        names = tuple(one.name for one in both)
        if is_product(draft.network, node):
            check_sum(node, 1, values)
            return Formula("multiply", names, shape, node.name, (np.array(first * second),))
        second = -second if is_subtraction(node) else second
        return Formula("add", names, shape, node.name, (np.array(first), np.array(second)))
    if is_matrix_product(draft.network, node):
        return matrix_product(draft, node)
    windows = pooled(draft, node, layer, given[0])
    if windows is None or windows.function != "sum":
        return None
    check_sum(node, math.prod(max(e - s for s, e in zip(*pair)) for pair in windows.ranges), values[:1])
    settings, arrays = pool_step(draft, node, windows)
    scale = values[0].step / windows.divisor.double().numpy()
    return Formula("pool", (read[0].name,), shape, node.name, (np.asarray(scale),), settings, arrays)


def check_sum(node: Any, count: int, values: Sequence[Value]) -> None:
    """Whether so many products of the largest integers of all values fit into an accumulator.

    Raises:
        ExportError: they may not.
    """
    if count * math.prod(max(one.high, -one.low) for one in values) >= LIMIT:
        terms = "numbers" if len(values) == 1 else "products"
        raise ExportError(
            f"{node.name!r}: a sum of {count} {terms} of {' by '.join(str(one.bits) for one in values)} bits may need more than "
            "32 bits: give what it reads fewer bits"
        )


def matrix_product(draft: Draft, node: Any) -> Formula:
    """A product of two matrices of activations.

    Raises:
        ExportError: a sum of products may need more than 32 bits.
    """
    names = tuple(draft.known[one].name for one in node.args)
    left, right = (draft.values[name] for name in names)
    check_sum(node, left.shape[-1], (left, right))
    return Formula("matmul", names, draft.shape(node), node.name, (np.array(left.step * right.step),))


def table(draft: Draft, node: Any, given: Any, read: Integers) -> Formula:
    """A function of one value: what it makes of every integer; one row of entries per channel where channels differ."""
    value = draft.values[read.name]
    rows = torch.arange(value.low, value.high + 1, dtype=torch.float64) * value.step
    channels = value.shape[1] if len(value.shape) > 1 else 1
    # Integers take the place of samples.
    x = rows.reshape(-1, *(1 for _ in value.shape[1:])).expand(-1, channels, *(1 for _ in value.shape[2:]))
    entries = draft.run_on(node, {given: x.contiguous()}).reshape(len(rows), channels).T
    settings: dict[str, Any] = {"first": value.low}
    if bool((entries == entries[:1]).all()):
        entries = entries[0]
    else:
        settings["channels"] = channels
    return Formula("table", (read.name,), value.shape, node.name, (), settings, entries=entries.numpy())


def moved(draft: Draft, node: Any, layer: nn.Module | None, given: list[Any], read: list[Any]) -> Any:
    """What only moves numbers, joins them, or takes the largest."""
    if isinstance(read[0], tuple):  # an item of several
        return read[0][0 if is_largest(node) else node.args[1]]
    if len(read) == 1 and isinstance(read[0], Formula) and read[0].entries is not None:
        return moved_table(draft, node, given, read[0])
    if any(isinstance(one, Formula) for one in read):
        read = [kept(draft, one) if isinstance(one, Formula) else one for one in read]
        if any(one is None for one in read):
            return None
    sums = all(isinstance(one, Real) and (one.low, one.high) == (read[0].low, read[0].high) for one in read)
    if not sums and not all(isinstance(one, Integers) for one in read):
        return None
    if any(isinstance(one, Integers) and one.point is not read[0].point for one in read):
        return None
    word = str(getattr(node.target, "__name__", node.target))
    if word in ("maximum", "minimum") or (word == "max" and len(read) == 2):
        return None if sums else extreme(draft, node, read)
    windows = pooled(draft, node, layer, given[0]) if len(read) == 1 else None
    if windows is not None:
        scale = pooled_scale(draft, node, given[0], read[0]) if isinstance(read[0], Real) else None
        if windows.function != "max" or (isinstance(read[0], Real) and scale is None):
            return None
        settings, arrays = pool_step(draft, node, windows)
        step = Step("pool", (read[0].name,), node.name, settings, arrays, node.name)
        name = draft.add(step, replace(draft.values[read[0].name], shape=draft.shape(node)))
        found = replace(read[0], name=name) if scale is None else replace(read[0], name=name, scale=scale)
        return found if isinstance(draft.concrete[node], Tensor) else (found,)  # beside the places of the largest
    return indexed(draft, node, given, read)


def pooled_scale(draft: Draft, node: Any, given: Any, read: Real) -> Array | None:
    """Scales of the largest integers; None where integers of several scales are compared."""
    scale = torch.from_numpy(np.broadcast_to(read.scale, draft.shape(given)).copy())
    largest, smallest = (draft.run_on(node, {given: sign * scale}) for sign in (1, -1))
    if not isinstance(largest, Tensor):
        largest, smallest = largest[0], smallest[0]
    return largest.numpy() if torch.equal(largest, -smallest) else None


def moved_table(draft: Draft, node: Any, given: list[Any], formula: Formula) -> Any:
    """A function of numbers that are moved is that of the integers where they are then; zeros between them are no integers."""
    if (
        formula.entries is None
        or formula.entries.ndim > 1
        or pooled(draft, node, layer_of(draft.network, node), given[0])
    ):
        return None
    found = indexed(draft, node, given, [Integers(formula.inputs[0], None)])
    parts = found if isinstance(found, tuple) else (found,)
    if found is None or any(np.any(step.arrays.get("index", 1) == 0) for step in draft.steps[-len(parts) :]):
        return None
    tables = [replace(formula, inputs=(one.name,), shape=draft.values[one.name].shape) for one in parts]
    return tuple(tables) if isinstance(found, tuple) else tables[0]


def extreme(draft: Draft, node: Any, read: list[Any]) -> Integers | None:
    """The larger or smaller of two values."""
    if len(node.args) != 2 or len(read) != len(set(node.args)):
        return None
    names = [draft.known[one].name for one in node.args]
    function = "max" if "max" in str(getattr(node.target, "__name__", node.target)) else "min"
    step = Step("extreme", tuple(names), node.name, {"function": function}, {}, node.name)
    return Integers(draft.add(step, replace(draft.values[names[0]], shape=draft.shape(node))), read[0].point)


def indexed(draft: Draft, node: Any, given: list[Any], read: list[Any]) -> Any:
    """Where every element comes from, by moving the numbers of elements; None where some number comes from elsewhere."""
    position, marks = 1, {}
    for one in given:
        count = draft.concrete[one].numel()
        marks[one] = torch.arange(position, position + count, dtype=torch.float64).reshape(draft.concrete[one].shape)
        position += count
    moved = draft.run_on(node, marks)
    others = draft.run_on(node, {one: mark + position for one, mark in marks.items()})
    parts, again = ([x] if isinstance(x, Tensor) else list(x) for x in (moved, others))
    if not all(bool(((x == 0) & (y == 0) | (y == x + position)).all()) for x, y in zip(parts, again)):
        return None
    if isinstance(moved, Tensor):
        return move(draft, node.name, moved.long(), read)
    return tuple(move(draft, f"{node.name}_{i}", part.long(), read, node.name) for i, part in enumerate(parts))


def move(draft: Draft, name: str, index: Tensor, read: list[Any], call: str = "") -> Any:
    """A step that moves elements; `call`: of which this is one of several results."""
    names = tuple(one.name for one in read)
    shape = tuple(index.shape)
    value = replace(draft.values[names[0]], shape=shape)
    value = replace(value, low=min(draft.values[n].low for n in names), high=max(draft.values[n].high for n in names))
    same = len(names) == 1 and torch.equal(index.flatten(), torch.arange(1, draft.values[names[0]].elements + 1))
    if same:
        step = Step("reshape", names, name, {"shape": list(shape)}, {}, call or name)
    else:
        step = Step("move", names, name, {}, {"index": index.numpy().astype(np.int32)}, call or name)
    draft.add(step, value)
    if isinstance(read[0], Integers):
        return Integers(name, read[0].point)
    scales = [np.broadcast_to(one.scale, draft.values[one.name].shape).reshape(-1) for one in read]
    return replace(read[0], name=name, scale=np.concatenate([[0.0], *scales])[index.numpy()])


def kept(draft: Draft, formula: Formula) -> Real | None:
    """A formula as integers of its accumulators; None where it has no single scale."""
    if formula.entries is not None or len(formula.scales) != 1:
        return None
    if formula.kind == "requantise":
        return Real(formula.inputs[0], formula.scales[0], formula.low, formula.high)
    name = f"{formula.layer.replace('.', '_')}_sum"
    step, value, scale = kept_in_accumulators(formula, name)
    taken = {one.output: one for one in draft.steps}
    while name in taken and not _is_same(taken[name], step):  # a layer may be called again
        name += "_"
    if name not in taken:
        draft.add(replace(step, output=name), value)
    return Real(name, scale, formula.low, formula.high)


def _is_same(one: Step, other: Step) -> bool:
    return (one.kind, one.inputs, one.settings) == (other.kind, other.inputs, other.settings)
