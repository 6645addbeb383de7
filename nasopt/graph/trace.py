"""How does a model become a graph? torch.fx tracing with proxies that carry a fake value.

A proxy stays symbolic in the graph, so `x.view(b, c // 2, -1)` keeps following the channels, while Python may ask it for a
concrete bool, int, length or iteration: `if x.dim() == 4`, `for t in x.unbind()`, `assert c == 3` just work.
"""

from __future__ import annotations

import copy
import fnmatch
import itertools
import linecache
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from nasopt.errors import ConfigError, TraceError, nearest
from nasopt.graph.branches.markers import Alternatives, check_branches
from nasopt.graph.edit import is_in_place, remove_dead_code
from nasopt.graph.example import Example, call_arguments
from nasopt.graph.modes import follow_mode
from nasopt.graph.pickling import CONSTRUCTORS, loading_tracer
from nasopt.graph.proxy import DataDependent, ValueProxy, isinstance_proxy
from nasopt.graph.values import Evaluator

LeafModules = Sequence[str | type[nn.Module]]


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
        self.made: dict[int, fx.Node] = {}

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
        # The whole call, not `forward` alone: hooks of the model, and a `forward` of the instance, belong to it.
        return lambda root: root._call_impl(*args, **kwargs), [self.root]

    def proxy(self, node: fx.Node) -> ValueProxy:
        return ValueProxy(node, self)

    def create_arg(self, a: Any) -> Any:
        if isinstance_proxy(a):
            return a.node
        if isinstance(a, Tensor) and id(a) in self.made:
            return self.made[id(a)]
        is_made = isinstance(a, Tensor) and not isinstance(a, nn.Parameter) and a not in self.tensor_attrs
        argument = super().create_arg(a)
        # Tensors made in `forward` and named tuples become nodes on the way.
        if isinstance(argument, fx.Node) and "value" not in argument.meta:
            self._evaluate(argument)
        if is_made and isinstance(argument, fx.Node):
            # Every call of `forward` makes it anew: what is done to it in place must not last.
            self.made[id(a)] = self.create_node("call_method", "clone", (argument,), {})
            self._evaluate(self.made[id(a)])
            return self.made[id(a)]
        return argument

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        self._evaluate(proxy.node)
        return proxy

    def _evaluate(self, node: fx.Node) -> None:
        self.evaluating = True
        try:
            node.meta["value"] = self.evaluate(node)
        finally:
            self.evaluating = False

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

        def evaluate(branch: nn.Module, values: Sequence[Any]) -> Any:
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
    own_attributes = set(vars(root))
    graph = _trace_once(tracer, root)
    # The second trace shall give the tensors that `forward` makes the same names.
    constants = {name: vars(root).pop(name) for name in set(vars(root)) - own_attributes}
    # Only the modules that are traced through: a layer's own mode is none of the graph's business.
    leaves = {module for name, module in root.named_modules() if tracer.is_leaf_module(module, name)}
    for module in root.modules():
        module.training = module not in leaves
    try:
        in_training = _trace_once(ValueTracer(*settings), root)
    except (TraceError, ConfigError):
        in_training = None
    vars(root).update(constants)
    for module, training in was_training.items():
        module.training = training
    follow_mode(root, graph, in_training, type(model).__name__)
    remove_dead_code(graph)
    graph._tracer_cls = loading_tracer(root, graph)
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
        graph = tracer.trace(root)
        graph._tracer_cls = None  # unpickling traces the written code anew, for which the plain tracer is enough
        if not any(is_in_place(node) for node in graph.nodes):
            for clone in tracer.made.values():
                clone.replace_all_uses_with(clone.all_input_nodes[0])
                graph.erase_node(clone)
        return graph
    except (TraceError, ConfigError):
        raise
    except DataDependent as error:
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
    points = [(vars(torch), name, getattr(torch, name)) for name in CONSTRUCTORS]
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
