"""Proxies that stand for tensors and sizes while a model is traced, and answer Python's questions from a fake value.

A proxy of a tensor never says that it is one to C code, which would believe it and read its memory: `isinstance` answers
for it in Python (see `patches`). Comparisons of sizes are plain bools, and devices, dtypes and ranks plain values. Whatever
of a size became a plain value is noted with the tracer, because the graph holds for inputs with this answer only.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from nasopt.errors import TraceError
from nasopt.graph.augmented import augmented_methods
from nasopt.graph.callsite import is_shown_only, place_of, takes_key, user_frame
from nasopt.graph.values import UNKNOWN

# They change the shape of a tensor in place; the graph's values would describe the changed one from the start.
_RESHAPE_IN_PLACE = {"unsqueeze_", "squeeze_", "transpose_", "t_", "swapaxes_", "swapdims_", "resize_", "resize_as_"}
# Methods whose integer says what kind of tensor this is, not how large.
_KIND_METHODS = {"dim", "ndimension", "element_size", "get_device"}
_PLAIN = (bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
_OWN_ATTRIBUTES = {"tracer", "node", "root", "attribute", "_node"}

# `type` itself, which is replaced for the user's code.
_type = type


class DataDependent(Exception):
    """Python asked for something that only real data can answer."""


class ValueProxy(fx.Proxy):
    """A proxy that answers Python's questions from the fake value of its node."""

    tracer: Any

    @property
    def value(self) -> Any:
        return self.node.meta["value"]

    def _concrete(self, question: str) -> Any:
        value = self.value
        if value is UNKNOWN or isinstance(value, Tensor):
            raise DataDependent(f"{question} of a tensor's data is asked for")
        return value

    def _noted(self, question: str) -> Any:
        """The plain value, which the graph relies on from now on."""
        value = self._concrete(question)
        self.tracer.rely_on(self.node, value)
        return value

    # Sizes are what they look like; a tensor is a proxy, because C code asks for the class, too.
    @property  # type: ignore[misc]
    def __class__(self) -> type:
        node = self.__dict__.get("node")
        value = node.meta.get("value", UNKNOWN) if node is not None else UNKNOWN
        return ValueProxy if value is UNKNOWN or isinstance(value, Tensor) else type(value)

    def __bool__(self) -> bool:
        value = self._concrete("the truth")
        if type(value) is bool or isinstance(value, (int, float)):
            self.tracer.rely_on_truth(self.node, bool(value))
        return bool(value)

    def __int__(self) -> int:
        return int(self._noted("the integer"))

    def __index__(self) -> int:
        value = operator.index(self._concrete("the integer"))
        self.tracer.rely_on_index(self.node, value)
        return value

    def __float__(self) -> float:
        return float(self._noted("the number"))

    def __complex__(self) -> complex:
        return complex(self._noted("the number"))

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        import numpy as np

        return np.asarray(self._noted("the array"), dtype=dtype)

    def __hash__(self) -> int:
        value = self.value
        if value is UNKNOWN or isinstance(value, Tensor):
            return id(self)
        if not takes_key(user_frame()):
            # A cached function would hand the symbols of this graph to whoever calls it next.
            raise TypeError(f"unhashable: a size of {value} while the model is traced")
        return hash(self._noted("the hash"))

    def _text(self) -> str:
        value = self.value
        if value is UNKNOWN or isinstance(value, Tensor):
            return f"Proxy({self.node.name})"
        if isinstance(value, (int, float)) and not is_shown_only(user_frame()):
            self.tracer.rely_on(self.node, value)
        return str(value)

    def __str__(self) -> str:
        return self._text()

    def __repr__(self) -> str:
        value = self.node.meta.get("value", UNKNOWN)
        return f"Proxy({self.node.name})" if value is UNKNOWN or isinstance(value, Tensor) else repr(value)

    def __format__(self, spec: str) -> str:
        text = self._text()
        return format(self.value, spec) if spec else text

    def __len__(self) -> int:
        if self.value is UNKNOWN:
            raise DataDependent("the length of data is asked for")
        if isinstance(self.value, Tensor):
            return int(self.shape[0])
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
        if isinstance(index, slice) and type(self.value) in (tuple, list):
            # Functions of torch before 2.7 take no proxy in the place of several tensors, `cat(x.chunk(3, 1)[::-1], 1)`.
            return type(self.value)(self[i] for i in range(len(self))[index])
        return self.tracer.create_proxy("call_function", operator.getitem, (self, index), {})

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __copy__(self) -> ValueProxy:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self.clone() if isinstance(self.value, Tensor) else self

    def __getattr__(self, name: str) -> Any:
        value: Any = self.node.meta.get("value", UNKNOWN)
        if isinstance(value, dict) and name in _OF_DICTS:
            return partial(_OF_DICTS[name], self, value)
        if value is not UNKNOWN and not hasattr(value, name):
            raise AttributeError(f"{type(value).__name__!r} object has no attribute {name!r}")
        if isinstance(value, tuple) and name in getattr(value, "_fields", ()):
            return self[list(value._fields).index(name)]  # type: ignore[attr-defined]
        if isinstance(value, Tensor) and name in _PLAIN_ATTRIBUTES:
            return _PLAIN_ATTRIBUTES[name](self, value)
        return ValueAttribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN_ATTRIBUTES:
            object.__setattr__(self, name, value)
        elif name == "data":
            self.data.copy_(value)
        elif name != "requires_grad" or value:
            raise TraceError(
                f"a tensor's attribute {name!r} is set while the model runs, at {place_of(user_frame())}, which a graph "
                "cannot follow: move this code into a module of its own and name it in leaf_modules="
            )

    # Rounding keeps following the size.
    def __round__(self, digits: Any = None) -> Any:
        return self.tracer.create_proxy("call_function", round, (self,) if digits is None else (self, digits), {})

    def __ceil__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.ceil, (self,), {})

    def __floor__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.floor, (self,), {})

    def __trunc__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.trunc, (self,), {})

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self


