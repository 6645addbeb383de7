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
from torch.utils import _pytree as pytree

from nasopt.graph.edit import ENTER_AUTOCAST, LEAVE_AUTOCAST, is_check, is_in_place
from nasopt.graph.state import ModuleState
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
        if type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not _is_special(tensor):
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
        if any(leaf is UNKNOWN for leaf in pytree.tree_leaves((args, kwargs))):
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
            function = self.module(self.root.get_submodule(str(node.target)))
        else:
            raise AssertionError(f"{node.op} node {node.name} has no value of its own")
        key = self._key(node, args, kwargs)
        if key is not None and key in _RESULTS:
            return self._like(*_RESULTS[key])
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
        elif key is not None and isinstance(result, fake.FakeTensor):
            _remember(key, result, result.device)
        if node.target is as_list:
            self._lists[node] = list(result)
        return result

    def _key(self, node: fx.Node, args: Any, kwargs: Any) -> Hashable | None:
        """What the result of a function of torch depends on; None where that is not known, or where it may be an input."""
        if node.op == "call_module" or is_in_place(node) or self._regions or torch.is_autocast_enabled("cpu"):
            return None
        if node.op == "call_function" and not _is_torchs(node.target):
            return None
        given = node.args[0] if node.op == "call_method" else None
        owner = self._value(given) if isinstance(given, fx.Node) else given
        parts: list[Any] = [node.target, torch.get_default_dtype()]
        if _describe((owner, args, kwargs), parts):
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
        device = next((x.device for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)), None)
        with self.mode:
            return pytree.tree_map_only(Tensor, lambda t: torch.empty(t.shape, dtype=t.dtype, device=device), result)

    def module(self, module: nn.Module) -> Callable[..., Any]:
        """`module` as a function of fake tensors."""
        if type(module) is nn.Sequential and not _has_hooks(module):
            return partial(_one_after_another, [self.module(layer) for layer in module])
        kind = _layer_kind(module)
        return self._any_module(module) if kind is None else partial(self._known_layer, module, kind)

    def _known_layer(self, module: nn.Module, kind: Hashable, *args: Any, **kwargs: Any) -> Any:
        """The result of a layer of torch's or nasopt's own: equal layers give equal results, so it is computed once."""
        x = args[0] if args else None
        if len(args) != 1 or kwargs or not isinstance(x, fake.FakeTensor):
            return self._any_module(module)(*args, **kwargs)
        if self._regions or torch.is_autocast_enabled(x.device.type if x.device.type != "meta" else "cpu"):
            return self._any_module(module)(x)  # in another dtype than elsewhere
        key = (kind, x.shape, x.stride(), x.dtype, x.device)
        if key not in _RESULTS:
            result = _on_meta(module, x)
            if result is None:
                result = self._any_module(module)(x)
                if not isinstance(result, fake.FakeTensor) or result is x:
                    return result
            _remember(key, result, x.device)
        return self._like(*_RESULTS[key])

    def _any_module(self, module: nn.Module) -> Callable[..., Any]:
        # Fake parameters are made once per module: a call with real ones converts them every time, at ten times the price.
        if module not in self._states:
            # By owner: torch would leave fake tensors in a layer that it finds under two names.
            owners = module.named_modules()
            held = [(f"{path}.{name}".lstrip("."), t) for path, m in owners for name, t in _own_tensors(m)]
            self._states[module] = {name: self._parameter(tensor) for name, tensor in held}
        state = self._states[module]
        # What a unit of the user's keeps for its next call would be a fake tensor.
        kept = None if type(module).__module__.startswith(("torch.nn.modules.", "nasopt.nn.")) else ModuleState(module)

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


# (layer or function, inputs) -> shape, strides, dtype and device of the output, of the last ones that were evaluated.
_RESULTS: dict[Hashable, tuple[Any, Any, torch.dtype, torch.device]] = {}
_MOST_RESULTS = 4096
_NUMBERS = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.memory_format, type(Ellipsis))


def _remember(key: Hashable, result: Tensor, device: torch.device) -> None:
    if len(_RESULTS) >= _MOST_RESULTS:
        _RESULTS.clear()
    _RESULTS[key] = (tuple(result.shape), result.stride(), result.dtype, device)


