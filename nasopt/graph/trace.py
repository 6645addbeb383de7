"""How does a model become a graph? torch.fx tracing with proxies that carry a fake value.

A proxy stays symbolic in the graph, so `x.view(b, c // 2, -1)` keeps following the channels, while Python may ask it for a
concrete bool, int, length or iteration: `if x.dim() == 4`, `for t in x.unbind()`, `assert c == 3` just work.
"""

from __future__ import annotations

import copy
import fnmatch
import itertools
import linecache
import operator
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from nasopt.errors import ConfigError, TraceError, nearest
from nasopt.graph.alternatives import Alternatives, check_branches
from nasopt.graph.example import Example, call_arguments
from nasopt.graph.modes import follow_mode
from nasopt.graph.values import UNKNOWN, Evaluator

LeafModules = Sequence[str | type[nn.Module]]

# Called with a proxy as their first size these fail in torch's argument parser, before the proxy is asked.
_CONSTRUCTORS = ("zeros", "ones", "empty", "rand", "randn")
# They change the shape of a tensor in place; the graph's values would describe the changed one from the start.
_RESHAPE_IN_PLACE = {"unsqueeze_", "squeeze_", "transpose_", "t_", "swapaxes_", "swapdims_", "resize_", "resize_as_"}


class _DataDependent(Exception):
    """Python asked for something that only real data can answer."""


class ValueProxy(fx.Proxy):
    """A proxy that answers Python's questions from the fake value of its node."""

    @property
    def value(self) -> Any:
        return self.node.meta["value"]

    def _concrete(self, question: str) -> Any:
        value = self.value
        if value is UNKNOWN or isinstance(value, Tensor):
            raise _DataDependent(f"{question} of a tensor's data is asked for")
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
            raise _DataDependent("the length of data is asked for")
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self.value, dict):
            return iter(self.value)
        return iter([self[i] for i in range(len(self))])

    def __contains__(self, item: Any) -> bool:
        if isinstance(self.value, Tensor):
            raise _DataDependent("the truth of a tensor's data is asked for")
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


class ValueTracer(fx.Tracer):
    """Traces one model for one example; `is_layer(module)` says which modules stay whole."""

    proxy_buffer_attributes = True

    def __init__(
        self,
        example: Example,
        is_layer: Callable[[nn.Module], bool],
        leaf_modules: LeafModules,
        whole_functions: Collection[Callable[..., Any]],
        full_name: Callable[[str], str] = str,
    ) -> None:
        super().__init__()
        self.full_name = full_name
        self.example = example
        self.is_layer = is_layer
        self.leaf_modules = leaf_modules
        self.whole_functions = whole_functions
        self.evaluating = False

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        self.evaluate = Evaluator(self.root)
        proxies = {}
        for name in self.example.traced:
            node = self.create_node("placeholder", name, (), {})
            node.meta["value"] = self.evaluate.to_fake(self.example.arguments[name])
            proxies[name] = self.proxy(node)
        args, kwargs = call_arguments(self.root, self.example, proxies)
        return lambda root: root_fn(root, *args, **kwargs), [self.root]

    def proxy(self, node: fx.Node) -> ValueProxy:
        return ValueProxy(node, self)

    def create_arg(self, a: Any) -> Any:
        return a.node if type(a) in (ValueProxy, ValueAttribute) else super().create_arg(a)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        self.evaluating = True
        try:
            proxy.node.meta["value"] = self.evaluate(proxy.node)
        finally:
            self.evaluating = False
        return proxy

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self.evaluating else super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.evaluating:
            return forward(*args, **kwargs)
        if isinstance(m, Alternatives) and not self.root.training:
            self._check_alternatives(m, args, kwargs)
        return super().call_module(m, forward, args, kwargs)

    def _check_alternatives(self, layer: Alternatives, args: Any, kwargs: Any) -> None:
        values = [x.value if isinstance_proxy(x) else x for x in (*args, *kwargs.values())]

        def evaluate(branch: nn.Module) -> Any:
            self.evaluating = True
            try:
                with torch.no_grad(), self.evaluate.mode:
                    return self.evaluate.module(branch)(*values)
            finally:
                self.evaluating = False

        check_branches(self.full_name(self.path_of_module(layer)), layer, values, evaluate)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        name = self.full_name(module_qualified_name)
        return matches_module(name, m, self.leaf_modules) or self.is_layer(m) or _is_torch_layer(m)