def _compared(function: Callable[[Any, Any], Any]) -> Callable[[ValueProxy, Any], Any]:
    def compare(self: ValueProxy, other: Any) -> Any:
        if self.value is UNKNOWN or isinstance(self.value, Tensor) or _is_tensor(other):
            return self.tracer.create_proxy("call_function", function, (self, other), {})
        plain = other.value if isinstance_proxy(other) else other
        if type(plain) in (tuple, list, torch.Size) and any(isinstance_proxy(item) for item in plain):
            plain = type(plain)([item.value if isinstance_proxy(item) else item for item in plain])
        answer = function(self.value, plain)
        if isinstance(plain, (int, float, tuple, list)):
            self.tracer.rely_on_comparison(function, self, other, answer)
        return answer

    return compare


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(ValueProxy, f"__{_name}__", _compared(getattr(operator, _name)))


for _name, _method in augmented_methods().items():
    setattr(ValueProxy, _name, _method)


# Keys of a dict are plain, what it holds are proxies.
_OF_DICTS: dict[str, Callable[..., Any]] = {
    "keys": lambda proxy, known: known.keys(),
    "values": lambda proxy, known: [proxy[key] for key in known],
    "items": lambda proxy, known: [(key, proxy[key]) for key in known],
    "get": lambda proxy, known, key, default=None: proxy[key] if key in known else default,
}


def _is_tensor(value: Any) -> bool:
    return isinstance(value.value if isinstance_proxy(value) else value, Tensor)


def _device(proxy: ValueProxy, value: Tensor) -> torch.device:
    return proxy.tracer.hand_out_device(proxy, value.device)


def _dtype(proxy: ValueProxy, value: Tensor) -> torch.dtype:
    return proxy.tracer.hand_out_dtype(proxy, value.dtype)


def _plain_attribute(name: str) -> Callable[[ValueProxy, Tensor], Any]:
    return lambda proxy, value: getattr(value, name)


# What a graph would gain nothing from following, or the tracer follows by itself (`Tracer.create_arg`).
_PLAIN_ATTRIBUTES: dict[str, Callable[[ValueProxy, Tensor], Any]] = {
    "device": _device,
    "dtype": _dtype,
    **{
        name: _plain_attribute(name)
        for name in (
            "ndim",
            "layout",
            "is_cuda",
            "is_cpu",
            "is_mps",
            "is_meta",
            "is_sparse",
            "is_quantized",
            "itemsize",
        )
    },
    "requires_grad": lambda proxy, value: False,
    "grad_fn": lambda proxy, value: None,
    "is_leaf": lambda proxy, value: False,
}


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
        kind = ValueAttribute if value is UNKNOWN else type(getattr(value, self.attribute))
        return ValueAttribute if issubclass(kind, Tensor) else kind

    __hash__ = ValueProxy.__hash__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.attribute in _RESHAPE_IN_PLACE:
            raise TraceError(
                f"`{self.attribute}` changes a tensor's shape in place, which a graph cannot follow: "
                f"write `x = x.{self.attribute.rstrip('_')}(...)`"
            )
        result = self.tracer.create_proxy("call_method", self.attribute, (self.root, *args), kwargs)
        if self.attribute in _KIND_METHODS and isinstance_proxy(result) and type(result.value) is int:
            return result.value
        return result


def plain_result(result: ValueProxy) -> Any:
    """A result that says what kind of tensor something is (a dtype, whether it floats) as a plain value, else the proxy."""
    value = result.node.meta.get("value", UNKNOWN)
    return value if isinstance(value, _PLAIN) else result


def isinstance_proxy(value: Any) -> bool:
    """Whether `value` is a proxy; `isinstance` would ask for the class of its value."""
    return _type(value) in (ValueProxy, ValueAttribute)


_CONTAINERS = (tuple, list, dict)
_NO_PROXIES = (int, float, bool, str, bytes, _type(None), Tensor, nn.Parameter, torch.dtype, torch.device)


def has_proxy(*values: Any) -> bool:
    """Whether a proxy is somewhere in these values."""
    for value in values:
        kind = _type(value)
        if kind in _CONTAINERS:
            if has_proxy(*(value.values() if kind is dict else value)):
                return True
        elif isinstance_proxy(value) or (
            kind not in _NO_PROXIES and any(map(isinstance_proxy, pytree.tree_leaves(value)))
        ):
            return True
    return False
