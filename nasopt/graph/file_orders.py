"""In which order of dimensions tensors of a TFLite file lie, and the operations that change it.

Images lie with their channels last, until something reads them in torch's order. Tensors of three dimensions that a layer over
time makes are images of height 1.
"""

from __future__ import annotations

import operator
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from nasopt.graph.lowered import is_turned, parts_of
from nasopt.graph.materialised import is_folded, is_moved, order_of, permutation_of
from nasopt.graph.walk import Walk
from nasopt.graph.windows import zeros_around

Order = Literal["last", "first"]


class Orders:
    """Orders of the results of one walk.

    Attributes:
        found: order by node; results that may still lie in any are not in it.
        flat: results of chained linear layers, which have two dimensions.
    """

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.found: dict[fx.Node, Order] = {}
        self.flat: set[fx.Node] = set()

    def inherit(self, node: fx.Node, source: fx.Node) -> None:
        """The result of a node lies as its input."""
        if source in self.found:
            self.found[node] = self.found[source]
        if source in self.flat:
            self.flat.add(node)

    def permutes_for_free(self, node: fx.Node) -> bool:
        """Whether a node only undoes the order in which its input lies."""
        source = self.walk.flow.inputs[node][0] if self.walk.flow.inputs[node] else None
        value = self.walk.value(source) if source is not None else None
        order = permutation_of(node, value.dim()) if isinstance(value, Tensor) else None
        users = list(self.walk.flow.users[node])
        if source is not None and (is_folded(node) or (len(users) == 1 and _reads_turned(users[0], node, value))):
            self.inherit(node, source)
            return True
        if order is None or source is None:
            return False
        if source.op == "placeholder" and order in ((0, 3, 1, 2), (0, 2, 1)):
            # Inputs whose order the network itself changes are given in that order.
            self.found[node] = "last" if len(order) == 4 else "first"
        elif order == (0, 2, 3, 1) and self.found.get(source) == "last":
            self.found[node] = "first"
        elif order == (0, 3, 1, 2) and self.found.get(source) == "first":
            self.found[node] = "last"
        else:
            return False
        return True

    def pads_in_torch_order(self, node: fx.Node) -> bool:
        """Whether a node pads what a mean over windows or an enlargement wrote: the converter leaves torch's order there."""
        walk, inputs = self.walk, self.walk.flow.inputs[node]
        around = zeros_around(walk.module_of(node), node) if inputs else None
        if around is None or min(map(min, around)) < 0:  # cuts are written where channels are last
            return False
        name = walk.held.get(inputs[0])
        writer = next((step for step in reversed(walk.found.steps) if name in step.writes), None)
        return writer is not None and writer.operations[-1] in ("AVERAGE_POOL_2D", "RESIZE_BILINEAR")

    def in_order(self, node: fx.Node, sources: list[str]) -> list[str]:
        """Changes of the order before a node; what it reads then."""
        walk = self.walk
        inputs = [
            x for x in walk.flow.inputs[node] if isinstance(walk.held.get(x), str) and isinstance(walk.value(x), Tensor)
        ]
        wanted = order_of(walk.module_of(node), node, walk.value(inputs[0]) if inputs else None, walk.value(node))
        telling = [x for x in inputs if x in self.found and not _is_trivial(walk.value(x))]
        orders = {self.found[x] for x in telling or inputs if x in self.found}
        result: Order | None
        want: Order | None
        if inputs and permutation_of(node, walk.value(inputs[0]).dim()) is not None:
            rank = walk.value(inputs[0]).dim()
            result, want = "first" if rank == 3 else None, None  # two changes of the order of images are one
        elif self.pads_in_torch_order(node):
            result = want = "first"
        elif wanted == "any":
            result = "first" if "first" in orders else "last" if orders else None
            want = result if len(orders) > 1 else None
        else:
            result = want = "last" if wanted == "last" else "first"
        value = walk.value(node)
        for x in inputs:
            lies, name = self.found.get(x), str(walk.held[x])
            if want is None or lies in (None, want) or name not in sources:
                continue
            which = name if len(inputs) > 1 else ""
            for number, kind in enumerate(self._changes(node, x, want)):
                step = f"{node.name}:order{number or ''}{which}"
                sources = walk.extra(step, name, 1, 1, sources, (kind,), ((kind, want, walk.value(x).dim()),))
                name = step
        value = walk.value(node)
        if result is not None and isinstance(value, Tensor) and value.dim() in (3, 4):
            self.found[node] = result
        return sources

    def _changes(self, node: fx.Node, source: fx.Node, want: Order) -> list[str]:
        """Operations that bring an input into another order."""
        walk, value = self.walk, self.walk.value(source)
        rank, result = value.dim(), walk.value(node)
        # Of three dimensions one is left out, which a reshape does by itself.
        reshapes = isinstance(walk.module_of(node), nn.Flatten) or parts_of(None, node, result, result)[0].kinds == (
            "RESHAPE",
        )
        if _is_trivial(value):
            return ["RESHAPE"] if rank == 3 and want == "first" and not reshapes else []
        if rank == 4 or reshapes or self.pads_in_torch_order(node) or self.pads_in_torch_order(source):
            return ["TRANSPOSE"]
        if want == "first":
            return ["TRANSPOSE", "RESHAPE"]
        before = [step.operations for step in walk.found.steps[-2:] if step.operations != ("PAD",)]
        shaped = before[-1:] == [("RESHAPE",)] and len(walk.flow.users[source]) == 1  # both reshapes are one
        return ["TRANSPOSE"] if shaped else ["RESHAPE", "TRANSPOSE"]

    def in_shape(self, node: fx.Node, sources: list[str]) -> list[str]:
        """Chained linear layers have results of two dimensions, which others than such layers and sums take apart again."""
        walk = self.walk
        inputs = [
            x for x in walk.flow.inputs[node] if isinstance(walk.held.get(x), str) and isinstance(walk.value(x), Tensor)
        ]
        flat = [x for x in inputs if x in self.flat]
        module, value = walk.module_of(node), walk.value(node)
        if isinstance(module, nn.Linear):
            writer = walk.writers.get(str(walk.held.get(inputs[0]))) if inputs else None
            chained = writer is not None and isinstance(walk.module_of(writer), nn.Linear)
            if chained and isinstance(value, Tensor) and value.dim() > 2:
                self.flat.add(node)
        elif flat and (is_moved(module, node) or node.op == "output"):
            for x in flat:
                name = str(walk.held[x])
                kind = (("RESHAPE", tuple(walk.value(x).shape)),)
                sources = walk.extra(
                    f"{node.name}:shape{name if len(flat) > 1 else ''}", name, 1, 1, sources, ("RESHAPE",), kind
                )
        elif flat and len(flat) == len(inputs):
            self.flat.add(node)
        elif _is_product(node) and is_turned(node.args[1]) and isinstance(value, Tensor) and value.dim() == 3:
            self.flat.add(node)  # it is a linear layer there
        return sources


def _reads_turned(user: fx.Node, node: fx.Node, given: Any) -> bool:
    """Whether a product takes a matrix as it was before `node` transposed it."""
    return (
        _is_product(user)
        and isinstance(given, Tensor)
        and given.dim() == 3
        and user.args[1] is node
        and is_turned(node)
    )


def _is_product(node: fx.Node) -> bool:
    return node.op != "call_module" and node.target in (torch.matmul, torch.bmm, operator.matmul, "matmul", "bmm")


def _is_trivial(value: Any) -> bool:
    """Whether a tensor lies in memory alike in both orders."""
    return value.dim() not in (3, 4) or value.shape[1] == 1 or value.shape[2:].numel() == 1
