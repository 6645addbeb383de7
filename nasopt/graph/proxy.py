"""What does Python see while a model is traced? Proxies that answer questions from a fake value."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx

from nasopt.errors import TraceError
from nasopt.graph.values import UNKNOWN

# They change the shape of a tensor in place; the graph's values would describe the changed one from the start.
_RESHAPE_IN_PLACE = {"unsqueeze_", "squeeze_", "transpose_", "t_", "swapaxes_", "swapdims_", "resize_", "resize_as_"}


class DataDependent(Exception):
    """Python asked for something that only real data can answer."""


class ValueProxy(fx.Proxy):
    """A proxy that answers Python's questions from the fake value of its node."""

    @property
    def value(self) -> Any:
        return self.node.meta["value"]

    def _concrete(self, question: str) -> Any:
        value = self.value
        if value is UNKNOWN or isinstance(value, Tensor):
            raise DataDependent(f"{question} of a tensor's data is asked for")
        return value

    # isinstance(x, torch.Tensor) is a question, too.
    @property  # type: ignore[misc]
    def __class__(self) -> type:
        node = self.__dict__.get("node")
        value = node.meta.get("value", UNKNOWN) if node is not None else UNKNOWN
        return ValueProxy if value is UNKNOWN else type(value)

    def __bool__(self) -> bool:
        return bool(self._concrete("the truth"))

    def __int__(self) -> int:
        return int(self._concrete("the integer"))

    def __index__(self) -> int:
        return int(self._concrete("the integer"))

    def __float__(self) -> float:
        return float(self._concrete("the number"))

    def __len__(self) -> int:
        if self.value is UNKNOWN:
            raise DataDependent("the length of data is asked for")
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self.value, dict):
            return iter(self.value)
        return iter([self[i] for i in range(len(self))])

    def __contains__(self, item: Any) -> bool:
        if isinstance(self.value, Tensor):
            raise DataDependent("the truth of a tensor's data is asked for")
        return item in list(self) if not isinstance(self.value, str) else item in self.value

    def __getitem__(self, index: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.getitem, (self, index), {})

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def keys(self) -> Any:
        return self.value.keys() if isinstance(self.value, dict) else ValueAttribute(self, "keys")

    def items(self) -> Any:
        return [(key, self[key]) for key in self.value]

    def __getattr__(self, name: str) -> Any:
        value: Any = self.node.meta.get("value", UNKNOWN)
        if value is not UNKNOWN and not hasattr(value, name):
            raise AttributeError(f"{type(value).__name__!r} object has no attribute {name!r}")
        if isinstance(value, tuple) and name in getattr(value, "_fields", ()):
            return self[list(value._fields).index(name)]  # type: ignore[attr-defined]
        return ValueAttribute(self, name)


class ValueAttribute(ValueProxy):
    """`proxy.name`: a node of its own only when it is used as a value, a method call when it is called."""

    def __init__(self, root: ValueProxy, name: str) -> None:
        self.root = root
        self.attribute = name
        self.tracer = root.tracer
        self._node: fx.Node | None = None

    @property
    def node(self) -> fx.Node:  # type: ignore[override]
        if self._node is None:
            self._node = self.tracer.create_proxy("call_function", getattr, (self.root, self.attribute), {}).node
        return self._node

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        value = self.root.value
        return ValueAttribute if value is UNKNOWN else type(getattr(value, self.attribute))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.attribute in _RESHAPE_IN_PLACE:
            raise TraceError(
                f"`{self.attribute}` changes a tensor's shape in place, which a graph cannot follow: "
                f"write `x = x.{self.attribute.rstrip('_')}(...)`"
            )
        return self.tracer.create_proxy("call_method", self.attribute, (self.root, *args), kwargs)


def isinstance_proxy(value: Any) -> bool:
    """Whether `value` is a proxy; `isinstance` would ask for the class of its value."""
    return type(value) in (ValueProxy, ValueAttribute)
