"""Tracing: from a model to its graph, with proxies that carry a fake value.

A proxy stays symbolic in the graph, so `x.view(b, c // 2, -1)` keeps following the channels, while Python may ask it for a
concrete bool, int, length or iteration: `if x.dim() == 4`, `for t in x.unbind()`, `assert c == 3` just work.
"""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import keyword
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from nasopt.errors import ConfigError, TraceError, nearest
from nasopt.graph.assigned import overwrite
from nasopt.graph.augmented import settle
from nasopt.graph.callsite import line_of_error
from nasopt.graph.edit import add_submodule, is_in_place, remove_dead_code
from nasopt.graph.example import Example
from nasopt.graph.hooks import drop_hooks, mark_observers
from nasopt.graph.modes import ModeResult, follow_mode
from nasopt.graph.parametrized import computes_weights, has_own_forward, is_parametrization
from nasopt.graph.patches import LOCK, tracing
from nasopt.graph.pickling import loading_tracer
from nasopt.graph.proxy import DataDependent, isinstance_proxy
from nasopt.graph.state import ModuleState, copy_model, leaves, random_state, set_random_state
from nasopt.graph.tracer import ValueTracer

LeafModules = Sequence[str | type[nn.Module]]


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

    The graph is that of eval mode, and follows train mode where that differs: see `modes.follow_mode`.

    Raises:
        TraceError: the model cannot be copied, or its `forward` asks for data; names the line of `forward` and the cure.
        ConfigError: `forward` fails on the example, or `leaf_modules` matches nothing.
    """
    _check_names(model)
    root = copy_model(model)
    for pattern in leaf_modules if full_name is None else ():
        if not any(matches_module(name, module, [pattern]) for name, module in root.named_modules()):
            hint = nearest(pattern, [n for n, _ in root.named_modules()]) if isinstance(pattern, str) else ""
            raise ConfigError(f"leaf_modules: {pattern!r} matches no module of {type(model).__name__}.{hint}")
    units: set[str] = set()

    def is_leaf(name: str, module: nn.Module) -> bool:
        return (
            name in units or matches_module(name, module, leaf_modules) or is_layer(module) or _is_torch_layer(module)
        )

    state = ModuleState(root)

    def attempt(training: bool, start: Mapping[tuple[nn.Module, str], Any]) -> _Run:
        # Only the modules that are traced through: a layer's own mode is none of the graph's business.
        for name, module in root.named_modules():
            if "training" in vars(module):  # TorchScript's, which are leaves, keep it elsewhere
                module.training = training and not is_leaf((full_name or str)(name), module)
        for (module, name), value in start.items():
            vars(module)[name] = value
        return _Run(ValueTracer(example, is_leaf, whole_functions, full_name or str), root, state)

    def run(training: bool, start: Mapping[tuple[nn.Module, str], Any] | None = None) -> _Run:
        with LOCK:  # other threads that wrap move the generators, too
            for _ in range(2):
                with contextlib.suppress(
                    _DrawsAtRandom
                ):  # or another thread of the user's did, such as one that loads data
                    return attempt(training, start or {})
            return attempt(training, start or {})

    while True:
        evaluation = run(training=False)
        if evaluation.changed:
            _check_state(root, evaluation, run)
        if not evaluation.reads_mode:
            evaluation.add_to(root)
            mode = ModeResult(None, returns_other=False)
            break
        try:
            training: _Run | None = run(training=True)
        except _DrawsAtRandom:
            raise
        except (TraceError, ConfigError):
            training = None
        evaluation.add_to(root)
        other, constants = (training.graph, training.constants) if training is not None else (None, {})
        mode = follow_mode(root, evaluation.graph, other, constants, type(model).__name__)
        if mode.unit is None or (full_name or str)(mode.unit) in units:
            break
        units.add((full_name or str)(mode.unit))
        state.restore()
    for layer, is_part in evaluation.hooked.items():
        (drop_hooks if is_part else mark_observers)(layer)
    graph = evaluation.graph
    remove_dead_code(graph)
    _check_keywords(model, graph)
    graph._tracer_cls = loading_tracer(root, graph)
    traced = fx.GraphModule(root, graph, type(model).__name__)
    traced.training = model.training
    traced.meta["returns_other_in_training"] = mode.returns_other
    for name, module in traced.named_modules():
        if name:
            module.training = root.get_submodule(name).training
    traced.graph.lint()
    return traced


def _check_names(model: nn.Module) -> None:
    """Whether a graph module can hold the model's members under their names.

    Raises:
        ConfigError: torch.fx has another use for one.
    """
    taken = (set(dir(fx.GraphModule)) - set(dir(nn.Module))) | {"graph", "meta"}
    clash = sorted(taken & {*model._modules, *model._parameters, *model._buffers})
    if clash:
        raise ConfigError(
            f"{type(model).__name__} has a member named {clash[0]!r}, as the graph that it is traced into has one of its own: "
            "give it another name, or wrap the model in a module around it"
        )


def _check_keywords(model: nn.Module, graph: fx.Graph) -> None:
    """Whether the code that torch.fx writes can name all members.

    Raises:
        ConfigError: a word of Python's syntax is the name of one, as `nn.ModuleDict({"in": ...})` allows.
    """
    for node in graph.nodes:
        word = next(filter(keyword.iskeyword, str(node.target).split(".")), None)
        if node.op in ("call_module", "get_attr") and word is not None:
            raise ConfigError(
                f"{type(model).__name__} has {str(node.target)!r}, of which {word!r} is a word of Python's syntax that the code "
                "which torch.fx writes cannot name: give it another name, or name the module that holds it in leaf_modules="
            )


class _DrawsAtRandom(TraceError):
    """Python's or NumPy's random numbers decide what `forward` does."""


class _Run:
    """One trace of a model in the mode that it is in, which leaves the model as it was."""

    def __init__(self, tracer: ValueTracer, root: nn.Module, state: ModuleState) -> None:
        known = set(vars(root))
        random = random_state()
        try:
            self.graph = _trace_once(tracer, root)
            if _moved(random, random_state()):
                raise _DrawsAtRandom(
                    f"{type(root).__name__}.forward draws random numbers of Python or NumPy, which no graph can: it would "
                    "keep those of this moment. Draw them with torch, or move this code into a module named in leaf_modules="
                )
            changed = {key: value for key, value in state.changed().items() if not _is_cache(tracer, value)}
            self.changed = {key: _concrete(value) for key, value in changed.items()}
            self.constants = {name: vars(root)[name] for name in set(vars(root)) - known if name in _constants(tracer)}
            self.added, self.hooked, self.reads_mode = tracer.added, tracer.hooked, tracer.reads_mode
        finally:
            set_random_state(random)
            state.restore()

    def add_to(self, root: nn.Module) -> None:
        """Give the model what the graph refers to."""
        vars(root).update(self.constants)
        for path, module in self.added.items():
            module.training = root.get_submodule(path.rpartition(".")[0]).training
            add_submodule(root, path, module)


def _is_cache(tracer: ValueTracer, value: Any) -> bool:
    """Whether a module keeps what it computes of its parameters and of sizes: every call would compute the same."""
    kept = leaves(value)
    return bool(kept) and all(isinstance_proxy(leaf) and not tracer.depends_on_data(leaf) for leaf in kept)


def _concrete(value: Any) -> Any:
    """A real tensor for every proxy that `forward` has kept."""

    def real(leaf: Any) -> Any:
        known = leaf.value if isinstance_proxy(leaf) else leaf
        return torch.zeros(known.shape, dtype=known.dtype) if isinstance(known, Tensor) and known is not leaf else known

    def concrete(held: Any) -> Any:
        if isinstance(held, dict):  # a cache by a size of the input has proxies for keys
            return {real(key): concrete(item) for key, item in held.items()}
        return pytree.tree_map(real, held)

    return concrete(value)


def _check_state(root: nn.Module, first: _Run, run: Callable[..., _Run]) -> None:
    """Whether a second call finds what the first one has left in plain attributes.

    Raises:
        TraceError: it does another thing then.
    """
    try:
        same = _signature(run(training=False, start=first.changed).graph) == _signature(first.graph)
    except (TraceError, ConfigError):
        same = False
    if not same:
        names = sorted({f"{type(module).__name__}.{name}" for module, name in first.changed})
        raise TraceError(
            f"{type(root).__name__}.forward keeps something for its next call in {', '.join(names)}, which a graph cannot: "
            "make it a buffer (register_buffer), an input and an output, or name the module that keeps it in leaf_modules="
        )


def _signature(graph: fx.Graph) -> list[Any]:
    return [(node.op, str(node.target), repr((node.args, node.kwargs))) for node in graph.nodes]


def _constants(tracer: ValueTracer) -> set[str]:
    return {str(node.target) for node in tracer.graph.nodes if node.op == "get_attr"}


def _moved(before: tuple[Any, ...], after: tuple[Any, ...]) -> bool:
    if before[0] != after[0]:
        return True
    return before[1] is not None and (before[1][2] != after[1][2] or (before[1][1] != after[1][1]).any())


def _trace_once(tracer: ValueTracer, root: nn.Module) -> fx.Graph:
    tracer.prepare(root)
    try:
        with tracing(tracer, root):
            graph = tracer.trace(root)
        settle(root, graph)
        overwrite(root, graph)
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
            f"{type(root).__name__} cannot be traced: {error}{line_of_error(error)}. The path that `forward` takes then "
            "depends on data. Move this code into a module of its own and name it in leaf_modules=: it becomes a "
            "unit with fixed channels, and the layers around it stay searchable"
        ) from error
    except Exception as error:
        shapes = pytree.tree_map_only(Tensor, lambda t: tuple(t.shape), dict(tracer.example.arguments))
        raise ConfigError(
            f"{type(root).__name__}.forward failed on the example input {shapes}{line_of_error(error)}: "
            f"{type(error).__name__}: {error}. Check input_shape (one sample, without the batch dimension) or "
            "input_example; if the model does run on this input, name the submodule that fails in leaf_modules="
        ) from error


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
    if computes_weights(module) or is_parametrization(module) or has_own_forward(module):
        return False
    opaque = isinstance(module, torch.jit.ScriptModule)
    is_torchs = owner.__module__.startswith(("torch.nn.", "torch.ao."))
    # One that has its forward on the object alone, such as a compiled module, is what that calls.
    return opaque or (is_torchs and owner is not nn.Sequential and owner is not nn.Module)