def trace(
    model: nn.Module,
    example: Example,
    is_layer: Callable[[nn.Module], bool],
    leaf_modules: LeafModules = (),
    whole_functions: Collection[Callable[..., Any]] = (),
    full_name: Callable[[str], str] | None = None,
) -> fx.GraphModule:
    """Copy `model` and trace the copy; every node has its fake value in `meta["value"]`.

    `full_name` gives the names that modules of a part have in the whole model; `leaf_modules` are those of the whole.

    The graph is that of eval mode. Constants that differ in train mode (`training=self.training`) become calls of
    `ByMode`; where train mode takes another path altogether, a `TraceWarning` says so.

    Raises:
        TraceError: the model cannot be copied, or its `forward` asks for data; names the line of `forward` and the cure.
        ConfigError: `forward` fails on the example, or `leaf_modules` matches nothing.
    """
    try:
        root = copy.deepcopy(model)
    except Exception as error:
        raise TraceError(f"{type(model).__name__} cannot be copied (copy.deepcopy): {error}") from error
    for pattern in leaf_modules if full_name is None else ():
        if not any(matches_module(name, module, [pattern]) for name, module in root.named_modules()):
            hint = nearest(pattern, [n for n, _ in root.named_modules()]) if isinstance(pattern, str) else ""
            raise ConfigError(f"leaf_modules: {pattern!r} matches no module of {type(model).__name__}.{hint}")
    settings = (example, is_layer, leaf_modules, whole_functions, full_name or str)
    tracer = ValueTracer(*settings)
    was_training = {module: module.training for module in root.modules()}
    root.eval()
    graph = _trace_once(tracer, root)
    # Only the modules that are traced through: a layer's own mode is none of the graph's business.
    leaves = {module for name, module in root.named_modules() if tracer.is_leaf_module(module, name)}
    for module in root.modules():
        module.training = module not in leaves
    try:
        in_training = _trace_once(ValueTracer(*settings), root)
    except (TraceError, ConfigError):
        in_training = None
    for module, training in was_training.items():
        module.training = training
    follow_mode(root, graph, in_training, type(model).__name__)
    remove_dead_code(graph)
    traced = fx.GraphModule(root, graph, type(model).__name__)
    traced.training = model.training
    for name, module in traced.named_modules():
        if name:
            module.training = root.get_submodule(name).training
    traced.graph.lint()
    return traced


def _trace_once(tracer: ValueTracer, root: nn.Module) -> fx.Graph:
    patched = _patch_points(root, tracer)
    try:
        for namespace, name, original in patched:
            namespace[name] = _proxy_aware(original, tracer)
        return tracer.trace(root)
    except (TraceError, ConfigError):
        raise
    except _DataDependent as error:
        raise TraceError(
            f"{type(root).__name__} cannot be traced: {error}{_user_line(error)}. The path that `forward` takes then "
            "depends on data. Move this code into a module of its own and name it in leaf_modules=: it becomes a "
            "unit with fixed channels, and the layers around it stay searchable"
        ) from error
    except Exception as error:
        shapes = pytree.tree_map_only(Tensor, lambda t: tuple(t.shape), dict(tracer.example.arguments))
        raise ConfigError(
            f"{type(root).__name__}.forward failed on the example input {shapes}{_user_line(error)}: "
            f"{type(error).__name__}: {error}. Check input_shape (one sample, without the batch dimension) or "
            "input_example; if the model does run on this input, name the submodule that fails in leaf_modules="
        ) from error
    finally:
        for namespace, name, original in patched:
            namespace[name] = original


