"""Activation memory of a traced model: its buffers, and the steps that make and read them.

A result lives in a buffer of its own, except where its rule says otherwise (`memory` of a `RuleEntry`): views and what does
nothing at inference share their input's buffer and are no step at all; element-by-element operations write over the
first input of their size that nobody needs afterwards, in the order in which the model is written. Padding and cropping
over space belongs to the layer that reads them, as deployment tools have it. Parameters, and what is computed from
them alone, are weights and no activations.

Converters to TFLite materialise more (`materialised=True`): nothing is written over; padding that is not the runtime's
"same", reshapes and copies into torch's order of dimensions are operations with results of their own; only activation
functions that runtimes fuse, and norms that a layer absorbs, share the buffer of the layer before them.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from nasopt.graph.branches.decided import DecidedGraph, DecidedGraphs, is_changed_in_place
from nasopt.graph.branches.markers import Choice, choices_of, is_marker
from nasopt.graph.branches.regions import Decisions
from nasopt.graph.buffers import ActivationMemory, Buffer, Step
from nasopt.graph.call import flatten
from nasopt.graph.cost_terms import CostTerm, Site
from nasopt.graph.edit import is_in_place
from nasopt.graph.groups import Analysis
from nasopt.graph.materialised import (
    Around,
    copies_to_torch_order,
    fuses,
    inside_of,
    joins,
    knows_padding,
    operations_of,
    padding_of,
    splits,
    zeros_around,
)
from nasopt.graph.points import widths_of_values
from nasopt.graph.registry import Memory, memory_of
from nasopt.graph.values import UNKNOWN


def activation_memory(analysis: Analysis, materialised: bool = False) -> ActivationMemory:
    """Buffers and steps of an analysed model; of the first branch of every choice."""
    first = {path: choice.first for path, choice in choices_of(analysis.module).items()}
    return ActivationWalks(analysis).under(first, materialised)


class ActivationWalks:
    """Buffers and steps of one analysed model, under different decisions."""

    def __init__(self, analysis: Analysis) -> None:
        self.facts = analysis.facts
        self._flows = DecidedGraphs(analysis.module, analysis.facts.regions)
        self._module = analysis.module
        self._memory: dict[fx.Node, Memory] = {}
        self.bits = widths_of_values(self._module, self.facts)

    def under(self, decisions: Decisions, materialised: bool = False) -> ActivationMemory:
        """What is left under decisions."""
        return _Walk(self, self._flows.under(decisions), materialised, decisions).run()

    def module_of(self, node: fx.Node) -> nn.Module | None:
        """The layer that a node calls, None for a function."""
        return self._module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def memory(self, node: fx.Node) -> Memory:
        """Where the result of a node lives."""
        if node not in self._memory:
            # A copy is none unless somebody writes over it.
            is_copy = is_marker(self._module, node, Choice) or node.target in ("clone", torch.clone)
            is_needed = is_copy and is_changed_in_place(self._module, node)
            self._memory[node] = "in_place" if is_needed else memory_of(self._module, node)
        return self._memory[node]


class _Walk:
    """One pass over the graph."""

    def __init__(self, walks: ActivationWalks, flow: DecidedGraph, materialised: bool, decisions: Decisions) -> None:
        self.decisions = decisions
        self.walks, self.flow, self.materialised = walks, flow, materialised
        self.facts = walks.facts
        self.found = ActivationMemory()
        self.held: dict[fx.Node, Any] = {}  # node -> buffer name, nested as the node's value
        self.holders: dict[str, list[fx.Node]] = {}
        self.writers: dict[str, fx.Node] = {}
        self.padded: dict[fx.Node, Around] = {}
        self.place = {node: i for i, node in enumerate(flow.nodes)}

    def run(self) -> ActivationMemory:
        for node in self.flow.nodes:
            if node.op == "output":
                self.found.outputs += dict.fromkeys(self._sources(node))
            elif node.op == "placeholder":
                self._hold(node, self._new(node, self._value(node), node.name))
                self.found.inputs += self._names(self.held[node])
            elif node in self.facts.activations:
                self._visit(node)
        return self.found

    def _value(self, node: fx.Node) -> Any:
        return self.flow.like(node).meta["value"]

    def _visit(self, node: fx.Node) -> None:
        value, first = self._value(node), self.flow.inputs[node][0]
        if value is UNKNOWN:
            self.found.unknown.append(node.name)
        elif not _computes(node):
            return
        elif node.target is operator.getitem and not isinstance(self._value(first), Tensor):
            return self._hold(node, _pick(self.held.get(first), node.args[1]))
        memory = "in_place" if node in self.flow.sums else self.walks.memory(node)
        if memory == "view" and self._stays_in_place(node):
            return self._hold(node, self.held.get(self.flow.inputs[node][0]))
        if self.materialised and self._fuses(node):
            return self._hold(node, self.held[first])
        sources = self._sources(node)
        target = self._target(node) if memory == "in_place" else None
        if target is not None:
            self._add(node, sources, (), target)
            return self._hold(node, target)
        if self.materialised:
            sources = self._materialise(node, sources)
        self._hold(node, self._new(node, value, node.name))
        made = self._names(self.held[node])
        if self.materialised and splits(node):
            for i, name in enumerate(made):
                self._add(node, sources, (name,), None, part=f":{i}")
            return None
        return self._add(node, sources, (*made, *self._inside(node, made)), None)

    def _stays_in_place(self, node: fx.Node) -> bool:
        """Whether a view is one: the same elements, or the same channels with padding or cropping over space."""
        source = self.flow.inputs[node][0]
        before, after = self._value(source), self._value(node)
        if not isinstance(before, Tensor) or not isinstance(after, Tensor) or source not in self.held:
            return False
        if self.materialised and before.shape != after.shape:
            alone = before.shape[2:].numel() == 1  # no space: nothing to reorder, and the reader reshapes
            return alone if before.numel() == after.numel() else self._pads_its_reader(node)
        return before.numel() == after.numel() or before.shape[:2] == after.shape[:2]

    def _target(self, node: fx.Node) -> str | None:
        """The buffer that an element-by-element operation writes over, None for a new one."""
        inputs = [n for n in self.flow.inputs[node] if isinstance(self.held.get(n), str)]
        if is_in_place(node) and inputs[:1] == self.flow.inputs[node][:1]:
            return str(self.held[inputs[0]])
        if self.materialised:
            return None
        value = self._value(node)
        size = value.numel() if isinstance(value, Tensor) else -1
        for source in inputs:
            name = str(self.held[source])
            same = self._value(source).numel() == size and self._whole(name) == size
            # Narrower results never overtake what is still to read.
            same = same and self._bits(self.walks.bits.get(self.flow.like(node), 8)) <= self._bits(
                self.found.buffers[name].bits
            )
            if same and not self._needed_after(name, node):
                return name
        return None

    def _bits(self, bits: int | Site) -> int:
        return bits if isinstance(bits, int) else bits.widths[self.decisions[bits.choice][0]]

    def _whole(self, name: str) -> int:
        """Elements of the example batch in a buffer."""
        # Of several results each is held by what picks it.
        values = (self._value(holder) for holder in self.holders[name])
        return next((int(value.numel()) for value in values if isinstance(value, Tensor)), -1)

    def _needed_after(self, name: str, node: fx.Node) -> bool:
        users = (user for holder in self.holders[name] for user in self.flow.users[holder])
        return any(self.place[user] > self.place[node] and (user.op == "output" or _computes(user)) for user in users)

    # --- what converters materialise

    def _fuses(self, node: fx.Node) -> bool:
        """Whether the layer before does this as well, in the same operation."""
        source = self.flow.inputs[node][0] if self.flow.inputs[node] else None
        name = self.held.get(source) if source is not None else None
        if source is None or not isinstance(name, str) or len(self.flow.users[source]) != 1 or name not in self.writers:
            return False
        writer = self.writers[name]
        return fuses(self.walks.module_of(node), node, self.walks.module_of(writer), writer, self._term(writer))

    def _materialise(self, node: fx.Node, sources: list[str]) -> list[str]:
        """Steps before a node's own, padding and copies of its first input; what it reads then."""
        source = self.flow.inputs[node][0]
        name, value = self.held.get(source), self._value(source)
        if joins(node):  # all that is concatenated has one scale, which other readers do not share
            shared = [one for one in sources if one in self.writers and len(self._readers(one)) > 1]
            for i, one in enumerate(shared):
                sources = self._extra(f"{node.name}:scale{i}", one, 1, 1, sources)
            return sources
        if not isinstance(name, str) or not isinstance(value, Tensor):
            return sources
        padding = padding_of(self.walks.module_of(node), node, value, self.padded.get(source))
        if padding is not None:
            space = prod(self._value(self.holders[name][0]).shape[2:])
            return self._extra(f"{node.name}:pad", name, prod(padding), space, sources)
        if copies_to_torch_order(self.walks.module_of(node), node, value, self._lies_last(source)):
            return self._extra(f"{node.name}:order", name, 1, 1, sources)
        return sources

    def _readers(self, name: str) -> set[fx.Node]:
        return {user for holder in self.holders[name] for user in self.flow.users[holder]} - set(self.holders[name])

    def _lies_last(self, node: fx.Node) -> bool:
        """Whether a tensor of three dimensions is one of four in the file: what a layer over space makes of it."""
        while node.op != "placeholder" and not knows_padding(self.walks.module_of(node), node):
            if self.walks.memory(node) != "in_place" or not self.flow.inputs[node]:
                return False
            node = self.flow.inputs[node][0]
        return True

    def _inside(self, node: fx.Node, made: list[str]) -> list[str]:
        """Buffers that live during a node's step alone: of results inside of a layer, and its scratch."""
        factor = inside_of(self.walks.module_of(node), node) if self.materialised and len(made) == 1 else 0
        if not factor:
            return []
        name, buffer = f"{node.name}:inside", self.found.buffers[made[0]]
        self.found.buffers[name] = Buffer(buffer.channels, buffer.per_channel * factor, buffer.bits)
        self.holders[name] = []
        return [name]

    def _pads_its_reader(self, node: fx.Node) -> bool:
        """Whether a node only puts zeros around the input of one convolution or pooling, which takes that over."""
        around = zeros_around(self.walks.module_of(node), node)
        users = list(self.flow.users[node])
        if around is None or len(users) != 1 or not knows_padding(self.walks.module_of(users[0]), users[0]):
            return False
        self.padded[node] = around
        return True

    def _extra(self, name: str, source: str, grown: int, before: int, sources: list[str]) -> list[str]:
        buffer = self.found.buffers[source]
        if isinstance(buffer.channels, int):  # perhaps all elements, as channels of one
            size = Buffer(buffer.elements() * grown // before, 1, buffer.bits)
        else:
            size = Buffer(buffer.channels, buffer.per_channel * grown // before, buffer.bits)
        self.found.add_step(name, [source], {name: size})
        self.holders[name] = []
        return [name if s == source else s for s in sources]

    def _space(self, name: str) -> tuple[int, ...]:
        holders = self.holders[name]
        value = holders[0].meta["value"] if holders else None
        return tuple(value.shape[2:]) if isinstance(value, Tensor) else ()

    def _term(self, node: fx.Node) -> CostTerm | None:
        return self.facts.term_of_node.get(node)

    # --- building

    def _new(self, node: fx.Node, value: Any, name: str) -> Any:
        """Buffers for every tensor of a node's value; names of nested ones are numbered."""
        labels = self.facts.values.get(self.flow.like(node))
        return self._nested(node, value, labels, name)

    def _nested(self, node: fx.Node, value: Any, labels: Any, name: str) -> Any:
        if isinstance(value, Tensor) or value is UNKNOWN:
            self.found.buffers[name] = self._buffer(node, value, labels)
            self.holders[name] = []
            return name
        if isinstance(value, dict):
            return {k: self._nested(node, v, (labels or {}).get(k), f"{name}.{k}") for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            known = labels if isinstance(labels, (list, tuple)) and len(labels) == len(value) else [None] * len(value)
            return tuple(self._nested(node, v, x, f"{name}.{i}") for i, (v, x) in enumerate(zip(value, known)))
        return None

    def _buffer(self, node: fx.Node, value: Any, labels: Any) -> Buffer:
        if value is UNKNOWN:
            return Buffer(0, 1)
        bits = self.walks.bits.get(self.flow.like(node), 8)
        batch = self.facts.batch
        total = value.numel() // batch if value.numel() % batch == 0 else value.numel()
        dims = self.facts.labels.varying(labels) if isinstance(labels, Tensor) else []
        # Channels along the batch would not be those of one sample.
        if len(dims) != 1 or total % value.shape[dims[0]]:
            return Buffer(total, 1, bits)
        return Buffer(self.facts.labels.line(labels, dims[0]), total // value.shape[dims[0]], bits)

    def _hold(self, node: fx.Node, held: Any) -> None:
        self.held[node] = held
        for name in self._names(held):
            self.holders[name].append(node)

    def _names(self, held: Any) -> list[str]:
        return [name for name in flatten(held) if name is not None]

    def _sources(self, node: fx.Node) -> list[str]:
        return list(dict.fromkeys(name for n in self.flow.inputs[node] for name in self._names(self.held.get(n))))

    def _add(
        self, node: fx.Node, reads: Iterable[str], writes: tuple[str, ...], target: str | None, part: str = ""
    ) -> None:
        layer = str(node.target) if node.op == "call_module" else node.name
        others = tuple(r for r in reads if r != target)
        space = self._space(others[0]) if others else ()
        given = self._value(self.flow.inputs[node][0]) if self.flow.inputs[node] else None
        count = operations_of(self.walks.module_of(node), node, given) if self.materialised else 1
        self.found.steps.append(Step(node.name + part, layer, others, writes, target, self._term(node), space, count))
        self.writers |= dict.fromkeys(writes, node)


def _computes(node: fx.Node) -> bool:
    """Whether a node touches the content of tensors: not their sizes alone."""
    value = node.meta["value"]
    return value is UNKNOWN or is_in_place(node) or any(isinstance(leaf, Tensor) for leaf in flatten(value))


def _pick(held: Any, index: Any) -> Any:
    return held[index] if isinstance(held, (tuple, dict)) else None
