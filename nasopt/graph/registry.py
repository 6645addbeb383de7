"""The table of rules: one record per layer type or function, and the decorators that fill it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from nasopt.arguments import short
from nasopt.checked import checked
from nasopt.errors import ConfigError
from nasopt.graph.call import Rule
from nasopt.graph.hooks import changes

if TYPE_CHECKING:
    from nasopt.graph.rewrite import Rewrite

# How a layer runs with another weight in the place of its own.
Runner = Callable[[Any, Tensor, Tensor], Tensor]

# How a layer or function runs under a mask that may not be multiplied to its weight: `(layer, input, mask)`, or
# `(mask, *arguments)`.
MaskedRunner = Callable[..., Tensor]

# How a layer runs with several other weights: `(layer, weights by name, arguments, keyword arguments)`.
StateRunner = Callable[..., Any]

# Changes a node of the smaller graph, in place.
Rewriter = Callable[["Rewrite"], None]

# Where a result lives: in memory of its own; in its input's memory, as it is; in its input's memory, written over it.
Memory = Literal["new", "view", "in_place"]


@dataclass(frozen=True)
class RuleEntry:
    """One record of the table.

    Attributes:
        function: the rule.
        layer: the class of the layer, None for a function.
        searchable: what of the layer can be searched, for the support matrix.
        takes_sizes: the function takes sizes of activations as sizes (a view, a constructor), not as values.
        run: `(layer, input, weight) -> output`: the layer with another weight; None: `torch.func.functional_call`.
        run_masked: `(layer, input, mask) -> output`, for a function `(mask, *arguments) -> output`: what computes with the
            living channels alone; None: masks are multiplied to the weight.
        run_with: `(layer, weights, arguments, keywords) -> output`, a layer with several masked weights, by name; None:
            `torch.func.functional_call`.
        memory: where the result lives at inference. An `"in_place"` operation takes a new buffer where its inputs are
            still needed.
        masks_input: a mask along dimension 1 of the weight may be multiplied to the input instead, along its channels.
        searchable_kernel: taps of the weight's spatial dimensions may be cut.
        rewrite: makes constants of the call (sizes, positions) those of a smaller network, or None.
    """

    function: Rule
    layer: type[nn.Module] | None = None
    searchable: str = ""
    takes_sizes: bool = False
    run: Runner | None = None
    run_masked: MaskedRunner | None = None
    run_with: StateRunner | None = None
    memory: Memory = "new"
    masks_input: bool = False
    searchable_kernel: bool = False
    rewrite: Rewriter | None = None


_LAYERS: dict[type[nn.Module], RuleEntry] = {}
_FUNCTIONS: dict[Callable[..., Any], RuleEntry] = {}
_METHODS: dict[str, RuleEntry] = {}
_QUALIFIED: dict[str, RuleEntry] = {}


@checked
def layer_rule(
    *layers: type[nn.Module],
    searchable: str = "passes channels on",
    run: Runner | None = None,
    run_masked: MaskedRunner | None = None,
    run_with: StateRunner | None = None,
    memory: Memory = "new",
    masks_input: bool = False,
    searchable_kernel: bool = False,
    rewrite: Rewriter | None = None,
) -> Callable[[Rule], Rule]:
    """Teach nasopt a layer type: how channels pass, what it costs, how it is sliced.

    The decorated function takes a `nasopt.graph.Call` and returns the labels of the output. Instances of the classes,
    and of subclasses that keep their `forward`, become leaves of the graph.

    ```python
    @nasopt.layer_rule(Scale)                      # y = x * self.gain[None, :, None, None]
    def scale(call):
        channels = call.channels(call.args[0], dim=1)
        call.slices("gain", 0, channels)           # gain[i] belongs to channel i
        call.cost("parameter", 1, channels)        # one weight per channel
        return call.args[0]                        # channels pass on
    ```

    Args:
        layers: the classes.
        searchable: what of the layer can be searched, in words, for the support matrix.
        run: for a layer that mixes channels (`call.reads`): `(layer, input, weight) -> output`, the layer with another
            weight in the place of its own. Default: `torch.func.functional_call`.
        run_masked: instead of `run`, where a weight of zero is not an absent one: `(layer, input, mask) -> output`, with a
            mask that broadcasts to the layer's one masked weight.
        run_with: instead of `run`, for a layer with several weights: `(layer, weights by name, arguments, keywords) -> output`.
        memory: where the result lives: `"new"`, `"view"` (the input's buffer, nothing is done at inference), or
            `"in_place"` (element by element: over its input where nobody needs that any more).
        masks_input: the layer is linear in its input, whose channels lie along dimension `1 - weight.dim()`, and its
            weight's dimension 1 runs over all of them (one group): a mask may then go where it is cheaper.
        searchable_kernel: the layer is a convolution whose outputs stay the same when taps at the rim of its kernel are
            zero and left out, as in `nn.Conv1d` and `nn.Conv2d`.
        rewrite: for a layer with sizes of its own (`nn.Unflatten`): makes them those of a smaller network.

    Raises:
        ConfigError: no class of layers is given, or one has a rule already.
    """
    for layer in layers:
        if not isinstance(layer, type) or not issubclass(layer, nn.Module):
            raise ConfigError(f"layer_rule takes classes of layers, like @layer_rule(Scale), got {short(layer)}")
    if not layers:
        raise ConfigError("layer_rule without a class of layers: write @layer_rule(Scale)")

    def register(function: Rule) -> Rule:
        for layer in dict.fromkeys(layers):
            entry = RuleEntry(
                function,
                layer,
                searchable,
                run=run,
                run_masked=run_masked,
                run_with=run_with,
                memory=memory,
                masks_input=masks_input,
                searchable_kernel=searchable_kernel,
                rewrite=rewrite,
            )
            _add(_LAYERS, layer, entry)
        return function

    return register


@checked
def function_rule(
    *functions: Callable[..., Any] | str,
    takes_sizes: bool = False,
    run_masked: MaskedRunner | None = None,
    memory: Memory = "new",
    rewrite: Rewriter | None = None,
) -> Callable[[Rule], Rule]:
    """Teach nasopt a function, or a tensor method by its name: how channels pass and what it costs.

    A function of a package that may be absent is named in full, `"package.module.function"`.

    A Python function of your own is kept whole in the graph where the module that calls it finds it under a global name.

    Args:
        functions: functions, or names of tensor methods.
        takes_sizes: the function takes sizes of activations as sizes, like `view`, so that they may shrink with the channels.
        run_masked: for a function that reads channels of one argument (`call.reads_argument`) and computes with those that
            live alone: `(mask, *arguments) -> output`, with a mask that broadcasts to that argument.
        memory: where the result lives, as for `layer_rule`.
        rewrite: for a function whose arguments are sizes or positions: makes them those of a smaller network.

    Raises:
        ConfigError: no function is given, a name is no tensor method, or one has a rule already.
    """
    for target in functions:
        if isinstance(target, str) and ("." in target or hasattr(Tensor, target)):
            continue
        if not callable(target):
            raise ConfigError(
                f"function_rule takes functions, names of tensor methods, or 'package.module.function', got {short(target)}"
            )
    if not functions:
        raise ConfigError("function_rule without a function: write @function_rule(torch.special.bessel_j0)")

    def register(function: Rule) -> Rule:
        for target in dict.fromkeys(functions):
            entry = RuleEntry(function, takes_sizes=takes_sizes, run_masked=run_masked, memory=memory, rewrite=rewrite)
            if isinstance(target, str):
                _add(_QUALIFIED if "." in target else _METHODS, target, entry)
            else:
                _add(_FUNCTIONS, target, entry)
        return function

    return register


def _add(table: dict[Any, RuleEntry], key: Any, entry: RuleEntry) -> None:
    if key in table:
        raise ConfigError(f"{getattr(key, '__name__', key)} has a rule already: {table[key].function.__name__}")
    table[key] = entry


def find_layer_rule(module: nn.Module) -> RuleEntry | None:
    """Rule of a layer: of its class, or of the nearest base class whose `forward` it keeps; None for an altered one."""
    if alteration(module):
        return None
    bases = (base for base in type(module).__mro__ if base in _LAYERS)
    return next((_LAYERS[base] for base in bases if base.forward is type(module).forward), None)


def alteration(module: nn.Module) -> str:
    """What makes this one layer compute something else than its class says, so that no rule holds; an empty string if nothing.

    Weight and spectral norm, masks of `torch.nn.utils.prune` and hooks of the user all come in one of these ways.
    """
    if "forward" in module.__dict__:
        return "its forward is replaced on the object"
    if parametrize.is_parametrized(module):
        return "its weights are parametrized, that is, computed at every call"
    if changes(module):
        return "it has forward hooks"
    return ""


def find_rule(node: fx.Node, module: nn.Module | None) -> RuleEntry | None:
    """Rule of a graph node, None where there is none."""
    if module is not None:
        return find_layer_rule(module)
    if node.op == "call_method":
        return _METHODS.get(str(node.target))
    if not callable(node.target):
        return None
    name = f"{getattr(node.target, '__module__', '')}.{getattr(node.target, '__name__', '')}"
    return _FUNCTIONS.get(node.target) or _QUALIFIED.get(name)


def memory_of(module: fx.GraphModule, node: fx.Node) -> Memory:
    """Where the result of a node lives, as its rule says."""
    entry = find_rule(node, module.get_submodule(str(node.target)) if node.op == "call_module" else None)
    return "new" if entry is None else entry.memory


def own_functions() -> set[Callable[..., Any]]:
    """Python functions with a rule that torch does not dispatch by itself: tracing must keep them whole."""
    return {f for f in _FUNCTIONS if hasattr(f, "__globals__") and not (f.__module__ or "").startswith("torch")}


def has_searchable_kernel(module: nn.Module) -> bool:
    """Whether taps of a layer's kernel may be cut."""
    entry = find_layer_rule(module)
    return entry is not None and entry.searchable_kernel


def layer_table() -> list[RuleEntry]:
    """All records of layers, for the support matrix."""
    return list(_LAYERS.values())
