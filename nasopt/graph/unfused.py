"""What an int8 runtime cannot fold or fuse: norms, activations and islands of floats that run as steps of their own.

A runtime with integers runs a chain of a convolution, its norm and a clipping activation in one step. Everything here breaks such
a chain. The chains are those of the quantisation points (`points`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import fx, nn

from nasopt.graph.integer_roles import (
    BATCH_NORMS,
    activations_in,
    holds_floats,
    is_dropout,
    key_of,
    quantised_class,
    role_of,
)
from nasopt.graph.points import find_points
from nasopt.nn import BinaryActivation, BinaryConv2d, MultiHeadDepthwise, ReafConv2d

UnfusedKind = Literal["norm", "activation", "table", "float", "function"]

_POOLINGS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_OTHER_NORMS = {
    *("LayerNorm", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "RMSNorm", "LocalResponseNorm"),
    *("layer_norm", "group_norm", "instance_norm", "rms_norm"),
}
_SOFTMAX = {"Softmax", "softmax", "LogSoftmax", "log_softmax"}
_WITH_NUMBERS = {"add", "sub", "mul", "truediv", "div", "neg", "negative", "iadd", "isub", "imul"}


@dataclass(frozen=True)
class Unfused:
    """One finding.

    Attributes:
        layer: path of the layer, or name of the call of a function.
        kind: `"norm"`: not folded into a layer; `"activation"`: not fused with the step before; `"table"`: a lookup table, a
            step of its own; `"float"`: no integer form; `"function"`: a function with weights, which tools that exchange
            modules do not see.
        problem: what the runtime does, and why.
        cure: what to change.
    """

    layer: str
    kind: UnfusedKind
    problem: str
    cure: str


def find_unfused(module: fx.GraphModule) -> list[Unfused]:
    """Of a model from `trace_model`, in the order of the graph."""
    return list(_Lint(module).run())


class _Lint:
    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.points = find_points(module)
        self.activations: set[fx.Node] = set()
        for node in module.graph.nodes:
            depends = node.op == "placeholder" or any(one in self.activations for one in node.all_input_nodes)
            if depends and node.op != "output" and holds_floats(node):
                self.activations.add(node)
        # Calls that may still take an activation function into their own step.
        self.open: set[fx.Node] = set()
        self.seen: set[str] = set()

    def run(self) -> Iterator[Unfused]:
        for node in self.module.graph.nodes:
            if node.op not in ("call_module", "call_function", "call_method") or node not in self.activations:
                continue
            name = str(node.target) if node.op == "call_module" else node.name
            found = self._look(node, name)
            if found is not None and name not in self.seen:
                self.seen.add(name)
                yield found

    def _look(self, node: fx.Node, name: str) -> Unfused | None:
        inputs = activations_in(node, self.activations)
        before = inputs[0] if inputs else None
        alone = before is not None and len(before.users) == 1
        role, layer = role_of(self.module, node, self.activations), self._layer(node)
        if isinstance(layer, BATCH_NORMS) and layer.running_mean is not None:
            self.open.add(node)
            return None if name in self.points.absorbed else self._norm(node, name, before)
        if role == "writes" or isinstance(layer, (MultiHeadDepthwise, ReafConv2d)):
            self.open.add(node)
            return None
        if isinstance(layer, _POOLINGS) or "pool" in self._word(node):
            self.open.add(node)
            return None
        if role == "extends":
            if is_dropout(self.module, node):
                if before in self.open and alone:
                    self.open.add(node)
                return None
            fused = before in self.open and alone
            self.open.discard(node)
            return None if fused else self._activation(name, before)
        if role == "table":
            return self._table(name, self._word(node))
        return self._float(node, name, inputs) if role == "float" else None

    # --- one kind each

    def _norm(self, node: fx.Node, name: str, before: fx.Node | None) -> Unfused | None:
        told = self._word(before) if before is not None else "nothing"
        writer = self._layer(before) if before is not None else None
        if before is None or before.op == "placeholder":
            why, cure = (
                "it reads the network's input",
                "scale and shift the data before, or let a convolution be the first",
            )
        elif writer is not None and quantised_class(writer) is not None and len(before.users) > 1:
            why = f"{told} {before.target!s} before it is read elsewhere, too"
            cure = "let the other reader take the norm's result"
        elif writer is not None and quantised_class(writer) is not None:
            why, cure = (
                f"norm or {told} {before.target!s} is called more than once",
                "give every call a norm of its own",
            )
        elif isinstance(writer, ReafConv2d) and len(before.users) == 1:
            return None  # its last step is a convolution
        elif writer is not None and next(writer.parameters(), None) is not None:
            why, cure = f"{told} before it cannot take its scale", "nothing, where this layer is wanted"
        else:
            why = f"it follows {told}, which has no weights (a pre-activation network)"
            cure = "put it directly behind a convolution or linear layer: conv, norm, activation"
        return Unfused(
            name, "norm", f"{self._word(node)} runs as a multiplication and an addition per element: {why}", cure
        )

    def _activation(self, name: str, before: fx.Node | None) -> Unfused:
        told = self._word(before) if before is not None else "nothing"
        if before is not None and len(before.users) > 1 and before in self.open:
            why, cure = f"what {told} gives is read elsewhere, too", "let the other reader take the activation's result"
        elif before is not None and role_of(self.module, before, self.activations) in ("extends", "table"):
            why, cure = f"it follows another activation, {told}", "leave one of them out"
        else:
            why, cure = (
                f"it follows {told}",
                "move it before that, behind the convolution, where the result is the same",
            )
        return Unfused(name, "activation", f"it runs as a step of its own: {why}", cure)

    def _table(self, name: str, word: str) -> Unfused:
        problem = f"{word} runs as a step of its own, a lookup table: it reads and writes the whole tensor"
        if word in _WITH_NUMBERS:
            return Unfused(name, "table", problem, "take the number into the weights of a layer beside it")
        return Unfused(name, "table", problem, "ReLU and ReLU6 cost nothing behind a convolution")

    def _float(self, node: fx.Node, name: str, inputs: list[fx.Node]) -> Unfused | None:
        word = self._word(node)
        weights = any(one not in self.activations and one.op == "get_attr" for one in node.all_input_nodes)
        if any(user.op == "output" for user in node.users) and word in (
            "Softmax",
            "softmax",
            "LogSoftmax",
            "log_softmax",
        ):
            cure = "leave it out of what is deployed: the largest logit is the largest probability"
        elif word in _OTHER_NORMS or isinstance(self._layer(node), BATCH_NORMS):
            cure = "a batch norm with running statistics, behind a convolution, is folded; this one computes its own"
        elif refusal := getattr(self._layer(node), "file_refusal", ""):
            cure = f"no other layer does the same: {refusal}"
        elif isinstance(self._layer(node), (BinaryActivation, BinaryConv2d)):
            cure = "formats have no 1-bit layers, so it is written in floats: nasopt.methods.nasb.pack runs it on bits"
        elif weights:
            cure = "write it as a layer (nn.Conv2d, nn.Linear), which quantisers and converters know"
        else:
            cure = "use layers with an integer form: convolutions, additions, products, pooling, functions of one value"
        what = f"{word} with weights of its own" if weights else word
        problem = f"{what} has no integer form: the runtime converts to floats before it and back after it"
        return (
            Unfused(name, "function" if weights and node.op != "call_module" else "float", problem, cure)
            if inputs
            else None
        )

    def _layer(self, node: fx.Node) -> nn.Module | None:
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _word(self, node: fx.Node) -> str:
        layer = self._layer(node)
        if layer is not None:
            return type(layer).__name__
        key = key_of(self.module, node)
        return str(getattr(key, "__name__", key)) if key is not None else node.name
