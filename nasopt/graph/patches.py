"""Functions of Python and torch that are replaced while one model is traced, for the tracing thread alone, and always put back.

What a replaced function does: where a proxy is among its arguments it becomes a node, or is run by the tracer; else nothing
changes. One trace at a time holds the lock.
"""

from __future__ import annotations

import builtins
import importlib
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from inspect import getattr_static
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.amp import autocast_mode
from torch.overrides import is_tensor_method_or_property
from torch.utils import checkpoint

from nasopt.graph.custom_functions import traced_apply
from nasopt.graph.einsums import split_equation
from nasopt.graph.opened import opened_functions
from nasopt.graph.pickling import CONSTRUCTORS
from nasopt.graph.proxy import has_proxy, isinstance_proxy
from nasopt.graph.tracer import ValueTracer
from nasopt.graph.tracing_mode import TracingMode
from nasopt.graph.users_code import users_namespaces
from nasopt.graph.values import UNKNOWN

LOCK = threading.RLock()
_is_instance = builtins.isinstance
_type = builtins.type

# Their arguments are parsed before the proxies among them are asked.
_SIZED_METHODS = (
    "expand",
    "view",
    "reshape",
    "repeat",
    "tile",
    "new_zeros",
    "new_ones",
    "new_empty",
    "narrow",
    "permute",
)
# Older versions of torch take no proxy for a list of tensors, or for sizes.
_OF_LISTS = ("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "column_stack")
_FOURIER = (
    "fft", "ifft", "rfft", "irfft", "hfft", "ihfft", "fft2", "ifft2", "rfft2", "irfft2", "fftn", "ifftn", "rfftn",
    "irfftn",
)  # fmt: skip
# What they return is another one at every call.
_RANDOM = {
    "rand", "randn", "randint", "randperm", "normal", "bernoulli", "rand_like", "randn_like", "randint_like", "multinomial",
    "poisson", "empty", "empty_like", "bernoulli_", "uniform_", "normal_", "random_", "exponential_", "geometric_",
    "log_normal_", "cauchy_", "dropout", "alpha_dropout",
}  # fmt: skip


@contextmanager
def tracing(tracer: ValueTracer, root: nn.Module) -> Iterator[None]:
    """Replace everything for one trace of `root`."""
    # Else the first fake tensor imports it, which would find `builtins` replaced.
    dynamo = importlib.import_module("torch._dynamo")
    with LOCK, ExitStack() as stack:
        tracer.thread = threading.get_ident()
        for namespace, name, replacement in _replacements(tracer, root):
            stack.callback(_put_back, namespace, name, _current(namespace, name))
            _put(namespace, name, replacement)
        stack.enter_context(
            dynamo.config.patch(error_on_nested_fx_trace=False)
        )  # what is compiled is traced as it was written
        stack.enter_context(opened_functions())
        stack.enter_context(traced_apply(tracer))
        with torch.enable_grad(), torch.inference_mode(False), FunctionMode(tracer):
            yield


_ABSENT = object()


def _current(namespace: Any, name: str) -> Any:
    return (namespace if _type(namespace) is dict else vars(namespace)).get(name, _ABSENT)


def _put(namespace: Any, name: str, value: Any) -> None:
    if _type(namespace) is dict:
        namespace[name] = value
    else:
        setattr(namespace, name, value)


def _put_back(namespace: Any, name: str, value: Any) -> None:
    if value is not _ABSENT:
        _put(namespace, name, value)
    elif _type(namespace) is dict:
        del namespace[name]
    else:
        delattr(namespace, name)


def _replacements(tracer: ValueTracer, root: nn.Module) -> Iterator[tuple[Any, str, Any]]:
    yield vars(builtins), "isinstance", _make_isinstance(tracer)
    for name in CONSTRUCTORS:
        yield vars(torch), name, _as_node(getattr(torch, name), tracer)
    for name in _FOURIER:
        yield vars(torch.fft), name, _as_node(getattr(torch.fft, name), tracer, _has_sizes)
    for name in _OF_LISTS:
        yield vars(torch), name, _as_node(getattr(torch, name), tracer, _is_of_one)
    for name in _SIZED_METHODS:
        yield Tensor, name, _as_method(getattr(Tensor, name), name, tracer)
    yield torch._C.ScriptFunction, "__call__", _make_script_call(tracer)
    yield vars(checkpoint), "_checkpoint_without_reentrant_generator", _make_checkpoint(tracer)
    yield autocast_mode.autocast, "__enter__", _make_enter(tracer)
    yield autocast_mode.autocast, "__exit__", _make_exit(tracer)
    yield nn.Module, "__setattr__", _make_setattr(tracer)
    yield nn.Module, "training", _make_training(tracer)
    forwards = (getattr(getattr_static(_type(module), "forward", None), "__globals__", {}) for module in root.modules())
    namespaces = {id(g): g for g in forwards}.values()
    # Not in `builtins`: a class of classes that is defined meanwhile, by an import, must get the true one.
    shadow = _make_type(tracer)
    for namespace in users_namespaces(namespaces):
        yield namespace, "type", shadow
        if namespace.get("len", builtins.len) is builtins.len:
            yield namespace, "len", partial(_length, tracer)
    for namespace in namespaces:
        for key, value in list(namespace.items()):
            if callable(value) and any(value is whole for whole in tracer.whole_functions):
                yield namespace, key, _as_node(value, tracer)


def _as_node(
    function: Callable[..., Any], tracer: ValueTracer, asks: Callable[[Any, Any], bool] = has_proxy
) -> Callable[..., Any]:
    """The function, a node where `asks(args, kwargs)`."""

    def replaced(*args: Any, **kwargs: Any) -> Any:
        if tracer.listens() and (asks(args, kwargs) or tracer.made_for_device(kwargs.get("device"))):
            return tracer.create_proxy("call_function", function, args, kwargs)
        return function(*args, **kwargs)

    return replaced


def _has_sizes(args: Any, kwargs: Any) -> bool:
    return has_proxy(args[1:], kwargs)


def _is_of_one(args: Any, kwargs: Any) -> bool:
    return bool(isinstance_proxy(args[0] if args else kwargs.get("tensors")))


def _as_method(method: Callable[..., Any], name: str, tracer: ValueTracer) -> Callable[..., Any]:
    def sized(self: Any, *args: Any, **kwargs: Any) -> Any:
        if tracer.listens() and has_proxy(args, kwargs):
            return tracer.create_proxy("call_method", name, (self, *args), kwargs)
        return method(self, *args, **kwargs)

    return sized


def _make_isinstance(tracer: ValueTracer) -> Callable[[Any, Any], bool]:
    def isinstance(value: Any, kind: Any) -> bool:
        if not isinstance_proxy(value) or _is_instance(value, kind):
            return _is_instance(value, kind)
        known = tracer.original(value) if tracer.listens() else UNKNOWN
        return known is not UNKNOWN and _is_instance(known, kind)

    return isinstance


def _length(tracer: ValueTracer, value: Any) -> Any:
    """`len`, which of a tensor is a size that the graph asks for, as `x.shape[0]` is."""
    is_tensor = isinstance_proxy(value) and tracer.listens() and _is_instance(value.value, Tensor)
    return value.shape[0] if is_tensor and value.value.dim() else len(value)


def _make_type(tracer: ValueTracer) -> type:
    """`type`, which says of a proxy what it stands for."""

    class Meta(type):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            if len(args) != 1 or not isinstance_proxy(args[0]):
                return _type(*args, **kwargs)
            known = tracer.original(args[0])
            kind = _type(args[0]) if known is UNKNOWN else _type(known)
            return Tensor if issubclass(kind, Tensor) and kind is not nn.Parameter else kind

        def __instancecheck__(cls, value: Any) -> bool:
            return _is_instance(value, _type)

        def __subclasscheck__(cls, kind: type) -> bool:
            return issubclass(kind, _type)

        def __getitem__(cls, item: Any) -> Any:
            return types.GenericAlias(_type, item)

        def __eq__(cls, other: object) -> bool:
            return other is _type or other is cls

        __hash__ = type.__hash__

    return Meta("type", (type,), {})


def _make_script_call(tracer: ValueTracer) -> Callable[..., Any]:
    original = torch._C.ScriptFunction.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if tracer.listens() and has_proxy(args, kwargs):
            return tracer.call_function_unit(self, args, kwargs)
        return original(self, *args, **kwargs)

    return call


def _make_checkpoint(tracer: ValueTracer) -> Callable[..., Any]:
    """The function runs as it is: activations are kept, numbers are the same."""
    original = checkpoint._checkpoint_without_reentrant_generator

    def generator(*args: Any, **kwargs: Any) -> Iterator[None]:
        if not tracer.listens():
            return (yield from original(*args, **kwargs))
        yield

    return generator


def _make_enter(tracer: ValueTracer) -> Callable[[Any], Any]:
    original = autocast_mode.autocast.__enter__

    def enter(self: Any) -> Any:
        result = original(self)
        if tracer.listens():
            tracer.enter_autocast(self)
        return result

    return enter


def _make_exit(tracer: ValueTracer) -> Callable[..., Any]:
    original = autocast_mode.autocast.__exit__

    def leave(self: Any, *error: Any) -> Any:
        if tracer.listens():
            tracer.leave_autocast(self)
        return original(self, *error)

    return leave


def _make_training(tracer: ValueTracer) -> property:
    """The mode of modules, which notes that `forward` asks for it: one that never does is the same in both modes."""

    def read(module: nn.Module) -> bool:
        if tracer.listens():
            tracer.reads_mode = True
        try:
            return bool(vars(module)["training"])
        except KeyError:  # TorchScript's modules keep it elsewhere
            raise AttributeError("training") from None

    def write(module: nn.Module, value: bool) -> None:
        vars(module)["training"] = value

    return property(read, write)


def _make_setattr(tracer: ValueTracer) -> Callable[[nn.Module, str, Any], None]:
    original = nn.Module.__setattr__

    def set_attribute(self: nn.Module, name: str, value: Any) -> None:
        if isinstance_proxy(value) and tracer.listens() and self.__dict__.get("_buffers", {}).get(name) is not None:
            tracer.assigned[self, name] = None
            self._buffers[name] = value  # type: ignore[assignment]
        else:
            original(self, name, value)

    return set_attribute


class FunctionMode(TracingMode):
    """Calls of torch with proxies anywhere in their arguments, and calls that draw random numbers, become nodes."""

    def __init__(self, tracer: ValueTracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        tracer = self.tracer
        if not tracer.listens() or not (
            has_proxy(args, kwargs) or name in _RANDOM or tracer.is_models(name, args, kwargs)
        ):
            return function(*args, **kwargs)
        tracer.forget_indices()
        if _is_instance(function, torch._C.ScriptMethod):
            return tracer.create_proxy("call_method", function.name, (function.owner, *args), kwargs)
        if name == "__get__":
            return getattr(args[0], function.__self__.__name__)
        if is_tensor_method_or_property(function):
            return tracer.create_proxy("call_method", name, args, kwargs)
        if function is torch.einsum and len(args) == 2 and _is_instance(args[1], (list, tuple)):
            args = (args[0], *args[1])
        if function is torch.einsum and not kwargs:
            result = args[1]
            pairs = split_equation(args)
            for equation, second in pairs:
                result = tracer.create_proxy("call_function", function, (equation, result, args[second]), {})
            if pairs:
                return result
        hint = tracer.graph._target_to_str(name) if _is_instance(tracer.graph, fx.Graph) else None
        return tracer.create_proxy("call_function", function, args, kwargs, name=hint)
