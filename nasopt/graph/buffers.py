"""Description of activation memory: buffers, and the steps that make and read them.

>>> memory = ActivationMemory()
>>> memory.add_input("x", Buffer(3, 1024))
>>> memory.add_step("conv", ["x"], {"a": Buffer(16, 1024)})
>>> memory.keep("a")
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from nasopt.errors import ConfigError
from nasopt.graph.cost_terms import CostTerm, Count, Site


@dataclass(frozen=True)
class Buffer:
    """One piece of activation memory: `per_channel` elements of `bits` for each of `channels`, for one sample."""

    channels: Count
    per_channel: int
    bits: int | Site = 8

    def elements(self, keep: Tensor | None = None) -> int:
        """Its elements: of all channels, or of those whose labels `keep` (one bool per label)."""
        if isinstance(self.channels, int):
            return self.channels * self.per_channel
        return self.per_channel * (len(self.channels) if keep is None else int(keep[self.channels].sum()))

    def bytes(self, narrow: bool = True) -> int | float:
        """Its size [B] with all channels; widths that are still to choose count as 8 bits, as do those below if not `narrow`."""
        bits = self.bits if isinstance(self.bits, int) else 8
        size = self.elements() * (bits if narrow else max(bits, 8)) / 8
        return int(size) if size.is_integer() else size


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        node: its name in the graph; `"conv:pad"` for an operation that a converter puts before `conv`.
        layer: path of the layer, or the node's name for a function.
        reads: buffers that it reads, without the one that it overwrites.
        writes: new buffers.
        overwrites: the buffer that its result takes over, or None.
        term: what the layer costs, None where it has no price.
        space: spatial size of the first buffer that it reads, `()` where there is none.
        operations: kinds of the operations of a converted file that it stands for, `""` where nothing is known.
        constants: tensors of that file that it reads, weights and others; equal ones are one tensor.
        inner_channels: outputs of layers with weights among these operations, beside those of `term`.
    """

    node: str
    layer: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    overwrites: str | None = None
    term: CostTerm | None = None
    space: tuple[int, ...] = ()
    operations: tuple[str, ...] = ("",)
    constants: tuple[Hashable, ...] = ()
    inner_channels: int = 0

    @property
    def graph_node(self) -> str:
        """Name of the node of the graph that it belongs to."""
        return self.node.partition(":")[0]

    def buffers(self) -> tuple[str, ...]:
        """All buffers that it touches, each once."""
        over = () if self.overwrites is None else (self.overwrites,)
        return tuple(dict.fromkeys((*self.reads, *over, *self.writes)))


def is_rescaled(step: Step) -> bool:
    """Whether a step only copies a tensor into the scale of those that it is concatenated to."""
    return ":scale" in step.node


@dataclass
class ActivationMemory:
    """Buffers of a network by name, and its steps in the order in which it runs.

    `activation_memory` makes it of an analysed model; something that is no model is described by hand.

    Attributes:
        buffers: all of them.
        inputs: buffers that exist from the start.
        outputs: buffers that stay until the end.
        steps: what happens.
        unknown: nodes whose size depends on data; they count as empty.
    """

    buffers: dict[str, Buffer] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def add_input(self, name: str, buffer: Buffer) -> None:
        """A buffer that exists before the first step.

        Raises:
            ConfigError: the name is taken, or the size is negative.
        """
        self._add_buffer(name, buffer)
        self.inputs.append(name)

    def add_step(
        self,
        node: str,
        reads: Sequence[str],
        writes: Mapping[str, Buffer],
        overwrites: str | None = None,
        layer: str | None = None,
    ) -> None:
        """One operation, after all that were added before; arguments as in `Step`, `writes` with their buffers.

        Raises:
            ConfigError: a name is used twice, or a buffer is read before it is written.
        """
        if any(step.node == node for step in self.steps):
            raise ConfigError(f"memory: step {node!r} is added twice: give every step a name of its own")
        for name in (*reads, *([] if overwrites is None else [overwrites])):
            if name not in self.buffers:
                raise ConfigError(
                    f"memory: step {node!r} reads {name!r}, which no earlier step writes: add steps in execution "
                    f"order, and the network's inputs with add_input"
                )
        for name, buffer in writes.items():
            self._add_buffer(name, buffer)
        others = tuple(name for name in reads if name != overwrites)
        self.steps.append(Step(node, node if layer is None else layer, others, tuple(writes), overwrites))

    def keep(self, *names: str) -> None:
        """Mark the network's outputs: they are live until the last step.

        Raises:
            ConfigError: no such buffer.
        """
        for name in names:
            if name not in self.buffers:
                raise ConfigError(f"memory: output {name!r} is written by no step: keep one of {list(self.buffers)}")
            if name not in self.outputs:
                self.outputs.append(name)

    def _add_buffer(self, name: str, buffer: Buffer) -> None:
        if name in self.buffers:
            raise ConfigError(f"memory: buffer {name!r} is written twice: give every buffer a name of its own")
        if buffer.elements() < 0:
            raise ConfigError(f"memory: buffer {name!r} has {buffer.elements()} elements: sizes cannot be negative")
        self.buffers[name] = buffer
