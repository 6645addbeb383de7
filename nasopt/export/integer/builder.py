"""From a found quantised network to its integer program: one walk over its graph."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nasopt.errors import ConfigError, ExportError
from nasopt.export.integer.arithmetic import Array
from nasopt.export.integer.formulas import Formula, kept, of_layer, of_norm, rounded
from nasopt.export.integer.program import Input, IntegerProgram, Output, Step, Value
from nasopt.export.integer.windows import Windows, windows_of
from nasopt.graph.edit import is_in_place
from nasopt.graph.execute import activation_nodes, layer_of, node_values, run_node
from nasopt.graph.integer_roles import BATCH_NORMS, is_addition, is_product, is_subtraction, role_of
from nasopt.nn.quantised import Quantise, QuantisedWeight
from nasopt.nn.quantised_norm import QuantBatchNorm
from nasopt.search.calibrate import check_calibrated


@dataclass(frozen=True)
class Integers:
    """A value of the program on a grid; `point` made it."""

    name: str
    point: Quantise


@dataclass(frozen=True)
class Real:
    """Integers of accumulators: `clip(scale value, low, high)`."""

    name: str
    scale: Array
    low: float
    high: float


@dataclass(frozen=True)
class Given:
    """An argument of the network that is not rounded yet."""

    position: int


@dataclass(frozen=True)
class Floats:
    """What integers cannot say: the node at which that began, why, and the nodes before it that integers can say."""

    node: str
    reason: str
    before: tuple[Any, ...] = ()


def integer_program(found: nn.Module, example: Any = None, leave_out_tail: bool = False) -> IntegerProgram:
    """What a quantised network computes, in integers: run by NumPy, saved as plain arrays, written as C.

    ```python
    program = nasopt.export.integer_program(model.arch_export())
    program(x)            # equal to the network's outputs in eval mode
    program.save("found.npz")
    ```

    In double precision, `found` in eval mode rounds to these integers at every point.

    Args:
        found: what `arch_export()` of a model with `precision=` returned; it stays as it is.
        example: inputs of one sample or several, a tensor or a tuple; needed where the network was pickled.
        leave_out_tail: end the program before calls that only floats can do (a softmax), where no integer layer stands behind them.

    Raises:
        ConfigError: nothing in `found` is quantised, or an example is needed.
        ExportError: a call in the middle of the network has no integer form, or a sum needs more than 32 bits.
    """
    export = getattr(found, "arch_export", None)
    found = export() if callable(export) else found
    if not isinstance(found, nn.Module) or not any(isinstance(m, QuantisedWeight) for m in found.modules()):
        raise ConfigError(
            "integer_program: nothing in this network is quantised: pass what arch_export() of a model with precision=... returned"
        )
    check_calibrated(found)
    network: Any = copy.deepcopy(found).cpu().double().eval()
    return _Builder(network, _one_sample(network, example), leave_out_tail).run()


def _one_sample(network: Any, example: Any) -> list[Any]:
    """Inputs of the graph, a batch of one."""
    nodes = [node for node in network.graph.nodes if node.op == "placeholder"]
    if example is None:
        values = [node.meta.get("value", node.args[0] if node.args else None) for node in nodes]
        if any(value is None and not node.args for value, node in zip(values, nodes)):
            raise ConfigError(
                "integer_program: this network does not remember the shape of its inputs: pass example=, a tensor or a tuple"
            )
    else:
        values = list(example) if isinstance(example, (tuple, list)) else [example]
        values += [node.args[0] for node in nodes[len(values) :] if node.args]
    return [
        torch.zeros(1, *value.shape[1:], dtype=torch.float64 if value.is_floating_point() else value.dtype)
        if isinstance(value, Tensor) and value.dim()
        else value
        for value in values
    ]


class _Builder:
    def __init__(self, network: Any, inputs: list[Any], leave_out_tail: bool) -> None:
        self.network, self.leave_out_tail = network, leave_out_tail
        self.nodes = list(network.graph.nodes)
        self.concrete = node_values(network, inputs)
        self.twice = node_values(network, [torch.cat([x, x]) if isinstance(x, Tensor) and x.dim() else x for x in inputs])
        for node in self.nodes:
            node.meta["value"] = self.concrete[node]
        self.activations = activation_nodes(network)
        self.env: dict[Any, Any] = {}
        self.inputs: list[Input] = []
        self.values: dict[str, Value] = {}
        self.steps: list[Step] = []
        self.left_out: list[str] = []

    def run(self) -> IntegerProgram:
        arguments = [node.name for node in self.nodes if node.op == "placeholder"]
        for node in self.nodes:
            if node.op == "placeholder":
                self.env[node] = Given(arguments.index(node.name))
            elif node in self.activations:
                self.env[node] = self._visit(node)
                if is_in_place(node):
                    self.env[node.all_input_nodes[0]] = self.env[node]
        outputs, structure = self._outputs(self.nodes[-1])
        steps = _needed(self.steps, [name for output in outputs for name, _ in output.terms])
        used = {name for step in steps for name in (*step.inputs, step.output)} | {
            name for output in outputs for name, _ in output.terms
        }
        return IntegerProgram(
            tuple(one for one in self.inputs if one.value in used),
            {name: value for name, value in self.values.items() if name in used},
            tuple(steps),
            tuple(outputs),
            structure,
            tuple(arguments),
            tuple(self.left_out),
        )

    # --- one node

    def _visit(self, node: Any) -> Any:
        layer = layer_of(self.network, node)
        given = [one for one in node.all_input_nodes if one in self.activations]
        read = [self.env[one] for one in given]
        if isinstance(layer, Quantise):
            return self._point(node, layer, read[0])
        broken = next((one for one in read if isinstance(one, Floats)), None)
        if broken is not None:
            if isinstance(layer, (QuantisedWeight, QuantBatchNorm)):
                raise ExportError(self._island(broken))
            return self._floats(node, given, broken.node, broken.reason)
        if isinstance(layer, QuantisedWeight) and layer.source is not None and isinstance(read[0], Integers):
            assert layer.source is read[0].point
            value = self.values[read[0].name]
            return of_layer(layer, (read[0].name,), value, self._shape(node), str(node.target))
        if isinstance(layer, QuantBatchNorm) and layer.layer is not None and isinstance(read[0], Formula):
            return read[0]  # taken into the layer already
        if isinstance(layer, QuantBatchNorm) and layer.source is not None and isinstance(read[0], Integers):
            return of_norm(layer, (read[0].name,), self.values[read[0].name], self._shape(node), str(node.target))
        role = role_of(self.network, node, self.activations)
        found = None
        if role == "extends" and len(read) == 1:
            found = self._extended(node, given[0], read[0])
        elif role in ("passes", "joins"):
            found = self._moved(node, layer, given, read)
        elif role == "writes" and not isinstance(layer, (QuantisedWeight, *BATCH_NORMS)):
            found = self._written(node, layer, given, read)
        elif role == "table" and isinstance(read[0], Integers):
            found = self._table(node, given[0], read[0])
        if found is not None:
            return found
        what = type(layer).__name__ if layer is not None else getattr(node.target, "__name__", node.target)
        reason = f"{what} has no integer form" if role == "float" else "it reads what is not rounded"
        return self._floats(node, given, node.name, reason)

    def _floats(self, node: Any, given: list[Any], first: str, reason: str) -> Floats:
        """A call of the tail, if no integer layer stands behind it."""
        self.left_out.append(node.name)
        before: dict[Any, None] = {}
        for one in given:
            known = self.env[one]
            before.update(dict.fromkeys(known.before if isinstance(known, Floats) else (one,)))
        return Floats(first, reason, tuple(before))

    def _island(self, broken: Floats) -> str:
        return (
            f"{broken.node!r} is computed in floats in the middle of the network ({broken.reason}), so there is no integer "
            "program of it: put a layer with an integer form there, give it 2 to 16 bits where 32 were asked for, or cut the "
            "network in two. explain() lists what has one"
        )

    def _shape(self, node: Any) -> tuple[int, ...]:
        return tuple(self.concrete[node].shape)

    def _add(self, step: Step, value: Value) -> str:
        self.steps.append(step)
        self.values[step.output] = value
        return step.output

    def _grid(self, point: Quantise, shape: tuple[int, ...]) -> Value:
        low, high = point.range(len(point.widths) - 1)
        return Value(shape, point.bits, low, high, float(point.step().detach()))

    def _point(self, node: Any, point: Quantise, read: Any) -> Any:
        grid = self._grid(point, self._shape(node))
        if isinstance(read, Given):
            name = next(one.name for one in self.nodes if one.op == "placeholder" and self.env.get(one) == read)
            self.inputs.append(Input(name, read.position, node.name))
            self.values[node.name] = grid
            return Integers(node.name, point)
        if isinstance(read, Integers):
            if read.point is point:
                return read
            step = self.values[read.name].step
            read = Formula("requantise", (read.name,), grid.shape, node.name, (np.array(step),))
        if isinstance(read, Formula):
            return Integers(self._add(rounded(read, node.name, grid), grid), point)
        broken = read if isinstance(read, Floats) else Floats(node.name, "what it rounds is no sum of integers")
        raise ExportError(self._island(broken))

    # --- kinds of nodes

    def _run_on(self, node: Any, **replaced: Any) -> Any:
        """The node with another value in place of its activations."""
        values = {**self.concrete, **replaced["values"]}
        with torch.no_grad():
            return run_node(self.network, node, values)

    def _extended(self, node: Any, given: Any, read: Any) -> Any:
        ends = torch.tensor([-math.inf, math.inf], dtype=torch.float64)
        try:
            ends = self._run_on(node, values={given: ends})
        except (RuntimeError, TypeError, ValueError):
            return None
        if ends.shape != (2,) or not bool(ends[0] <= ends[1]):
            return None
        low, high = float(ends[0]), float(ends[1])
        if isinstance(read, (Formula, Real)):
            return replace(read, low=min(max(read.low, low), high), high=max(min(read.high, high), low))
        if not isinstance(read, Integers) or (low, high) == (-math.inf, math.inf):
            return read if isinstance(read, Integers) else None
        value = self.values[read.name]
        if (low, high) == (0, math.inf):  # exact
            if value.low >= 0:
                return read
            step = Step("requantise", (read.name,), node.name, {"low": 0, "high": value.high}, {}, node.name)
            return Integers(self._add(step, replace(value, low=0)), read.point)
        return Formula("requantise", (read.name,), value.shape, node.name, (np.array(value.step),), low=low, high=high)

    def _pooled(self, node: Any, layer: nn.Module | None, given: Any) -> Windows | None:
        word = type(layer).__name__ if layer is not None else str(getattr(node.target, "__name__", node.target))
        args, kwargs = pytree.tree_map(lambda x: self.concrete.get(x, x) if hasattr(x, "op") else x, (node.args, node.kwargs))
        run = lambda x: self._run_on(node, values={given: x})  # noqa: E731
        return windows_of(layer, word, args, dict(kwargs), self.concrete[given], run)

    def _pool_step(self, node: Any, windows: Windows) -> tuple[dict[str, Any], dict[str, Array]]:
        settings = {
            "function": windows.function,
            "dims": list(windows.dims),
            "dilation": list(windows.dilation),
            "shape": list(self._shape(node)),
        }
        arrays = {}
        for axis, (starts, ends) in enumerate(windows.ranges):
            arrays[f"start{axis}"], arrays[f"end{axis}"] = np.array(starts, np.int32), np.array(ends, np.int32)
        return settings, arrays

    def _written(self, node: Any, layer: nn.Module | None, given: list[Any], read: list[Any]) -> Formula | None:
        if not all(isinstance(one, Integers) for one in read):
            return None
        shape, values = self._shape(node), [self.values[one.name] for one in read]
        if is_addition(self.network, node) or is_product(self.network, node):
            both = [self.env[one] for one in node.args]
            first, second = (self.values[one.name].step for one in both)
            names = tuple(one.name for one in both)
            if is_product(self.network, node):
                return Formula("multiply", names, shape, node.name, (np.array(first * second),))
            second = -second if is_subtraction(self.network, node) else second
            return Formula("add", names, shape, node.name, (np.array(first), np.array(second)))
        windows = self._pooled(node, layer, given[0])
        if windows is None or windows.function != "sum":
            return None
        settings, arrays = self._pool_step(node, windows)
        scale = values[0].step / windows.divisor.double().numpy()
        return Formula("pool", (read[0].name,), shape, node.name, (np.asarray(scale),), settings, arrays)

    def _table(self, node: Any, given: Any, read: Integers) -> Formula:
        value = self.values[read.name]
        x = torch.arange(value.low, value.high + 1, dtype=torch.float64) * value.step
        entries = self._run_on(node, values={given: x}).numpy()
        settings = {"first": value.low}
        return Formula("table", (read.name,), value.shape, node.name, (), settings, entries=entries)

    def _moved(self, node: Any, layer: nn.Module | None, given: list[Any], read: list[Any]) -> Any:
        if isinstance(read[0], tuple):  # an item of several
            return read[0][node.args[1]]
        if any(isinstance(one, Formula) for one in read):
            read = [self._kept(one) if isinstance(one, Formula) else one for one in read]
            if any(one is None for one in read):
                return None
        if len(read) == 1 and isinstance(read[0], Given):
            return None
        if not all(isinstance(one, Integers) for one in read) and not (len(read) == 1 and isinstance(read[0], Real)):
            return None
        if any(isinstance(one, Integers) and one.point is not read[0].point for one in read):
            return None
        if str(getattr(node.target, "__name__", node.target)) in ("maximum", "minimum"):
            return self._extreme(node, read)
        windows = self._pooled(node, layer, given[0]) if len(read) == 1 else None
        if windows is not None:
            if windows.function != "max" or not isinstance(read[0], Integers):
                return None
            settings, arrays = self._pool_step(node, windows)
            step = Step("pool", (read[0].name,), node.name, settings, arrays, node.name)
            return Integers(self._add(step, replace(self.values[read[0].name], shape=self._shape(node))), read[0].point)
        return self._indexed(node, given, read)

    def _extreme(self, node: Any, read: list[Any]) -> Integers | None:
        names = [self.env[one].name for one in node.args if one in self.activations]
        if len(names) != 2:
            return None
        function = "max" if "max" in str(getattr(node.target, "__name__", node.target)) else "min"
        step = Step("extreme", tuple(names), node.name, {"function": function}, {}, node.name)
        return Integers(self._add(step, replace(self.values[names[0]], shape=self._shape(node))), read[0].point)

    def _indexed(self, node: Any, given: list[Any], read: list[Any]) -> Any:
        """Where every element comes from, by moving the numbers of elements."""
        position, marks = 1, {}
        for one in given:
            count = self.concrete[one].numel()
            marks[one] = torch.arange(position, position + count, dtype=torch.float64).reshape(self.concrete[one].shape)
            position += count
        moved = self._run_on(node, values=marks)
        if isinstance(moved, Tensor):
            return self._move(node.name, moved.long(), read)
        return tuple(self._move(f"{node.name}_{i}", part.long(), read) for i, part in enumerate(moved))

    def _move(self, name: str, index: Tensor, read: list[Any]) -> Any:
        names = tuple(one.name for one in read)
        shape = tuple(index.shape)
        value = replace(self.values[names[0]], shape=shape)
        value = replace(value, low=min(self.values[n].low for n in names), high=max(self.values[n].high for n in names))
        same = len(names) == 1 and torch.equal(index.flatten(), torch.arange(1, self.values[names[0]].elements + 1))
        if same:
            step = Step("reshape", names, name, {"shape": list(shape)}, {}, name)
        else:
            step = Step("move", names, name, {}, {"index": index.numpy().astype(np.int32)}, name)
        old_shape = self.values[names[0]].shape
        self._add(step, value)
        if isinstance(read[0], Integers):
            return Integers(name, read[0].point)
        scale = np.broadcast_to(read[0].scale, old_shape).reshape(-1)
        return replace(read[0], name=name, scale=np.concatenate([[0.0], scale])[index.numpy()])

    # --- outputs

    def _kept(self, formula: Formula) -> Real | None:
        """A formula as integers of its accumulators; None where it has no single scale."""
        if formula.entries is not None or len(formula.scales) != 1:
            return None
        if formula.kind == "requantise":
            return Real(formula.inputs[0], formula.scales[0], formula.low, formula.high)
        name = f"{formula.layer.replace('.', '_')}_sum"
        if name not in self.values:
            step, value, scale = kept(formula, name)
            self._add(step, value)
            formula = replace(formula, scales=(scale,))
        return Real(name, formula.scales[0], formula.low, formula.high)

    def _outputs(self, node: Any) -> tuple[list[Output], Any]:
        outputs: list[Output] = []
        made: dict[Any, int] = {}

        def visit(value: Any) -> Any:
            if isinstance(value, (tuple, list)):
                return [visit(one) for one in value]
            if isinstance(value, dict):
                return {str(key): visit(one) for key, one in value.items()}
            if value is None:
                return None
            if value not in self.activations:
                raise ExportError(f"the network returns {value}, which is no activation: integer programs return tensors only")
            if isinstance(self.env[value], Floats):
                before = self._tail(self.env[value])
                return visit(before[0] if len(before) == 1 else list(before))
            if value not in made:
                made[value] = len(outputs)
                outputs.append(self._output(value))
            return made[value]

        structure = visit(node.args[0])
        return outputs, structure

    def _tail(self, broken: Floats) -> tuple[Any, ...]:
        """What integers know before a tail of floats."""
        if not self.leave_out_tail:
            raise ExportError(
                f"{broken.node!r} is computed in floats ({broken.reason}). No integer layer stands behind it: "
                "integer_program(found, leave_out_tail=True) ends before it, and you compute the rest in floats"
            )
        return broken.before

    def _output(self, node: Any) -> Output:
        found = self.env[node]
        if isinstance(found, Given):
            raise ExportError(f"output {node.name!r} is an input as it was given: no integer layer is on the way")
        shape, batch_dim = self._shape(node), _batch_dim(self.concrete[node], self.twice[node])
        if isinstance(found, tuple):
            raise ExportError(f"{node.name!r} is several tensors: return them one by one")
        if isinstance(found, Integers):
            return Output(((found.name, np.array(self.values[found.name].step)),), shape, batch_dim=batch_dim)
        if isinstance(found, Formula) and found.entries is not None:
            entries = np.clip(found.entries, found.low, found.high)
            return Output(((found.inputs[0], np.array(1.0)),), shape, table=entries, first=found.settings["first"], batch_dim=batch_dim)
        if isinstance(found, Formula):
            real = self._kept(found)
            if real is None:
                terms = tuple(zip(found.inputs, found.scales))
                return Output(terms, shape, found.low, found.high, batch_dim=batch_dim)
            found = real
        return Output(((found.name, found.scale),), shape, found.low, found.high, batch_dim=batch_dim)


def _batch_dim(one: Tensor, two: Tensor) -> int:
    """Where samples lie: the dimension that grows with their number."""
    grown = [dim for dim, (a, b) in enumerate(zip(one.shape, two.shape)) if a != b]
    return grown[0] if grown else 0


def _needed(steps: Sequence[Step], names: Sequence[str]) -> list[Step]:
    """Steps without those whose results nobody reads."""
    wanted, found = set(names), []
    for step in reversed(steps):
        if step.output in wanted:
            wanted |= set(step.inputs)
            found.append(step)
    return found[::-1]