def _patch_points(root: nn.Module, tracer: ValueTracer) -> list[tuple[dict[str, Any], str, Callable[..., Any]]]:
    """Functions to replace while tracing, so that a call with proxies becomes a node: (namespace, name, function)."""
    points = [(vars(torch), name, getattr(torch, name)) for name in _CONSTRUCTORS]
    if tracer.whole_functions:
        forwards = [getattr(type(module).forward, "__globals__", {}) for module in root.modules()]
        for namespace in {id(g): g for g in forwards}.values():
            found = [(key, value) for key, value in namespace.items() if callable(value)]
            points += [(namespace, key, f) for key, f in found if any(f is whole for whole in tracer.whole_functions)]
    return points


def _proxy_aware(function: Callable[..., Any], tracer: ValueTracer) -> Callable[..., Any]:
    def constructor(*args: Any, **kwargs: Any) -> Any:
        if not tracer.evaluating and any(isinstance_proxy(leaf) for leaf in pytree.tree_leaves((args, kwargs))):
            return tracer.create_proxy("call_function", function, args, kwargs)
        return function(*args, **kwargs)

    return constructor


def isinstance_proxy(value: Any) -> bool:
    """Whether `value` is a proxy; `isinstance` would ask for the class of its value."""
    return type(value) in (ValueProxy, ValueAttribute)


def matches_module(name: str, module: nn.Module, patterns: Iterable[str | type[nn.Module]]) -> bool:
    """Whether a module has one of these types, or its name or that of a module around it fits one of these globs."""
    parts = name.split(".")
    paths = list(itertools.accumulate(parts, lambda a, b: f"{a}.{b}"))
    return any(
        any(fnmatch.fnmatchcase(path, pattern) for path in paths)
        if isinstance(pattern, str)
        else isinstance(module, pattern)
        for pattern in patterns
    )


def forward_owner(kind: type) -> type:
    """The class in whose body the `forward` of `kind` stands."""
    return next(base for base in kind.__mro__ if "forward" in base.__dict__)


def _is_torch_layer(module: nn.Module) -> bool:
    owner = forward_owner(type(module))
    opaque = isinstance(module, (torch.jit.ScriptModule, fx.GraphModule)) and not isinstance(module, fx.GraphModule)
    return opaque or (owner.__module__.startswith(("torch.nn.", "torch.ao.")) and owner is not nn.Sequential)


def is_in_place(node: fx.Node) -> bool:
    """Whether a node may change one of its inputs, so that it stays even where nobody uses its result."""
    if node.op == "call_method":
        name = str(node.target)
        return (name.endswith("_") and not name.endswith("__")) or name == "__setitem__"
    if node.op == "call_function":
        name = getattr(node.target, "__name__", "")
        module = getattr(node.target, "__module__", "") or ""
        in_place_operator = module == "_operator" and (
            name == "setitem" or (name.startswith("i") and hasattr_in_place(name))
        )
        return (
            in_place_operator or (name.endswith("_") and not name.endswith("__")) or node.kwargs.get("inplace") is True
        )
    if node.op == "call_module" and node.graph.owning_module is not None:
        return bool(getattr(node.graph.owning_module.get_submodule(str(node.target)), "inplace", False))
    return False


def hasattr_in_place(name: str) -> bool:
    """Whether `operator.<name>` is an in-place operator such as `iadd`."""
    return name in {"iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor", "imatmul"}


def remove_dead_code(graph: fx.Graph) -> None:
    """Remove nodes whose result nobody uses, except placeholders, the output, and what works in place."""
    for node in reversed(list(graph.nodes)):
        if node.op not in ("placeholder", "output") and not node.users and not is_in_place(node):
            graph.erase_node(node)


def _user_line(error: BaseException) -> str:
    """`" at file:line in name: code"` of the innermost frame that is the user's, or an empty string."""
    own = Path(__file__).parent
    torch_home = Path(torch.__file__).parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.exists() and own not in path.parents and torch_home not in path.parents:
            code = linecache.getline(frame.filename, frame.lineno or 0).strip()
            return f" at {frame.filename}:{frame.lineno} in {frame.name}: `{code}`"
    return ""
