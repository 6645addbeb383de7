"""From a found quantised network to its integer program: one walk over its graph."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nasopt.checked import checked
from nasopt.errors import ConfigError, ExportError
from nasopt.export.integer.formulas import Formula, of_layer, of_norm, rounded
from nasopt.export.integer.operations import Draft, Integers, extended, kept, moved, table, written
from nasopt.export.integer.outputs import contents, output_of
from nasopt.export.integer.padding import fuse_padding
from nasopt.export.integer.parts import Input, Output, Step, Value
from nasopt.export.integer.program import IntegerProgram
from nasopt.export.integer.samples import computed, mixed_samples, one_sample
from nasopt.graph.activation_nodes import activation_nodes, activations_in, values_read
from nasopt.graph.edit import is_in_place
from nasopt.graph.execute import layer_of
from nasopt.graph.float_reasons import float_reader, why_floats
from nasopt.graph.integer_roles import BATCH_NORMS, QUANTISED, role_of
from nasopt.graph.sharing import sharing
from nasopt.nn.quantise import Quantise
from nasopt.nn.quantised import QuantisedWeight
from nasopt.nn.quantised_norm import QuantBatchNorm
from nasopt.nn.weight_quantizers import check_integers
from nasopt.search.calibrate import check_calibrated


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


@checked
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
        leave_out_tail: end the program before calls that only floats can do, such as a softmax, where no integer layer
            stands behind them.

    Raises:
        ConfigError: nothing in `found` is quantised, or an example is needed.
        ExportError: a call in the middle of the network or a quantizer has no integer form, or a sum needs more than 32 bits.
    """
    export = getattr(found, "arch_export", None)
    found = export() if callable(export) else found
    if not isinstance(found, nn.Module) or not any(isinstance(m, QuantisedWeight) for m in found.modules()):
        raise ConfigError(
            "integer_program: nothing in this network is quantised: pass what arch_export() of a model with precision=... "
            "returned"
        )
    check_calibrated(found)
    for name, layer in found.named_modules():
        if isinstance(layer, QuantisedWeight):
            check_integers(layer.quantizer, name)
    network: Any = copy.deepcopy(found).cpu().double().eval()
    return _Builder(network, one_sample(network, example), leave_out_tail).run()


