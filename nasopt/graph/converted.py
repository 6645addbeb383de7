"""Steps and buffers of the file that a converter to TFLite writes, node by node of a walk over activations.

Images lie with their channels last. What mixes channels with space (reshapes, group norms) reads them in torch's order, so an
operation before it changes the order, and one after it changes it back where a convolution reads on.
"""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor, fx, nn

from nasopt.graph.buffers import Buffer
from nasopt.graph.file_orders import Orders
from nasopt.graph.lowered import GIVEN, Part, parts_of
from nasopt.graph.materialised import fuses, inside_of, joins, splits
from nasopt.graph.walk import Walk
from nasopt.graph.windows import Around, knows_padding, padding_of, takes_maxima, zeros_around

_AROUND = {"circular": ("PAD", "SELECT_V2") * 6 + ("SLICE",) * 4}
"""Operations of paddings that are more than one."""


class Converted:
    """What is written for the nodes of one walk, in the order in which they run."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._padded: dict[fx.Node, Around] = {}
        self._clipped: set[str] = set()  # buffers whose operation has an activation already
        # Parts of a split by their buffers.
        self._later: dict[str, tuple[fx.Node, list[str], str, tuple[Any, ...]]] = {}
        self.orders = Orders(walk)

    def fuses(self, node: fx.Node) -> bool:
        """Whether the layer before does this as well, in the same operation."""
        walk = self._walk
        source = walk.flow.inputs[node][0] if walk.flow.inputs[node] else None
        name = walk.held.get(source) if source is not None else None
        if source is None or not isinstance(name, str) or len(walk.flow.users[source]) != 1 or name not in walk.writers:
            return False
        writer = walk.writers[name]
        module = walk.module_of(node)
        if name in self._clipped or not fuses(module, node, walk.module_of(writer), writer, walk.term(writer)):
            return False
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            self._clipped.add(name)
        self.orders.inherit(node, source)
        return True

    def is_view(self, node: fx.Node) -> bool:
        """Whether a node changes nothing that lies in memory."""
        source = self._walk.flow.inputs[node][0]
        before, after = self._walk.value(source), self._walk.value(node)
        if not isinstance(before, Tensor) or not isinstance(after, Tensor) or source not in self._walk.held:
            return False
        if zeros_around(self._walk.module_of(node), node) is not None and before.dim() > 2:
            if not self._pads_its_reader(node):
                return False
            self.orders.inherit(node, source)
            return True
        if before.shape != after.shape:
            alone = before.shape[2:].numel() == 1  # no space: nothing to reorder, and the reader reshapes
            if not alone or before.numel() != after.numel():
                return False
            if before.dim() == 2 and (after.dim() == 3 or after.shape[2:].numel() > 1):
                return False
            writer = self._walk.writers.get(str(self._walk.held[source]))
            of_conv = isinstance(self._walk.module_of(writer) if writer is not None else None, nn.modules.conv._ConvNd)
            if alone and of_conv and any(user.op == "output" for user in self._walk.flow.users[node]):
                return False
        self.orders.inherit(node, source)
        return True

    def add(self, node: fx.Node, sources: list[str]) -> None:
        """The steps of a node that computes something, and what is written before it."""
        walk = self._walk
        self._write(sources)
        if self._cuts_for_its_reader(node, sources):
            return
        sources = self._before(node, sources)
        value = walk.value(node)
        walk.hold(node, walk.new(node, value, node.name))
        made = walk.names(walk.held[node])
        given = walk.value(walk.flow.inputs[node][0]) if walk.flow.inputs[node] else None
        readers = [walk.module_of(user) for user in walk.flow.users[node]]
        parts = parts_of(walk.module_of(node), node, given, value, readers)
        constants = self._weights(node, parts)
        if splits(node):
            for i, name in enumerate(made):  # each is written where it is read first
                self._later[name] = node, sources, f":{i}", self._constants(node, parts[-1], i, constants)
        else:
            self._lower(node, parts, sources, made, constants)

    def _write(self, names: list[str]) -> None:
        """Parts of splits that are read now."""
        for name in names:
            if name in self._later:
                node, sources, part, constants = self._later.pop(name)
                self._write(sources)
                self._walk.add(node, sources, (name,), None, part, ("SLICE",), constants)

    def _lower(
        self, node: fx.Node, parts: list[Part], sources: list[str], made: list[str], weights: tuple[Any, ...]
    ) -> None:
        result = self._walk.found.buffers[made[0]]
        names: list[str] = []
        for i, part in enumerate(parts):
            last = i == len(parts) - 1
            name = made[0] if last else f"{node.name}:{i}"
            if not last:
                if part.elements is None:
                    buffer = Buffer(result.channels, round(result.per_channel * part.width), result.bits)
                else:
                    buffer = Buffer(round(part.elements * part.width), 1)
                self._walk.buffer(name, buffer)
            else:  # tensors are numbered in the order in which they are written
                self._walk.found.buffers |= {one: self._walk.found.buffers.pop(one) for one in made}
            names.append(name)
            reads = list(dict.fromkeys(x for read in part.reads for x in (sources if read == GIVEN else [names[read]])))
            inside = [*(made[1:] if last else ()), *self._inside(node, name, part)]
            constants = self._constants(node, part, i, weights if last else ())
            number = "" if last else f":{i}"
            self._walk.add(node, reads, (name, *inside), None, number, part.kinds, constants, part.channels)

    def _constants(self, node: fx.Node, part: Part, number: int, weights: tuple[Any, ...]) -> tuple[Any, ...]:
        own = range(max(part.constants - len(weights), 0))
        return (*weights, *((node.name, number, i) for i in own), *part.shared)

    def _weights(self, node: fx.Node, parts: list[Part]) -> tuple[Any, ...]:
        """Weights that several calls of a layer share."""
        module = self._walk.module_of(node)
        shares = module is not None and len(parts) == 1 and parts[0].kinds in (("CONV_2D",), ("FULLY_CONNECTED",))
        return tuple((str(node.target), i) for i in range(parts[0].constants)) if shares else ()

    def _inside(self, node: fx.Node, made: str, part: Part) -> list[str]:
        """Scratch of an operation."""
        buffer = self._walk.found.buffers[made]
        if part.kinds[0] in ("MEAN", "SUM"):
            size = Buffer(buffer.channels, buffer.per_channel * 4, buffer.bits)
        else:
            factor = inside_of(self._walk.module_of(node))
            if not factor or part.kinds[0] != "TRANSPOSE_CONV":
                return []
            size = Buffer(buffer.channels, buffer.per_channel * factor, buffer.bits)
        self._walk.buffer(f"{made}:inside", size)
        return [f"{made}:inside"]

    def _before(self, node: fx.Node, sources: list[str]) -> list[str]:
        """Steps before a node's own, padding and copies in other orders and scales; what it reads then."""
        walk = self._walk
        inputs = walk.flow.inputs[node]
        if not inputs:
            return sources
        sources = self.orders.in_shape(node, self.orders.in_order(node, sources))
        if joins(node):  # all that is concatenated has one scale, which other readers do not share
            shared = [one for one in sources if one in walk.writers and len(self._readers(one)) > 1]
            for i, one in enumerate(shared):
                sources = walk.extra(f"{node.name}:scale{i}", one, 1, 1, sources, ("QUANTIZE",), ())
            return sources
        source = inputs[0]
        name, value = walk.held.get(source), walk.value(source)
        if not isinstance(name, str) or not isinstance(value, Tensor):
            return sources
        padding = padding_of(walk.module_of(node), node, value, self._padded.get(source))
        if padding is not None:
            before = self._padded.get(source, ((0, 0),) * (value.dim() - 2))
            space = prod(n - sum(sides) for n, sides in zip(value.shape[2:], before))
            around = (tuple(padding), tuple(value.shape[2:]))
            now = sources[0] if sources else name
            kinds = _AROUND.get(getattr(walk.module_of(node), "padding_mode", "zeros"), ("PAD",))
            if takes_maxima(walk.module_of(node), node):
                return self._rings(node, now, sources, around, space)
            inner = source in self._padded and walk.flow.inputs[source][0].op != "placeholder"
            if inner and value.dim() == 3 and self._is_branched(source):
                kinds = ("TRANSPOSE", "TRANSPOSE", *kinds, "TRANSPOSE")  # it leaves the order of channels last for that
            return walk.extra(
                f"{node.name}:pad", now, prod(padding), space, sources, kinds, (("PAD", _margins(around)),)
            )
        return sources

    def _rings(self, node: fx.Node, now: str, sources: list[str], around: Any, space: int) -> list[str]:
        """Copies of the rim, one step for each row and column: converters know no more of them at once."""
        padded, sizes = around
        for ring in range(1, max(p - n for p, n in zip(padded, sizes)) // 2 + 1):
            grown = tuple(min(p, n + 2 * ring) for p, n in zip(padded, around[1]))
            constants = (("PAD", _margins((grown, sizes))),)
            name = f"{node.name}:pad{ring}"
            sources = self._walk.extra(name, now, prod(grown), space, sources, ("MIRROR_PAD",), constants)
            now, space, sizes = name, prod(grown), grown
        return sources

    def finish(self, node: fx.Node, sources: list[str]) -> list[str]:
        """The network's outputs as they are given."""
        self._write(sources)
        buffers = self._walk.found.buffers
        for name in self._later:  # nobody reads them
            del buffers[name]
        self._later.clear()
        for step in self._walk.found.steps:  # the quantiser adds its own tensors behind all others
            if step.operations in (("QUANTIZE",), ("DEQUANTIZE",)):
                buffers[step.writes[0]] = buffers.pop(step.writes[0])
        return self.orders.in_shape(node, sources)

    def _is_branched(self, padded: fx.Node) -> bool:
        """Whether another convolution or pooling reads what a function pads."""
        walk = self._walk
        others = set(walk.flow.users[walk.flow.inputs[padded][0]]) - {padded}
        return any(knows_padding(walk.module_of(user), user) for user in others)

    def _readers(self, name: str) -> set[fx.Node]:
        walk = self._walk
        return {user for holder in walk.holders[name] for user in walk.flow.users[holder]} - set(walk.holders[name])

    def _pads_its_reader(self, node: fx.Node) -> bool:
        """Whether a node only puts zeros around the input of one convolution or pooling, which takes that over.

        Of several in a row the last one knows all.
        """
        walk = self._walk
        own = zeros_around(walk.module_of(node), node)
        assert own is not None
        before = self._padded.get(walk.flow.inputs[node][0], ((0, 0),) * len(own))
        around = tuple((a + c, b + d) for (a, b), (c, d) in zip(own, before, strict=True))
        users = list(walk.flow.users[node])
        if self.orders.pads_in_torch_order(node):
            return False
        if len(users) != 1 or (len(own) == 1 and self.orders.found.get(walk.flow.inputs[node][0]) == "first"):
            return False
        user = walk.module_of(users[0]), users[0]
        cuts = min(min(sides) for sides in around) < 0
        if zeros_around(*user) is None and (cuts or not knows_padding(*user) or takes_maxima(*user)):
            return False
        self._padded[node] = around
        return True

    def _cuts_for_its_reader(self, node: fx.Node, sources: list[str]) -> bool:
        """Whether a node cuts some sides off and pads others of what one convolution or pooling reads, which pads itself."""
        walk, users = self._walk, list(self._walk.flow.users[node])
        own = None if self.orders.pads_in_torch_order(node) else zeros_around(walk.module_of(node), node)
        if own is None or len(users) != 1:
            return False
        user = walk.module_of(users[0]), users[0]
        if not knows_padding(*user) or takes_maxima(*user):
            return False
        before = self._padded.get(walk.flow.inputs[node][0], ((0, 0),) * len(own))
        own = tuple((a + c, b + d) for (a, b), (c, d) in zip(own, before, strict=True))
        around = tuple((max(a, 0), max(b, 0)) for a, b in own)
        value = walk.value(node)
        if around == own or not any(map(any, around)):
            return False
        walk.hold(node, walk.new(node, value, node.name))
        buffer, whole = walk.found.buffers[node.name], prod(value.shape[2:])
        cut = prod(n - sum(sides) for n, sides in zip(value.shape[2:], around))
        if isinstance(buffer.channels, int):
            cut_buffer = Buffer(buffer.elements() * cut // whole, 1, buffer.bits)
        else:
            cut_buffer = Buffer(buffer.channels, buffer.per_channel * cut // whole, buffer.bits)
        walk.found.buffers[node.name] = cut_buffer
        walk.add(node, sources, (node.name,), None, "", ("SLICE",), ((node.name, 0), (node.name, 1)))
        self.orders.inherit(node, walk.flow.inputs[node][0])
        self._padded[node] = around
        return True


def _margins(around: Any) -> tuple[int, ...]:
    padded, given = around
    return tuple(p - g for p, g in zip(padded, given))
