"""Activation memory of a traced model: its buffers, and the steps that make and read them.

A result lives in a buffer of its own, except where its rule says otherwise (`memory` of a `RuleEntry`): views and what does
nothing at inference share their input's buffer and are no step at all; element-by-element operations write over the
first input of their size that nobody needs afterwards, in the order in which the model is written. Padding and cropping
over space belongs to the layer that reads them, as deployment tools have it. Parameters, and what is computed from
them alone, are weights and no activations.

Converters to TFLite materialise more (`materialised=True`): nothing is written over; padding that is not the runtime's
"same", reshapes and copies into torch's order of dimensions are operations with results of their own; only activation
functions that runtimes fuse, and norms that a layer absorbs, share the buffer of the layer before them. Programs of integers
(`accumulators=True`) keep sums that are not rounded in 32 bits, and leave what only outputs need to their caller.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from nasopt.graph.branches.decided import DecidedGraph, DecidedGraphs
from nasopt.graph.branches.markers import Choice, choices_of, is_marker
from nasopt.graph.branches.regions import Decisions
from nasopt.graph.buffers import ActivationMemory, Buffer, Step
from nasopt.graph.call import flatten
from nasopt.graph.converted import Converted
from nasopt.graph.cost_terms import CostTerm, Site
from nasopt.graph.edit import is_in_place
from nasopt.graph.groups import Analysis
from nasopt.graph.materialised import splits
from nasopt.graph.points import widths_of_values
from nasopt.graph.program_buffers import is_taken_over, unrounded
from nasopt.graph.registry import Memory, memory_of
from nasopt.graph.sharing import is_changed_in_place
from nasopt.graph.values import UNKNOWN
from nasopt.graph.walk import Walk

_FIELDS = {"values": 0, "indices": 1}
"""Of maxima and minima."""
ACCUMULATOR_BITS = 32
"""Of sums that are not rounded, such as the outputs of a network."""


def activation_memory(analysis: Analysis, materialised: bool = False, accumulators: bool = False) -> ActivationMemory:
    """Buffers and steps of an analysed model; of the first branch of every choice."""
    first = {path: choice.first for path, choice in choices_of(analysis.module).items()}
    return ActivationWalks(analysis).under(first, materialised, accumulators)


class ActivationWalks:
    """Buffers and steps of one analysed model, under different decisions."""

    def __init__(self, analysis: Analysis) -> None:
        self.facts = analysis.facts
        self._flows = DecidedGraphs(analysis.module, analysis.facts.regions)
        self.module = analysis.module
        self._memory: dict[fx.Node, Memory] = {}
        self.bits = widths_of_values(self.module, self.facts)
        self.sums, self.behind = unrounded(self.module, self.facts, self.bits)

    def under(self, decisions: Decisions, materialised: bool = False, accumulators: bool = False) -> ActivationMemory:
        """What is left under decisions; with `accumulators` as programs of integers have it."""
        return ActivationWalk(self, self._flows.under(decisions), materialised, decisions, accumulators).run()

    def module_of(self, node: fx.Node) -> nn.Module | None:
        """The layer that a node calls, None for a function."""
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def memory(self, node: fx.Node) -> Memory:
        """Where the result of a node lives."""
        if node not in self._memory:
            # A copy is none unless somebody writes over it.
            is_copy = is_marker(self.module, node, Choice) or node.target in ("clone", torch.clone)
            is_needed = is_copy and is_changed_in_place(self.module, node)
            self._memory[node] = "in_place" if is_needed else memory_of(self.module, node)
        return self._memory[node]


class ActivationWalk(Walk):
    """One pass over the graph."""

    def __init__(
        self,
        walks: ActivationWalks,
        flow: DecidedGraph,
        materialised: bool,
        decisions: Decisions,
        accumulators: bool = False,
    ) -> None:
        self.decisions, self.accumulators = decisions, accumulators
        self.walks, self.flow = walks, flow
        self.facts = walks.facts
        self.found = ActivationMemory()
        self.held: dict[fx.Node, Any] = {}  # node -> buffer name, nested as the node's value
        self.holders: dict[str, list[fx.Node]] = {}
        self.writers: dict[str, fx.Node] = {}
        self.place = {node: i for i, node in enumerate(flow.nodes)}
        self.converted = Converted(self) if materialised else None

    def run(self) -> ActivationMemory:
        """Visit all nodes."""
        for node in self.flow.nodes:
            if node.op == "output":
                sources = self._sources(node)
                self.found.outputs += self.converted.finish(node, sources) if self.converted is not None else sources
                if self.accumulators and not self.walks.bits:
                    buffers = self.found.buffers
                    buffers |= {name: replace(buffers[name], bits=ACCUMULATOR_BITS) for name in self.found.outputs}
            elif node.op == "placeholder":
                self.hold(node, self.new(node, self.value(node), node.name))
                self.found.inputs += self.names(self.held[node])
            elif node in self.facts.activations:
                self._visit(node)
        return self.found

    def value(self, node: fx.Node) -> Any:
        """What a node computes on the example."""
        return self.flow.like(node).meta["value"]

    def module_of(self, node: fx.Node) -> nn.Module | None:
        """The layer that a node calls, None for a function."""
        return self.walks.module_of(node)

    def _visit(self, node: fx.Node) -> None:
        value, first = self.value(node), self.flow.inputs[node][0]
        if value is UNKNOWN:
            self.found.unknown.append(node.name)
        elif not _computes(node):
            return
        elif node.target is operator.getitem and not isinstance(self.value(first), Tensor):
            return self.hold(node, _pick(self.held.get(first), node.args[1]))
        elif node.target is getattr and node.args[1] in _FIELDS and isinstance(self.held.get(first), tuple):
            return self.hold(node, _pick(self.held.get(first), _FIELDS[str(node.args[1])]))
        if self.accumulators and self.flow.like(node) in self.walks.behind:
            return self.hold(node, tuple(self._sources(node)))
        memory = "in_place" if node in self.flow.sums else self.walks.memory(node)
        if memory == "view" and self._stays_in_place(node):
            return self.hold(node, self.held.get(self.flow.inputs[node][0]))
        sources = self._sources(node)
        if self.converted is not None:
            if self.converted.fuses(node) or self.converted.orders.permutes_for_free(node):
                return self.hold(node, self.held[first])
            self.converted.add(node, sources)
            return self._renew(node) if is_in_place(node) else None
        target = self._target(node) if memory == "in_place" else None
        if target is not None:
            self.add(node, sources, (), target)
            return self.hold(node, target)
        self.hold(node, self.new(node, value, node.name))
        return self.add(node, sources, tuple(self.names(self.held[node])), None)

    def _renew(self, node: fx.Node) -> None:
        """What was written over is a new tensor in a file: all that held the old one hold it."""
        changed = self.flow.inputs[node][0]
        old, new = self.held.get(changed), self.held[node]
        for other, name in list(self.held.items()):
            if isinstance(old, str) and name == old and self.value(other).shape == self.value(node).shape:
                self.hold(other, new)

    def _stays_in_place(self, node: fx.Node) -> bool:
        """Whether a view is one: the same elements, or the same channels with padding or cropping over space."""
        if self.converted is not None:
            return self.converted.is_view(node)
        source = self.flow.inputs[node][0]
        before, after = self.value(source), self.value(node)
        if not isinstance(before, Tensor) or not isinstance(after, Tensor) or source not in self.held:
            return False
        if before.numel() != after.numel() and self.accumulators and self.walks.bits:
            return is_taken_over(self.walks.module, self.flow.like(node))
        return before.numel() == after.numel() or before.shape[:2] == after.shape[:2]

    def _target(self, node: fx.Node) -> str | None:
        """The buffer that an element-by-element operation writes over, None for a new one."""
        inputs = [n for n in self.flow.inputs[node] if isinstance(self.held.get(n), str)]
        if is_in_place(node) and inputs[:1] == self.flow.inputs[node][:1]:
            return str(self.held[inputs[0]])
        value = self.value(node)
        size = value.numel() if isinstance(value, Tensor) else -1
        for source in inputs:
            name = str(self.held[source])
            same = self.value(source).numel() == size and self._whole(name) == size
            # Narrower results never overtake what is still to read.
            same = same and self._bits(self._width(node)) <= self._bits(self.found.buffers[name].bits)
            if same and not self._needed_after(name, node):
                return name
        return None

    def _width(self, node: fx.Node) -> int | Site:
        like = self.flow.like(node)
        return ACCUMULATOR_BITS if self.accumulators and like in self.walks.sums else self.walks.bits.get(like, 8)

    def _bits(self, bits: int | Site) -> int:
        """In which an element is stored: programs of integers have whole bytes."""
        found = bits if isinstance(bits, int) else bits.widths[self.decisions[bits.choice][0]]
        return max(found, 8) if self.accumulators else found

    def _whole(self, name: str) -> int:
        """Elements of the example batch in a buffer."""
        # Of several results each is held by what picks it.
        values = (self.value(holder) for holder in self.holders[name])
        return next((int(value.numel()) for value in values if isinstance(value, Tensor)), -1)

    def _needed_after(self, name: str, node: fx.Node) -> bool:
        users = (user for holder in self.holders[name] for user in self.flow.users[holder])
        return any(self.place[user] > self.place[node] and (user.op == "output" or _computes(user)) for user in users)

    def _space(self, name: str) -> tuple[int, ...]:
        holders = self.holders[name]
        value = holders[0].meta["value"] if holders else None
        return tuple(value.shape[2:]) if isinstance(value, Tensor) else ()

    def term(self, node: fx.Node) -> CostTerm | None:
        """What a node costs, None where it has no price."""
        return self.facts.term_of_node.get(node)

    # --- building

    def new(self, node: fx.Node, value: Any, name: str) -> Any:
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
        bits = self._width(node)
        batch = self.facts.batch
        total = value.numel() // batch if value.numel() % batch == 0 else value.numel()
        dims = self.facts.labels.varying(labels) if isinstance(labels, Tensor) else []
        if len(dims) != 1:
            return Buffer(total, 1, bits)
        line = self.facts.labels.line(labels, dims[0])
        if total % len(line) == 0:
            return Buffer(line, total // len(line), bits)
        # Channels of all samples along one dimension, such as `x.view(b * c, ...)`: those of one sample.
        by_sample = line.sort().values.reshape(-1, batch) if len(line) % batch == 0 else line[None]
        if bool((by_sample != by_sample[:, :1]).any()):
            return Buffer(total, 1, bits)
        return Buffer(by_sample[:, 0], value.numel() // len(line), bits)

    def hold(self, node: fx.Node, held: Any) -> None:
        self.held[node] = held
        for name in self.names(held):
            self.holders[name].append(node)

    def names(self, held: Any) -> list[str]:
        return [name for name in flatten(held) if name is not None]

    def _sources(self, node: fx.Node) -> list[str]:
        return list(dict.fromkeys(name for n in self.flow.inputs[node] for name in self.names(self.held.get(n))))

    def add(
        self,
        node: fx.Node,
        reads: Iterable[str],
        writes: tuple[str, ...],
        target: str | None,
        part: str = "",
        operations: tuple[str, ...] = ("",),
        constants: tuple[Any, ...] = (),
        channels: int = 0,
    ) -> None:
        """A step of a node; `part` tells several apart."""
        layer = str(node.target) if node.op == "call_module" else node.name
        others = tuple(r for r in reads if r != target)
        space = self._space(others[0]) if others else ()
        term = self.term(node) if not part or (part == ":0" and splits(node)) else None
        self.found.steps.append(
            Step(node.name + part, layer, others, writes, target, term, space, operations, constants, channels)
        )
        self.writers |= dict.fromkeys(writes, node)

    def buffer(self, name: str, buffer: Buffer) -> None:
        """A buffer that no node holds."""
        self.found.buffers[name] = buffer
        self.holders[name] = []

    def extra(
        self,
        name: str,
        source: str,
        grown: int,
        before: int,
        sources: list[str],
        operations: tuple[str, ...],
        constants: tuple[Any, ...],
    ) -> list[str]:
        """A step before a node, whose result has `grown` elements for every `before` of its input; what the node reads then."""
        buffer = self.found.buffers[source]
        if isinstance(buffer.channels, int):  # perhaps all elements, as channels of one
            size = Buffer(buffer.elements() * grown // before, 1, buffer.bits)
        else:
            size = Buffer(buffer.channels, buffer.per_channel * grown // before, buffer.bits)
        self.buffer(name, size)
        self.found.steps.append(Step(name, name, (source,), (name,), operations=operations, constants=constants))
        return [name if s == source else s for s in sources]


def _computes(node: fx.Node) -> bool:
    """Whether a node touches the content of tensors: not their sizes alone."""
    value = node.meta["value"]
    return value is UNKNOWN or is_in_place(node) or any(isinstance(leaf, Tensor) for leaf in flatten(value))


def _pick(held: Any, index: Any) -> Any:
    return held[index] if isinstance(held, (tuple, dict)) else None