class _Builder:
    def __init__(self, network: Any, inputs: list[Any], leave_out_tail: bool) -> None:
        self.network, self.leave_out_tail = network, leave_out_tail
        self.nodes = list(network.graph.nodes)
        self.draft = Draft(network, computed(network, inputs))
        self.twice = computed(network, [torch.cat([x, x]) if isinstance(x, Tensor) and x.dim() else x for x in inputs])
        for node in self.nodes:
            node.meta["value"] = self.draft.concrete[node]
        self.activations = activation_nodes(network)
        self.place = {node: i for i, node in enumerate(self.nodes)}
        self.mixed = mixed_samples(network, inputs, self.draft.concrete)
        self.inputs: list[Input] = []
        self.left_out: list[str] = []

    def run(self) -> IntegerProgram:
        arguments = [str(node.target) for node in self.nodes if node.op == "placeholder"]
        for node in self.nodes:
            if node.op == "placeholder":
                self.draft.known[node] = Given(arguments.index(str(node.target)))
            elif node in self.activations and contents(node) is None:
                found = self.draft.known[node] = self._visit(node)
                if isinstance(found, Formula) and any(user.op == "output" for user in node.users):
                    kept(self.draft, found)  # now: later, what it reads would have to stay until then
            if is_in_place(node):
                self._after_writing(node)
        outputs, structure = self._outputs(self.nodes[-1])
        ends = [name for output in outputs for name, _ in output.terms]
        steps = fuse_padding(_needed(self.draft.steps, ends), self.draft.values, ends)
        used = {name for step in steps for name in (*step.inputs, step.output)} | {
            name for output in outputs for name, _ in output.terms
        }
        return IntegerProgram(
            tuple(one for one in self.inputs if one.value in used),
            {name: value for name, value in self.draft.values.items() if name in used},
            tuple(steps),
            tuple(outputs),
            structure,
            tuple(arguments),
            tuple(self.left_out),
        )

    # --- one node

    def _after_writing(self, node: Any) -> None:
        """What is written in place has its new values under its first name, too."""
        first = node.args[0] if node.args else None
        if first not in self.activations:
            return
        others = [one for one in sharing(self.network, first, node) if one is not None and one is not first]
        read_later = {user for one in others for user in one.users if self.place[user] > self.place[node]}
        if node not in self.activations or any(user not in others for user in read_later):
            reason = "it writes into a part of a tensor, or into one that is read under another name"
            raise ExportError(self._island(Floats(node.name, reason)))
        self.draft.known[first] = self.draft.known[node]

    def _visit(self, node: Any) -> Any:
        layer = layer_of(self.network, node)
        given = activations_in(node, self.activations)
        read = [self.draft.known[one] for one in given]
        if not read:
            reason = "it makes a tensor, in which something is written"
            if values_read(node):
                reason = why_floats(self.network, node, self.activations)
            return self._floats(node, given, node.name, reason)
        if isinstance(layer, Quantise):
            return self._point(node, layer, read[0])
        broken = next((one for one in read if isinstance(one, Floats)), None)
        if broken is not None:
            if isinstance(layer, (QuantisedWeight, QuantBatchNorm)):
                raise ExportError(self._island(broken))
            return self._floats(node, given, broken.node, broken.reason)
        if isinstance(layer, QuantisedWeight) and layer.source is not None and isinstance(read[0], Integers):
            assert layer.source is read[0].point
            value = self.draft.values[read[0].name]
            return of_layer(layer, (read[0].name,), value, self.draft.shape(node), str(node.target))
        if isinstance(layer, QuantBatchNorm) and layer.layer is not None and isinstance(read[0], Formula):
            return read[0]  # taken into the layer already
        if isinstance(layer, QuantBatchNorm) and layer.source is not None and isinstance(read[0], Integers):
            return of_norm(
                layer, (read[0].name,), self.draft.values[read[0].name], self.draft.shape(node), str(node.target)
            )
        if node in self.mixed:
            return self._floats(node, given, node.name, "it reads other samples of the batch")
        role = role_of(self.network, node, self.activations)
        found = None
        if role == "extends" and len(read) == 1:
            found = extended(self.draft, node, given[0], read[0])
        elif role in ("passes", "joins"):
            found = moved(self.draft, node, layer, given, read)
        elif role == "writes" and not isinstance(layer, (QuantisedWeight, *BATCH_NORMS)):
            found = written(self.draft, node, layer, given, read)
        elif role == "table" and isinstance(read[0], Integers):
            found = table(self.draft, node, given[0], read[0])
        if found is not None:
            return found
        if role == "float" or (role == "writes" and isinstance(layer, tuple(QUANTISED))):
            return self._floats(node, given, node.name, why_floats(self.network, node, self.activations))
        reader = float_reader(self.network, node, self.activations)
        if reader is not None:
            return self._floats(node, given, reader.name, why_floats(self.network, reader, self.activations))
        reason = "it joins sums that are not rounded" if role == "joins" else "it reads what is not rounded"
        return self._floats(node, given, node.name, reason)

    def _floats(self, node: Any, given: list[Any], first: str, reason: str) -> Floats:
        """A call of the tail, if no integer layer stands behind it."""
        self.left_out.append(node.name)
        before: dict[Any, None] = {}
        for one in given:
            known = self.draft.known[one]
            if not isinstance(known, Given):
                before.update(dict.fromkeys(known.before if isinstance(known, Floats) else (one,)))
        return Floats(first, reason, tuple(before))

    def _island(self, broken: Floats) -> str:
        return (
            f"{broken.node!r} is computed in floats in the middle of the network ({broken.reason}), so there is no integer "
            "program of it: put a layer with an integer form there, give it 2 to 16 bits where 32 were asked for, or cut the "
            "network in two. explain() lists what has one"
        )

    def _shape(self, node: Any) -> tuple[int, ...]:
        return tuple(self.draft.concrete[node].shape)

    def _add(self, step: Step, value: Value) -> str:
        self.draft.steps.append(step)
        self.draft.values[step.output] = value
        return step.output

    def _grid(self, point: Quantise, shape: tuple[int, ...]) -> Value:
        low, high = point.range(len(point.widths) - 1)
        return Value(shape, point.bits, low, high, float(point.step().detach()))

    def _point(self, node: Any, point: Quantise, read: Any) -> Any:
        grid = self._grid(point, self.draft.shape(node))
        if isinstance(read, Given):
            name = next(
                str(one.target) for one in self.nodes if one.op == "placeholder" and self.draft.known.get(one) == read
            )
            self.inputs.append(Input(name, read.position, node.name))
            self.draft.values[node.name] = grid
            return Integers(node.name, point)
        if isinstance(read, Integers):
            if read.point is point:
                return read
            step = self.draft.values[read.name].step
            read = Formula("requantise", (read.name,), grid.shape, node.name, (np.array(step),))
        if isinstance(read, Formula):
            return Integers(self.draft.add(rounded(read, node.name, grid), grid), point)
        broken = read if isinstance(read, Floats) else Floats(node.name, "what it rounds is no sum of integers")
        raise ExportError(self._island(broken))

    # --- outputs

    def _outputs(self, node: Any) -> tuple[list[Output], Any]:
        outputs: list[Output] = []
        made: dict[Any, Any] = {}

        def visit(value: Any) -> Any:
            if isinstance(value, (tuple, list)):
                return [visit(one) for one in value]
            if isinstance(value, dict):
                return {str(key): visit(one) for key, one in value.items()}
            if value is None:
                return None
            inside = contents(value) if value in self.place else None
            if inside is not None:
                return visit(inside)
            is_other = value in self.place and value not in self.activations
            read = activations_in(value, self.activations) if is_other else []
            if read and isinstance(self.draft.concrete[value], Tensor):  # an index, or an answer
                self.draft.known[value] = self._floats(
                    value, read, value.name, why_floats(self.network, value, self.activations)
                )
            elif value not in self.activations:
                raise ExportError(
                    f"the network returns {value}, which is no activation: let forward return what layers compute alone"
                )
            if isinstance(self.draft.known[value], Floats):
                before = self._tail(self.draft.known[value])
                return visit(before[0] if len(before) == 1 else list(before))
            if value not in made:
                parts = self._output(value)
                numbers = list(range(len(outputs), len(outputs) + len(parts)))
                made[value] = numbers if isinstance(self.draft.known[value], tuple) else numbers[0]
                outputs.extend(parts)
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

    def _output(self, node: Any) -> list[Output]:
        """A result, or several of one call."""
        found, one, two = self.draft.known[node], self.draft.concrete[node], self.twice[node]
        if isinstance(found, Given):
            raise ExportError(
                f"output {node.name!r} is an input as it was given: let forward return what layers compute alone"
            )
        if not isinstance(found, tuple):
            found, one, two = (found,), (one,), (two,)
        if len(found) != len(one):
            raise ExportError(f"{node.name!r} returns places of the largest values: return the values alone")
        return [output_of(self.draft, part, x, y) for part, x, y in zip(found, one, two)]


def _needed(steps: Sequence[Step], names: Sequence[str]) -> list[Step]:
    """Steps without those whose results nobody reads."""
    wanted, found = set(names), []
    for step in reversed(steps):
        if step.output in wanted:
            wanted |= set(step.inputs)
            found.append(step)
    return found[::-1]
