"""The tracer: one run of `forward` with proxies that carry fake values, every call of which becomes a node of a graph."""

from __future__ import annotations

import numbers
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor

from nasopt.errors import TraceError
from nasopt.graph.assigned import assign_buffers
from nasopt.graph.branches.markers import Alternatives, check_branches
from nasopt.graph.callsite import names_dtype, place_of, user_frame
from nasopt.graph.edit import ENTER_AUTOCAST, LEAVE_AUTOCAST, add_submodule, is_in_place
from nasopt.graph.example import Example, call_arguments
from nasopt.graph.hooks import call_with_hooks, has_own_hooks, owned
from nasopt.graph.proxy import ValueAttribute, ValueProxy, isinstance_proxy, plain_result
from nasopt.graph.reliance import RelyingTracer
from nasopt.graph.state import leaves, tensors_of
from nasopt.graph.tracing_mode import without_mode
from nasopt.graph.values import UNKNOWN, Evaluator
from nasopt.nn.mode import FunctionUnit, as_list

# Methods and functions that say what a tensor is.
_ASKS = set("__get__ size dim numel stride is_floating_point is_complex data_ptr __hash__ __len__".split())  # noqa: SIM905
# Torch takes these for dtypes.
_DTYPES = {bool: torch.bool, int: torch.int64, float: torch.float64, complex: torch.complex128}
_KEEPS_LISTS = ("torch", "builtins", "_operator", "operator", "math")


