"""How much memory do a network's activations need at once? Peak of live tensors, in a given order and in the best one.

A `MemoryGraph` is a plain description: steps, and for every tensor its bytes, its producer, its readers. A tensor is
live from the step that produces it to the last step that reads it, both included: while a layer runs, its inputs and
its outputs exist. In-place operations write into their input's buffer: their result costs nothing, and keeps the buffer
alive as long as it is read itself. Whoever reads a buffer afterwards, by either name, reads what was written last.

    step       conv1      relu (in place)     conv2     add
    live       x, a       a                   a, b      a, b, y        (x: the network's input, a: kept for the add)
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import torch
from torch import Tensor

from nasopt.cost.memory_order import best_order
from nasopt.errors import ArchitectureError, ConfigError
from nasopt.graph.activations import ActivationMemory


@dataclass
class MemoryGraph:
    """Tensors of a network and the steps that make and read them, in execution order.

    Attributes:
        steps: name of every step, in the order in which the network runs.
        sizes: buffer -> bytes: numbers, or scalar tensors (soft, differentiable).
        edges: dependencies between steps, a DAG whose nodes are the steps; an edge says "runs before".
        users: buffer -> the steps at which it must exist (its producer and all readers, aliases included).
        kept: buffers that stay until the end: the network's outputs.
        given: buffers that exist from the start: the network's inputs.
    """

    steps: list[Hashable] = field(default_factory=list)
    sizes: dict[Hashable, Any] = field(default_factory=dict)
    edges: nx.DiGraph = field(default_factory=nx.DiGraph)
    users: dict[Hashable, set[Hashable]] = field(default_factory=dict)
    kept: set[Hashable] = field(default_factory=set)
    given: set[Hashable] = field(default_factory=set)
    _buffer: dict[Hashable, Hashable] = field(default_factory=dict)  # tensor -> buffer
    _writer: dict[Hashable, Hashable] = field(default_factory=dict)  # buffer -> step that wrote it last
    _readers: dict[Hashable, list[Hashable]] = field(default_factory=dict)  # buffer -> steps that read it since

    def add_input(self, name: Hashable, size: Any) -> None:
        """A tensor that exists before the first step: `size` bytes."""
        self._new(name, size)
        self.given.add(name)

    def add_step(
        self,
        step: Hashable,
        reads: Sequence[Hashable],
        writes: Mapping[Hashable, Any],
        in_place: Mapping[Hashable, Hashable] | None = None,
    ) -> None:
        """One operation, after all that were added before.

        Args:
            step: its name.
            reads: tensors that it reads.
            writes: new tensors with their bytes.
            in_place: new tensors that share a buffer with a tensor that is read: new name -> old name. The step waits
                for all earlier readers of that buffer, which would see the new values.

        Raises:
            ConfigError: a name is used twice, or a tensor is read before it is written.
        """
        if step in self.edges:
            raise ConfigError(f"memory: step {step!r} is added twice: give every step a name of its own")
        shared = dict(in_place or {})
        for tensor in (*reads, *shared.values()):
            if tensor not in self._buffer:
                raise ConfigError(
                    f"memory: step {step!r} reads {tensor!r}, which no earlier step writes: add steps in execution "
                    f"order, and the network's inputs with add_input"
                )
        self.steps.append(step)
        self.edges.add_node(step)
        overwritten = {self._buffer[old] for old in shared.values()}
        for buffer in {self._buffer[tensor]: None for tensor in (*reads, *shared.values())}:
            self.users[buffer].add(step)
            if buffer in self._writer:
                self.edges.add_edge(self._writer[buffer], step)
            if buffer in overwritten:
                self.edges.add_edges_from((reader, step) for reader in self._readers[buffer])
                self._writer[buffer], self._readers[buffer] = step, []
            else:
                self._readers[buffer].append(step)
        for tensor, size in writes.items():
            self._new(tensor, size)
            self.users[tensor].add(step)
            self._writer[tensor] = step
        for new, old in shared.items():
            self._fresh(new)
            self._buffer[new] = self._buffer[old]

    def keep(self, *tensors: Hashable) -> None:
        """Mark the network's outputs: they are live until the last step.

        Raises:
            ConfigError: no such tensor.
        """
        for tensor in tensors:
            if tensor not in self._buffer:
                raise ConfigError(f"memory: output {tensor!r} is written by no step: keep one of {list(self._buffer)}")
            self.kept.add(self._buffer[tensor])

    def _fresh(self, name: Hashable) -> None:
        if name in self._buffer:
            raise ConfigError(f"memory: tensor {name!r} is written twice: give every tensor a name of its own")

    def _new(self, name: Hashable, size: Any) -> None:
        self._fresh(name)
        value = float(size.detach()) if isinstance(size, Tensor) else float(size)
        if not math.isfinite(value):
            raise ArchitectureError(f"memory: tensor {name!r} has {value} bytes: its channel counts are not finite")
        if value < 0:
            raise ConfigError(f"memory: tensor {name!r} has {value:g} bytes: sizes cannot be negative")
        self.sizes[name] = size
        self.users[name] = set()
        self._buffer[name] = name
        self._readers[name] = []


def memory_graph(layout: ActivationMemory, bits: int = 8) -> MemoryGraph:
    """Tensors and steps of a traced network, in bytes; steps have the names of its graph's nodes.

    Args:
        layout: from `nasopt.graph.activations.activation_memory`.
        bits: of one element.
    """
    sizes = {name: buffer.elements() * bits / 8 for name, buffer in layout.buffers.items()}
    sizes = {name: int(size) if size.is_integer() else size for name, size in sizes.items()}
    graph = MemoryGraph()
    for name in layout.inputs:
        graph.add_input(name, sizes[name])
    for step in layout.steps:
        writes: dict[Hashable, Any] = {name: sizes[name] for name in step.writes}
        graph.add_step(step.node, step.reads, writes, {step.node: step.overwrites} if step.overwrites else None)
    graph.keep(*layout.outputs)
    return graph


@dataclass(frozen=True)
class Peak:
    """The largest sum of live bytes over the steps of one order.

    Attributes:
        size: bytes: a number, or a scalar tensor, differentiable in the sizes of the buffers that are live at the peak.
        step: at which it happens (the first, if several).
        live: buffers that exist then.
        order: of the steps.
    """

    size: Any
    step: Hashable
    live: tuple[Hashable, ...]
    order: tuple[Hashable, ...]


@dataclass(frozen=True)
class PeakReport:
    """Peaks of one network: as it is written, and in the best order that was found.

    Attributes:
        given: in the order of the steps.
        best: in the best order; never larger than `given`.
        exact: whether `best` is proven to be the smallest there is (small graphs), or found by a greedy search.
    """

    given: Peak
    best: Peak
    exact: bool


def live_sets(graph: MemoryGraph, order: Sequence[Hashable] | None = None) -> list[tuple[Hashable, ...]]:
    """Buffers that exist at each step of `order` (default: as written).

    Raises:
        ConfigError: `order` is not an order of the graph's steps, or breaks a dependency.
    """
    order = list(graph.steps if order is None else order)
    at = {step: i for i, step in enumerate(order)}
    if len(at) != len(order) or at.keys() != set(graph.steps):
        raise ConfigError("memory: the order does not name every step once: permute graph.steps")
    for before, after in graph.edges.edges:
        if at[before] > at[after]:
            raise ConfigError(f"memory: the order runs {after!r} before {before!r}, whose result it needs")
    live: list[list[Hashable]] = [[] for _ in order]
    for buffer, users in graph.users.items():
        places = [at[user] for user in users]
        first = 0 if buffer in graph.given else min(places)
        last = len(order) - 1 if buffer in graph.kept else max(places, default=0)
        for i in range(first, last + 1):
            live[i].append(buffer)
    return [tuple(buffers) for buffers in live]


def highest(sets: Iterable[frozenset[Hashable]]) -> list[frozenset[Hashable]]:
    """Those sets of live buffers that can be the peak, whatever the sizes: no set within another."""
    kept: list[frozenset[Hashable]] = []
    for one in sorted(dict.fromkeys(sets), key=len, reverse=True):
        if not any(one <= other for other in kept):
            kept.append(one)
    return kept


def peak(graph: MemoryGraph, order: Sequence[Hashable] | None = None, sharpness: float | None = None) -> Peak:
    """Peak memory in one order.

    Args:
        graph: tensors and steps.
        order: default: as written.
        sharpness: None for the true maximum, whose gradient goes to the buffers at the peak only; a positive number
            `b` for the smooth `log(sum(exp(b m_i / m))) m / b` over the steps' memories `m_i` with maximum `m`, which
            is larger by at most `log(steps) / b` of the peak and also moves steps that are nearly as high.

    Raises:
        ConfigError: no steps, an order that is not one, or a sharpness that is not positive.
    """
    if not graph.steps:
        raise ConfigError("memory: the graph has no steps, so there is no peak: describe the network with add_step")
    if sharpness is not None and not sharpness > 0:
        raise ConfigError(f"memory: sharpness is {sharpness!r}: give a positive number, or None for the true maximum")
    order = tuple(graph.steps if order is None else order)
    live = live_sets(graph, order)
    soft = any(isinstance(size, Tensor) for size in graph.sizes.values())
    if not soft:
        sums = [sum(graph.sizes[buffer] for buffer in buffers) for buffers in live]
        top = max(range(len(sums)), key=sums.__getitem__)
        size: Any = sums[top]
        if sharpness is not None and size > 0:
            size = size / sharpness * math.log(sum(math.exp(sharpness * s / size) for s in sums))
        return Peak(size, order[top], live[top], order)
    names = list(graph.sizes)
    column = {name: i for i, name in enumerate(names)}
    sizes = torch.stack([torch.as_tensor(graph.sizes[name], dtype=torch.float64) for name in names])
    member = torch.zeros(len(order), len(names), dtype=torch.float64, device=sizes.device)
    for i, buffers in enumerate(live):
        member[i, [column[buffer] for buffer in buffers]] = 1
    memory = member @ sizes  # (steps,)
    top = int(memory.detach().argmax())
    size = memory[top]
    if sharpness is not None and float(size.detach()) > 0:
        scale = size.detach() / sharpness
        size = scale * torch.logsumexp(memory / scale, dim=0)
    return Peak(size, order[top], live[top], order)


def peak_report(graph: MemoryGraph, exact_states: int = 20_000) -> PeakReport:
    """Peaks in the given and in the best order.

    Args:
        graph: tensors and steps.
        exact_states: how many sets of finished steps the exact search may visit before a greedy one takes over.
            Chains and residual networks need few; wide graphs grow exponentially.
    """
    given = peak(graph)
    order, exact = best_order(graph, exact_states)
    best = peak(graph, order)
    return PeakReport(given, best if float(best.size) < float(given.size) else given, exact)