def _is_torchs(function: Any) -> bool:
    home = getattr(function, "__module__", None) or ""
    return home.startswith(("torch.nn.functional", "torch._C")) or home in ("torch", "_operator")


def _describe(value: Any, parts: list[Any]) -> bool:
    """Append what a result can depend on; False where something has more to it."""
    if type(value) is fake.FakeTensor:
        if value.layout != torch.strided:
            return False
        parts.append((value.shape, value.stride(), value.dtype, value.device))
    elif type(value) in (tuple, list, torch.Size):
        parts.append((type(value), len(value)))
        return all(_describe(item, parts) for item in value)
    elif type(value) is dict:
        parts.append((dict, *value))
        return all(_describe(item, parts) for item in value.values())
    elif type(value) is slice:
        parts.append(slice)
        return _describe((value.start, value.stop, value.step), parts)
    elif type(value) in _NUMBERS:
        parts.append((type(value), value))
    else:
        return False
    return True


def _layer_kind(module: nn.Module) -> Hashable | None:
    """What the result of a single layer depends on beside its input; None of one that is not known to tell all."""
    home = type(module).__module__
    if not home.startswith(("torch.nn.modules.", "nasopt.nn.")) or module._modules or _has_hooks(module):
        return None
    tensors = tuple((name, t.shape, t.dtype, t.device) for name, t in _own_tensors(module))
    return (type(module), module.training, module.extra_repr(), tensors)


def _on_meta(module: nn.Module, x: Tensor) -> Tensor | None:
    """The result of a single layer on the meta device, which takes a tenth of the time; None where it may be another one.

    Which memory format a layer prefers depends on the device, unless all that it takes has the plain one.
    """
    held = _own_tensors(module)
    if not all(_is_in_order(tensor) for tensor in (x, *(tensor for _, tensor in held))):
        return None
    try:
        with fake.unset_fake_temporarily(), torch.no_grad():
            state = {name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for name, tensor in held}
            given = torch.empty(x.shape, dtype=x.dtype, device="meta")
            result = torch.func.functional_call(module, state, (given,), tie_weights=False)
    except Exception:
        return None  # what is wrong is told for the device of the model
    is_new = type(result) is Tensor and result is not given and result._version == 0 and given._version == 0
    return result if is_new and _is_in_order(result) else None


def _is_in_order(tensor: Tensor) -> bool:
    """Whether the elements of a tensor lie in the order of its dimensions, as those of a new tensor do."""
    if tensor.layout != torch.strided:
        return False
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride())):
        if stride != expected:
            return False
        expected *= max(size, 1)
    return True


def _is_special(tensor: Tensor) -> bool:
    """Whether more than shape, strides, dtype and device make a tensor what it is."""
    return tensor.is_conj() or tensor.is_neg() or tensor.is_quantized or tensor.is_nested


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _one_after_another(functions: list[Callable[..., Any]], *args: Any) -> Any:
    for function in functions:
        args = (function(*args),)
    return args[0]


def _own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    held = {**module._parameters, **module._buffers}
    return [(name, tensor) for name, tensor in held.items() if tensor is not None]


def _plain_containers(value: Any) -> Any:
    """Lists and dicts of a graph are immutable, those that a function is called with are not."""
    if isinstance(value, fx.immutable_collections.immutable_list):
        return [_plain_containers(item) for item in value]
    if isinstance(value, fx.immutable_collections.immutable_dict):
        return {key: _plain_containers(item) for key, item in value.items()}
    return tuple(_plain_containers(item) for item in value) if type(value) is tuple else value


def _fingerprint(values: Any) -> list[Any]:
    """What changes where something is written into: versions of tensors, and what lists hold."""
    return [(id(leaf), _version(leaf)) if isinstance(leaf, Tensor) else id(leaf) for leaf in pytree.tree_leaves(values)]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _attribute(root: nn.Module, path: str) -> Any:
    value: Any = root
    for atom in path.split("."):
        value = getattr(value, atom)
    return value
