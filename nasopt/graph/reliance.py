"""What a graph relies on: plain values that Python has got of sizes, dtypes and devices, and checks that they still hold."""

from __future__ import annotations

import operator
from abc import abstractmethod
from types import FrameType
from typing import Any

import torch
from torch import fx

from nasopt.graph.callsite import place_of, user_frame
from nasopt.graph.proxy import ValueProxy


class RelyingTracer(fx.Tracer):
    """The part of the tracer that hands out plain values and notes what the graph relies on."""

    def __init__(self) -> None:
        super().__init__()
        self._of_input: set[fx.Node] = set()
        self._relied_on: set[Any] = set()
        # Sizes that C code has asked for since the last call: (place of the question, what was noted, check and condition).
        self._asked_by_c: list[tuple[Any, tuple[fx.Node, Any], tuple[fx.Node, fx.Node]]] = []
        self._devices: dict[int, tuple[torch.device, ValueProxy]] = {}
        self._dtypes: dict[torch.dtype, ValueProxy] = {}

    @abstractmethod
    def listens(self) -> bool:
        """Whether what happens now is the model's own doing."""

    @abstractmethod
    def _evaluate(self, node: fx.Node) -> None:
        """Give a node its value."""

    def hand_out_device(self, proxy: ValueProxy, device: torch.device) -> torch.device:
        """A device object of its own, which is a node again where it comes back as an argument."""
        own = torch.device(str(device))
        self._devices[id(own)] = (own, proxy)
        return own

    def hand_out_dtype(self, proxy: ValueProxy, dtype: torch.dtype) -> torch.dtype:
        """The dtype itself; where a variable brings it back as an argument, it is that of the tensor again."""
        self._dtypes[dtype] = proxy
        return dtype

    def made_for_device(self, device: Any) -> bool:
        """Whether a device was read from a tensor of the model."""
        return type(device) is torch.device and id(device) in self._devices

    def rely_on(self, node: fx.Node, value: Any) -> None:
        """The graph holds where `node` has this value."""
        if isinstance(value, (int, float)) and self._is_new(node, value):
            self._check(operator.eq, (node, value), f"the number {value}")

    def rely_on_index(self, node: fx.Node, value: Any) -> None:
        """The graph holds where `node` is this index, unless the call that asks for it becomes a node."""
        if self._is_new(node, value):
            nodes = self._check(operator.eq, (node, value), f"the number {value}")
            self._asked_by_c.append((_position(user_frame()), (node, value), nodes))

    def forget_indices(self) -> None:
        """The call that runs becomes a node: what C code has asked before of sizes in its arguments follows in the graph."""
        here = _position(user_frame())
        for asked, noted, nodes in self._asked_by_c:
            if asked == here:
                self._relied_on.discard(noted)
                for node in nodes:
                    self.graph.erase_node(node)
        self._asked_by_c = []

    def rely_on_truth(self, node: fx.Node, truth: bool) -> None:
        """The graph holds where `node` is true, or is not."""
        if self._is_new(node, truth):
            self._check(operator.ne if truth else operator.eq, (node, 0), f"the answer {truth}")

    def rely_on_comparison(self, function: Any, left: ValueProxy, right: Any, answer: bool) -> None:
        """The graph holds where a comparison has this answer."""
        right = self.create_arg(right)
        if not self._is_new(left.node, (function, repr(right))):
            return
        opposite = _OPPOSITE[function] if not answer else function
        self._check(opposite, (left.node, right), f"the answer {answer}")

    def _is_new(self, node: fx.Node, what: Any) -> bool:
        if not self.listens() or node not in self._of_input or (node, what) in self._relied_on:
            return False
        self._relied_on.add((node, what))
        return True

    def _check(self, function: Any, args: tuple[Any, ...], answer: str) -> tuple[fx.Node, fx.Node]:
        condition = self.create_node("call_function", function, args, {})
        self._evaluate(condition)
        message = (
            f"{type(self.root).__name__} was traced on an example for which {place_of(user_frame())} has {answer}, and "
            "follows that path only; these inputs have another size there. Feed inputs of the example's sizes, wrap the "
            "model with these ones, or move the line into a module named in leaf_modules="
        )
        check = self.create_node("call_function", torch._assert, (condition, message), {})
        check.meta["value"] = None
        return check, condition


def _position(frame: FrameType | None) -> Any:
    return None if frame is None else (id(frame), frame.f_lasti)


_OPPOSITE = {
    operator.eq: operator.ne,
    operator.ne: operator.eq,
    operator.lt: operator.ge,
    operator.ge: operator.lt,
    operator.gt: operator.le,
    operator.le: operator.gt,
}
