"""Values of graph nodes: every node is evaluated on fake tensors, which have shapes, dtypes and devices, and no data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses import fake_tensor as fake
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from nasopt.graph.edit import ENTER_AUTOCAST, LEAVE_AUTOCAST, is_check, is_in_place
from nasopt.graph.known_results import (
    RESULTS,
    describe,
    has_hooks,
    is_plain_norm,
    is_special,
    is_torchs,
    layer_kind,
    on_meta,
    own_tensors,
    remember,
)
from nasopt.graph.state import ModuleState, leaves
from nasopt.nn.mode import as_list


class _Unknown:
    """The value of a node that depends on data; asking for it is an error of the caller."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = _Unknown()

_DATA_DEPENDENT = (
    fake.DataDependentOutputException,
    fake.DynamicOutputShapeException,
    fake.UnsupportedFakeTensorException,
    fake.UnsupportedOperatorException,
)


class Evaluator:
    """Evaluates graph nodes one by one, in order, on fake tensors; the result belongs into `node.meta["value"]`.

    Notes in `node.meta["writes"]` whether a node has changed one of its inputs.
    """

    def __init__(self, root: nn.Module, tensors: Mapping[str, Tensor] | None = None) -> None:
        """`tensors` are the model's own by path, for a model that may have exchanged them while it runs."""
        self.root = root
        self.tensors = tensors or {}
        self.mode = fake.FakeTensorMode(allow_non_fake_inputs=True)
        self._states: dict[nn.Module, dict[str, Tensor]] = {}
        self._parameters: dict[Tensor, Tensor] = {}
        # Lists that functions write into: what they hold now, while `meta` says what they were made of.
        self._lists: dict[fx.Node, list[Any]] = {}
        self._regions: dict[fx.Node, tuple[Any, ...]] = {}

    def to_fake(self, value: Any) -> Any:
        """`value` with every tensor replaced by a fake one of the same shape, dtype and device."""
        return pytree.tree_map_only(Tensor, self._fake, value)

    def _fake(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, fake.FakeTensor):
            return tensor
        if type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not is_special(tensor):
            return self._like(tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        return self.mode.from_tensor(tensor.detach())

    def _like(self, shape: Any, stride: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
        """What `from_tensor` makes of a plain tensor like this, ten times faster: a model has many."""
        with fake.unset_fake_temporarily():
            meta = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        return fake.FakeTensor(self.mode, meta, device)

    def __call__(self, node: fx.Node) -> Any:
        """Value of `node`, from the values of its arguments; `UNKNOWN` where it depends on data."""
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._value)
        args, kwargs = _plain_containers(args), _plain_containers(kwargs)
        if any(leaf is UNKNOWN for leaf in leaves((args, kwargs))):
            return UNKNOWN
        if node.op == "get_attr":
            known = self.tensors.get(str(node.target))
            return self.to_fake(_attribute(self.root, str(node.target)) if known is None else known)
        if node.op == "output":
            return args[0]
        if is_check(node):
            return None
        if node.op == "call_function" and node.target in (ENTER_AUTOCAST, LEAVE_AUTOCAST):
            return self._region(node, args)
        function: Callable[..., Any]
        if node.op == "call_function":
            assert callable(node.target)
            function = node.target
        elif node.op == "call_method":
            args, function = args[1:], getattr(args[0], str(node.target))
        elif node.op == "call_module":
            layer = self.root.get_submodule(str(node.target))
            if any(isinstance(part, torch.jit.ScriptModule) for part in layer.modules()):
                return self._run_unit(node, args, kwargs)  # compiled for real tensors
            function = self.module(layer)
        else:
            raise AssertionError(f"{node.op} node {node.name} has no value of its own")
        key = self._key(node, args, kwargs)
        if key is not None and key in RESULTS:
            return self._like(*RESULTS[key])
        in_region = bool(self._regions) or torch.is_autocast_enabled("cpu")
        if node.target is F.batch_norm and not in_region and is_plain_norm(*args, **kwargs):
            return self._like(args[0].shape, args[0].stride(), args[0].dtype, args[0].device)
        owner = (getattr(function, "__self__", None),) if node.op == "call_method" else ()
        before = _fingerprint((owner, args, kwargs))
        try:
            with ExitStack() as stack:
                stack.enter_context(torch.no_grad())
                stack.enter_context(self.mode)
                for region in self._regions.values():
                    stack.enter_context(torch.autocast(region[0], region[1], region[2], region[3]))
                result = function(*args, **kwargs)
        except _DATA_DEPENDENT:
            result = self._run_unit(node, args, kwargs) if node.op == "call_module" else UNKNOWN
        if _fingerprint((owner, args, kwargs)) != before:
            node.meta["writes"] = True
        elif key is not None and isinstance(result, fake.FakeTensor) and not is_special(result):
            remember(key, result, result.device)
        if node.target is as_list:
            self._lists[node] = list(result)
        return result

    def _key(self, node: fx.Node, args: Any, kwargs: Any) -> Hashable | None:
        """What the result of a function of torch depends on; None where that is not known, or where it may be an input."""
        if node.op == "call_module" or is_in_place(node) or self._regions or torch.is_autocast_enabled("cpu"):
            return None
        if node.op == "call_function" and not is_torchs(node.target):
            return None
        given = node.args[0] if node.op == "call_method" else None
        owner = self._value(given) if isinstance(given, fx.Node) else given
        parts: list[Any] = [node.target, torch.get_default_dtype()]
        if describe((owner, args, kwargs), parts):
            return tuple(parts)
        return None

    def _value(self, node: fx.Node) -> Any:
        return self._lists.get(node, node.meta["value"])

    def _region(self, node: fx.Node, args: tuple[Any, ...]) -> Any:
        if node.target is ENTER_AUTOCAST:
            self._regions[node] = args
            return args
        entered = node.args[0]
        self._regions.pop(entered, None)  # type: ignore[arg-type]
        return None

    def _run_unit(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """A unit whose path depends on data has the shapes that it gives for random data."""

        def random_like(x: Tensor) -> Tensor:
            return torch.randn(x.shape).to(x.dtype) if x.is_floating_point() else torch.zeros(x.shape, dtype=x.dtype)

        try:
            unit = copy.deepcopy(self.root.get_submodule(str(node.target))).cpu()
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                real_args, real_kwargs = pytree.tree_map_only(Tensor, random_like, (args, kwargs))
                before = _fingerprint((real_args, real_kwargs))
                result = unit(*real_args, **real_kwargs)
                if _fingerprint((real_args, real_kwargs)) != before:
                    node.meta["writes"] = True
        except Exception:
            return UNKNOWN
        device = next((x.device for x in leaves((args, kwargs)) if isinstance(x, Tensor)), None)
        with self.mode:
            return pytree.tree_map_only(Tensor, lambda t: torch.empty(t.shape, dtype=t.dtype, device=device), result)

    def module(self, module: nn.Module) -> Callable[..., Any]:
        """`module` as a function of fake tensors."""
        if type(module) is nn.Sequential and not has_hooks(module):
            return partial(_one_after_another, [self.module(layer) for layer in module])
        kind = layer_kind(module)
        return self._any_module(module) if kind is None else partial(self._known_layer, module, kind)

    def _known_layer(self, module: nn.Module, kind: Hashable, *args: Any, **kwargs: Any) -> Any:
        """The result of a layer of torch's or nasopt's own: equal layers give equal results, so it is computed once."""
        x = args[0] if args else None
        if len(args) != 1 or kwargs or not isinstance(x, fake.FakeTensor):
            return self._any_module(module)(*args, **kwargs)
        if self._regions or torch.is_autocast_enabled(x.device.type if x.device.type != "meta" else "cpu"):
            return self._any_module(module)(x)  # in another dtype than elsewhere
        key = (kind, x.shape, x.stride(), x.dtype, x.device)
        if key not in RESULTS:
            result = on_meta(module, x)
            if result is None:
                result = self._any_module(module)(x)
                if not isinstance(result, fake.FakeTensor) or result is x:
                    return result
            remember(key, result, x.device)
        return self._like(*RESULTS[key])

    def _any_module(self, module: nn.Module) -> Callable[..., Any]:
        # Fake parameters are made once per module: a call with real ones converts them every time, at ten times the price.
        if module not in self._states:
            # By owner: torch would leave fake tensors in a layer that it finds under two names.
            owners = module.named_modules()
            held = [(f"{path}.{name}".lstrip("."), t) for path, m in owners for name, t in own_tensors(m)]
            self._states[module] = {name: self._parameter(tensor) for name, tensor in held}
        state = self._states[module]
        # What a unit keeps for its next call would be a fake tensor, as would the list of weights of a recurrent layer.
        is_known = type(module).__module__.startswith(("torch.nn.modules.", "nasopt.nn."))
        kept = None if is_known and not isinstance(module, nn.RNNBase) else ModuleState(module)

        def run(*args: Any, **kwargs: Any) -> Any:
            try:
                return torch.func.functional_call(module, state, args, kwargs, tie_weights=False)
            finally:
                if kept is not None:
                    kept.restore()

        return run

    def _parameter(self, tensor: Tensor) -> Tensor:
        if tensor not in self._parameters:
            self._parameters[tensor] = self._fake(tensor)
        return self._parameters[tensor]


def annotate(module: fx.GraphModule, inputs: tuple[Any, ...]) -> None:
    """Set `meta["value"]` of every node, for the given values of the placeholders."""
    evaluate = Evaluator(module)
    remaining = iter(inputs)
    for node in module.graph.nodes:
        node.meta["value"] = evaluate.to_fake(next(remaining)) if node.op == "placeholder" else evaluate(node)


def _one_after_another(functions: list[Callable[..., Any]], *args: Any) -> Any:
    for function in functions:
        args = (function(*args),)
    return args[0]


def _plain_containers(value: Any) -> Any:
    """Lists and dicts of a graph are immutable, those that a function is called with are not."""
    if isinstance(value, fx.immutable_collections.immutable_list):
        return [_plain_containers(item) for item in value]
    if isinstance(value, fx.immutable_collections.immutable_dict):
        return {key: _plain_containers(item) for key, item in value.items()}
    return tuple(_plain_containers(item) for item in value) if type(value) is tuple else value


def _fingerprint(values: Any) -> list[Any]:
    """What changes where something is written into: versions of tensors, and what lists hold."""
    return [(id(leaf), _version(leaf)) if isinstance(leaf, Tensor) else id(leaf) for leaf in leaves(values)]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _attribute(root: nn.Module, path: str) -> Any:
    value: Any = root
    for atom in path.split("."):
        value = getattr(value, atom)
    return value