class ValueTracer(RelyingTracer):
    """Traces one model for one example; `is_leaf(name, module)` says which modules stay whole.

    Attributes:
        added: modules that the graph needs and the model does not have, by path.
        assigned: buffers that `forward` has set, by module and name.
        reads_mode: whether `forward` has asked for the mode of a module.
        hooked: layers whose forward hooks were traced: whether these are a part of the graph.
        made: tensors that `forward` makes anew at every call, by identity, as nodes.
    """

    proxy_buffer_attributes = True

    def __init__(
        self,
        example: Example,
        is_leaf: Callable[[str, nn.Module], bool],
        whole_functions: Collection[Callable[..., Any]],
        full_name: Callable[[str], str] = str,
    ) -> None:
        super().__init__()
        self.example = example
        self.is_leaf = is_leaf
        self.whole_functions = whole_functions
        self.full_name = full_name
        self.evaluating = False
        self.thread = threading.get_ident()
        self.made: dict[int, fx.Node] = {}
        self.added: dict[str, nn.Module] = {}
        self.hooked: dict[nn.Module, bool] = {}
        self.looks_on: set[nn.Module] = set()
        self.assigned: dict[tuple[nn.Module, str], None] = {}
        self.reads_mode = False
        self._autocasts: list[tuple[Any, fx.Node]] = []
        self._proxies: dict[str, ValueProxy] = {}

    def prepare(self, root: nn.Module) -> None:
        """Note which tensors belong to which module, before `forward` can exchange them."""
        self._names: dict[int, str] = {}
        self._tensors_of: dict[nn.Module, list[int]] = {}
        for path, module in root.named_modules():
            self._tensors_of[module] = [id(tensor) for tensor in tensors_of(module)]
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    self._names.setdefault(id(tensor), f"{path}.{name}" if path else name)
        self._tensors = [tensor for module in root.modules() for tensor in tensors_of(module)]

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        self.evaluate = Evaluator(self.root, {self._names[id(tensor)]: tensor for tensor in self._tensors})
        proxies = {}
        for name in self.example.traced:
            node = self.create_node("placeholder", name, (), {})
            node.meta["value"] = self.evaluate.to_fake(self.example.arguments[name])
            proxies[name] = self.proxy(node)
        args, kwargs = call_arguments(self.root, self.example, proxies)
        # The whole call, not `forward` alone: hooks of the model, and a `forward` of the instance, belong to it.
        return lambda root: assign_buffers(self, root._call_impl(*args, **kwargs)), [self.root]

    # --- who asks

    def listens(self) -> bool:
        """Whether what happens now is the model's own doing: not that of a node's evaluation or of another thread."""
        return not self.evaluating and threading.get_ident() == self.thread

    def original(self, proxy: Any) -> Any:
        """What a proxy stands for, for questions after its type."""
        if type(proxy) is ValueAttribute and proxy._node is None:
            return UNKNOWN if proxy.root.value is UNKNOWN else getattr(proxy.root.value, proxy.attribute)
        node = proxy.node
        if node.op == "get_attr" and node.target in self._proxies:
            return self.evaluate.tensors[str(node.target)]
        return node.meta["value"]

    def depends_on_data(self, proxy: ValueProxy) -> bool:
        """Whether a proxy was computed from what is in an input of the model, not from its sizes alone."""
        waiting = [proxy.node]
        while waiting:
            node = waiting.pop()
            if node in self._of_input and any(isinstance(leaf, Tensor) for leaf in leaves(node.meta["value"])):
                if node.op == "placeholder":
                    return True
                waiting += node.all_input_nodes
        return False

    # --- nodes

    def proxy(self, node: fx.Node) -> ValueProxy:
        return ValueProxy(node, self)

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> fx.Node:
        node = super().create_node(kind, target, args, kwargs, *rest, **more)
        if kind == "placeholder" or any(before in self._of_input for before in node.all_input_nodes):
            self._of_input.add(node)
        return node

    def create_arg(self, a: Any) -> Any:
        if isinstance_proxy(a):
            return a.node
        if type(a).__module__ == "numpy" and isinstance(a, numbers.Number):
            return a.item()  # type: ignore[attr-defined]  # code of a graph knows no numpy
        if type(a) is torch.device and id(a) in self._devices:
            return self._attribute(self._devices[id(a)][1], "device")
        if type(a) is type and a in _DTYPES:
            return _DTYPES[a]
        if type(a) is torch.dtype:
            asked = self._dtypes.get(a)
            return a if asked is None or names_dtype(user_frame()) else self._attribute(asked, "dtype")
        if isinstance(a, Tensor) and id(a) in self._names:
            return self.own_tensor(self._names[id(a)]).node
        if isinstance(a, Tensor) and id(a) in self.made:
            return self.made[id(a)]
        if isinstance(a, FakeTensor):
            raise TraceError(
                f"at {place_of(user_frame())} a hook hands out what a layer made: return it from forward instead"
            )
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

    def _attribute(self, proxy: ValueProxy, name: str) -> fx.Node:
        node = self.create_node("call_function", getattr, (proxy.node, name), {})
        self._evaluate(node)
        return node

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        node = super().create_proxy(kind, target, args, kwargs, *rest, **more).node
        self._evaluate(node)
        if kind == "call_module" and getattr(self.root.get_submodule(target), "inplace", False):
            node.meta["writes"] = True
        module = str(getattr(target, "__module__", "") or "").partition(".")[0]
        lists = [] if kind == "call_function" and module in _KEEPS_LISTS else [a for a in args if type(a) is list]
        if node.meta.get("writes") and lists:
            node = self._with_lists(node, lists, args)
        if kind == "get_attr":
            return self.proxy(node)
        if not torch.is_grad_enabled():
            node = self._without_gradient(node, args)
        # `fx.wrap` wants a proxy back; what a layer returns may differ by mode, as that of `ByMode` does.
        is_own = kind == "call_module" or (kind == "call_function" and module not in _KEEPS_LISTS)
        return self.proxy(node) if is_own else plain_result(self.proxy(node))

    def _evaluate(self, node: fx.Node) -> None:
        outer, self.evaluating = self.evaluating, True
        try:
            with without_mode(), torch.inference_mode(False):
                node.meta["value"] = self.evaluate(node)
        finally:
            self.evaluating = outer

    def _with_lists(self, node: fx.Node, lists: list[list[Any]], args: Sequence[Any]) -> fx.Node:
        """The call again, with lists that are nodes: what it writes into them is what `forward` finds there next."""
        kind, target, kwargs = node.op, node.target, dict(node.kwargs)
        self.graph.erase_node(node)
        holders = {
            id(one): super(ValueTracer, self).create_proxy("call_function", as_list, (one,), {}).node for one in lists
        }
        for holder in holders.values():
            self._evaluate(holder)
            holder.meta["is_wrapped"] = True
        given = tuple(holders.get(id(a)) or self.create_arg(a) for a in args)
        again = self.create_node(kind, target, given, kwargs)
        self._evaluate(again)
        again.meta["writes"] = True
        for one in lists:
            after = self.create_node("call_function", as_list, (holders[id(one)],), {})
            self._evaluate(after)
            after.meta["is_wrapped"] = True
            one[:] = [self.proxy(after)[i] for i in range(len(after.meta["value"]))]
        return again

    def _without_gradient(self, node: fx.Node, args: Sequence[Any]) -> fx.Node:
        """In a region without gradients: what a call makes is detached, and what it changes in place is not recorded."""
        if node.op not in ("call_function", "call_method", "call_module"):
            return node
        value = node.meta["value"]
        first = node.args[0] if node.args else None
        if is_in_place(node) and node.op != "call_module" and isinstance(first, fx.Node):
            with self.graph.inserting_before(node):
                detached = self.create_node("call_method", "detach", (first,), {})
            detached.meta["value"] = first.meta["value"]
            node.replace_input_with(first, detached)
            return first if value is first.meta["value"] or isinstance(value, Tensor) else node
        if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
            return node
        result = self.create_node("call_method", "detach", (node,), {})
        self._evaluate(result)
        return result

    # --- modules and their tensors

    def own_tensor(self, name: str) -> ValueProxy:
        """The parameter or buffer at a path of the model."""
        if name not in self._proxies:
            self._proxies[name] = self.create_proxy("get_attr", name, (), {})
        return self._proxies[name]

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        is_tensor = type(attr_val) is not ValueProxy and self.listens() and isinstance(attr_val, Tensor)
        name = self._names.get(id(attr_val)) if is_tensor else None
        return attr_val if name is None else self.own_tensor(name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if not self.listens() or m not in self._tensors_of:  # made in `forward` itself
            return forward(*args, **kwargs)
        if isinstance(m, Alternatives) and not self.root.training:
            self._check_alternatives(m, args, kwargs)
        alone = super().call_module
        if m not in self.looks_on and has_own_hooks(m) and self.is_leaf_module(m, self.path_of_module(m)):
            try:
                made, self.hooked[m] = call_with_hooks(m, forward, alone, owned(self.root), args, kwargs)
            except Exception:  # what cannot be traced stays with its layer
                self.hooked.pop(m, None)
            if self.hooked.get(m):
                return made
            self.looks_on.add(m)
        return alone(m, forward, args, kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if not self.is_leaf(self.full_name(module_qualified_name), m):
            return False
        # With weights that `forward` has put there it is not the layer that it says.
        return all(self._has_own_tensors(part) for part in m.modules())

    def _has_own_tensors(self, module: nn.Module) -> bool:
        known = self._tensors_of.get(module)
        values = [*module._parameters.values(), *module._buffers.values()]
        return known is None or known == [id(t) for t in values if t is not None]

    def add_unit(self, name: str, unit: nn.Module) -> str:
        """Add a module beside the layers of the one whose `forward` runs; returns its path."""
        owner = next(reversed(self.module_stack.values()))[0] if self.module_stack else ""
        free, number = f"{owner}.{name}" if owner else name, 0
        while free in self.added or hasattr(self.root.get_submodule(owner), free.rpartition(".")[2]):
            number += 1
            free = f"{owner}.{name}_{number}" if owner else f"{name}_{number}"
        self.added[free] = unit
        add_submodule(self.root, free, unit)
        return free

    def call_function_unit(self, function: Any, args: Any, kwargs: Any) -> Any:
        """A function that cannot be looked into becomes a unit."""
        name = str(getattr(function, "__name__", "function")).lower().strip("_")
        return self.create_proxy("call_module", self.add_unit(name, FunctionUnit(function)), args, kwargs)

    def is_models(self, name: str, args: Any, kwargs: Any) -> bool:
        """Whether a call computes with parameters or buffers, or changes a tensor that a module keeps as an attribute."""
        if any(id(a) in self._names for a in leaves((args, kwargs))):
            return name not in _ASKS
        changes = (name.endswith("_") and not name.endswith("__")) or "out" in kwargs
        return changes and any(isinstance(a, Tensor) and a in self.tensor_attrs for a in leaves((args, kwargs)))

    def _check_alternatives(self, layer: Alternatives, args: Any, kwargs: Any) -> None:
        values = [x.value if isinstance_proxy(x) else x for x in (*args, *kwargs.values())]

        def evaluate(branch: nn.Module, values: Sequence[Any]) -> Any:
            self.evaluating = True
            try:
                with without_mode(), torch.no_grad(), self.evaluate.mode:
                    return self.evaluate.module(branch)(*values)
            finally:
                self.evaluating = False

        check_branches(self.full_name(self.path_of_module(layer)), layer, values, evaluate)

    # --- regions

    def enter_autocast(self, region: Any) -> None:
        """`with torch.autocast(...)`: two nodes around what is in it."""
        device: Any = region.device
        for known, proxy in reversed(list(self._devices.values())):
            if known.type == device:
                device = self._attribute(self.proxy(self._attribute(proxy, "device")), "type")
                break
        args = (device, region.fast_dtype, region._enabled, region._cache_enabled)
        node = self.graph.create_node("call_function", ENTER_AUTOCAST, args, {})
        node.meta["value"] = self.evaluate(node)
        self._autocasts.append((region, node))

    def leave_autocast(self, region: Any) -> None:
        """The end of the innermost such region."""
        if not self._autocasts or self._autocasts[-1][0] is not region:
            raise TraceError(
                "autocast regions are left in another order than they were entered, which no graph can follow"
            )
        node = self.graph.create_node("call_function", LEAVE_AUTOCAST, (self._autocasts.pop()[1],), {})
        node.meta["value"] = self.evaluate(node)
