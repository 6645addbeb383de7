"""The main path of a stage: its chain of convolutions, its blocks and shortcuts; and edits of the graph around stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from nasopt.errors import ConfigError
from nasopt.graph.groups import Traced
from nasopt.graph.registry import find_rule
from nasopt.graph.rules.elementwise import arithmetic, unary_function

# A node of a traced model.
Node = Any
# (channels, height, width) of one sample.
NodeShape = tuple[int, int, int]

_ACTIVATIONS = (nn.PReLU, nn.Identity)
_NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d, nn.SyncBatchNorm)
_KEPT = (
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LPPool2d),
    *(nn.Dropout, nn.Dropout2d, nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d),
)
_ADD = {"add", "iadd", "add_", "__add__", "__iadd__"}


# What may stand between an activation and a stage.
_BETWEEN = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Dropout2d, nn.ZeroPad2d, nn.Identity)


@dataclass
class ChainStep:
    """One convolution of the main path.

    Attributes:
        conv: path of the convolution.
        norm: path of the norm that follows, None where there is none.
        before: paths of layers between the step before and this one that stay (poolings, dropout, padding).
        shape: of the node after it.
    """

    conv: str
    shape: NodeShape
    before: tuple[str, ...] = ()
    norm: str | None = None


@dataclass(frozen=True)
class Shortcut:
    """Layers that lead from node `start` around the main path, and change the shape to `shape`."""

    start: int
    layers: tuple[str, ...]
    shape: NodeShape


@dataclass
class Chain:
    """The main path of a stage: node 0 is its input, node i the result of step i.

    Attributes:
        shape: of node 0.
        joints: nodes at which a block ends: the stage adds a shortcut there.
        after: paths of layers behind the last step that stay.
    """

    shape: NodeShape
    steps: list[ChainStep] = field(default_factory=list)
    shortcuts: list[Shortcut] = field(default_factory=list)
    joints: set[int] = field(default_factory=set)
    after: tuple[str, ...] = ()


def find_chain(module: Traced, name: str) -> Chain:
    """The chain of a traced stage, called `name` in messages.

    Activations on the way are left out, as are shortcuts without weights: a search decides anew where to add them.

    Raises:
        ConfigError: the stage has several inputs or outputs, no convolution, or does something on its main path that a
            chain of convolutions does not do; the message names the operation.
    """
    path = _main_path(module, name)
    chain = Chain(_shape(path[0], name))
    order = {node: i for i, node in enumerate(path)}
    passed = {path[0]: 0}
    pending: list[str] = []
    used: set[str] = set()
    for node in path[1:]:
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.Conv2d):
            _add_step(chain, node, layer, pending, used, name)
            pending = []
        elif isinstance(layer, _NORMS) and chain.steps and chain.steps[-1].norm is None and not pending:
            chain.steps[-1].norm = str(node.target)
        elif isinstance(layer, (*_NORMS, *_KEPT)):
            pending.append(str(node.target))
        elif _is_add(node):
            _add_joint(chain, module, node, order, passed, used, name)
        elif not is_activation(node, module):
            raise ConfigError(
                f"cell {name!r}: {describe_node(node, module)} stands on its main path, which must be a chain of 2-D "
                "convolutions, norms, activations, poolings and additions of shortcuts. Name smaller parts in cells=, "
                "without this operation"
            )
        if isinstance(layer, (*_NORMS, *_KEPT)):
            used.add(str(node.target))
        passed[node] = len(chain.steps)
    chain.after = tuple(pending)
    if not chain.steps:
        raise ConfigError(f"cell {name!r} holds no nn.Conv2d, so there is nothing to binarise: name a stage or a block")
    _check_complete(module, used, name)
    return chain


def is_activation(node: Node, module: Traced) -> bool:
    """Whether a node is an activation function (or identity) that works on single elements."""
    if node.op == "call_module":
        layer = module.get_submodule(str(node.target))
        elementwise = type(layer).__module__ == "torch.nn.modules.activation"
        return isinstance(layer, _ACTIVATIONS) or (elementwise and not isinstance(layer, nn.MultiheadAttention))
    rule = find_rule(node, None) if node.op in ("call_function", "call_method") else None
    return rule is not None and rule.function is unary_function


def describe_node(node: Node, module: Traced) -> str:
    """`"layer1.se (Linear)"`: what a node is, for messages."""
    if node.op == "call_module":
        return f"{str(node.target).partition('.')[2]} ({type(module.get_submodule(str(node.target))).__name__})"
    return f"{node.name} ({getattr(node.target, '__name__', node.target)})"


def _main_path(module: Traced, name: str) -> list[Node]:
    """Nodes from the input to the output along the path with most convolutions; of equal ones, with the larger kernels."""
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    output = next(node for node in module.graph.nodes if node.op == "output")
    result = output.args[0]
    if len(inputs) != 1 or not hasattr(result, "all_input_nodes"):
        raise ConfigError(f"cell {name!r} must take one tensor and return one: it takes {len(inputs)}")
    length: dict[Node, float] = {}
    before: dict[Node, Node] = {}
    for node in module.graph.nodes:
        known = [x for x in node.all_input_nodes if x in length]
        if node is inputs[0]:
            length[node] = 0.0
        elif known:
            before[node] = max(known, key=lambda x: length[x])
            length[node] = length[before[node]] + _weight(node, module)
    path = [result]
    while path[-1] in before:
        path.append(before[path[-1]])
    if path[-1] is not inputs[0]:
        raise ConfigError(f"cell {name!r}: its output does not depend on its input")
    return path[::-1]


def _weight(node: Node, module: Traced) -> float:
    layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return 1 + 1e-6 * layer.weight[0, 0].numel() if isinstance(layer, nn.Conv2d) else 0.0


def _shape(node: Node, name: str) -> NodeShape:
    value = node.meta["value"]
    if not isinstance(value, Tensor) or value.dim() != 4:
        shape = tuple(value.shape) if isinstance(value, Tensor) else value
        raise ConfigError(
            f"cell {name!r}: {node.name} is {shape}, wanted a tensor (batch, channels, height, width): only 2-D "
            "convolutional stages can be binarised"
        )
    return int(value.shape[1]), int(value.shape[2]), int(value.shape[3])


def _add_step(chain: Chain, node: Node, layer: nn.Conv2d, pending: list[str], used: set[str], name: str) -> None:
    target = str(node.target)
    if target in used:
        raise ConfigError(
            f"cell {name!r}: {describe_node(node, layer_owner(node))} is called twice; a cell needs a convolution of its "
            "own for every node"
        )
    used.add(target)
    chain.steps.append(ChainStep(target, _shape(node, name), tuple(pending)))


def layer_owner(node: Node) -> Traced:
    """The module whose graph holds the node."""
    owner = node.graph.owning_module
    assert isinstance(owner, Traced)
    return owner


def _is_add(node: Node) -> bool:
    rule = find_rule(node, None) if node.op in ("call_function", "call_method") else None
    word = str(getattr(node.target, "__name__", node.target))
    return rule is not None and rule.function is arithmetic and word in _ADD and len(node.all_input_nodes) == 2


def _add_joint(
    chain: Chain,
    module: Traced,
    node: Node,
    order: dict[Node, int],
    passed: dict[Node, int],
    used: set[str],
    name: str,
) -> None:
    other = next((x for x in node.all_input_nodes if x not in order), node.all_input_nodes[0])
    layers: list[str] = []
    while other not in order:
        if other.op == "call_module":
            layers.insert(0, str(other.target))
        if len(other.all_input_nodes) != 1:
            return  # found out by _check_complete if it has weights
        other = other.all_input_nodes[0]
    chain.joints.add(len(chain.steps))
    start, stop = passed[other], len(chain.steps)
    start_shape = chain.shape if start == 0 else chain.steps[start - 1].shape
    has_weights = any(len(list(module.get_submodule(path).parameters())) for path in layers)
    if not has_weights:
        return
    if start == stop or start_shape == chain.steps[stop - 1].shape:
        raise ConfigError(
            f"cell {name!r}: {describe_node(node, module)} adds a path with weights ({', '.join(layers)}) that changes no "
            "shape. A cell is one chain of convolutions, with down-sampling layers beside it: name smaller parts in cells="
        )
    chain.shortcuts.append(Shortcut(start, tuple(layers), chain.steps[stop - 1].shape))
    used.update(layers)


def _check_complete(module: Traced, used: set[str], name: str) -> None:
    for node in module.graph.nodes:
        if node.op == "get_attr" and isinstance(node.meta["value"], nn.Parameter):
            raise ConfigError(f"cell {name!r}: it uses the parameter {node.target} directly, which no chain does")
        if node.op == "call_module" and str(node.target) not in used:
            layer = module.get_submodule(str(node.target))
            if len(list(layer.parameters())) and not isinstance(layer, nn.PReLU):
                raise ConfigError(
                    f"cell {name!r}: {describe_node(node, module)} lies beside the main path and is no plain shortcut. A "
                    "cell is one chain of convolutions: name smaller parts in cells=, without this layer"
                )


# --- stages in the graph of a model


def stage_node(module: Traced, name: str) -> Node:
    """The one call of the stage `name`, which must be kept whole in the graph.

    Raises:
        ConfigError: it is not called, called several times, or takes more than one tensor.
    """
    nodes = [node for node in module.graph.nodes if node.op == "call_module" and node.target == name]
    if len(nodes) != 1 or len(nodes[0].all_input_nodes) != 1:
        what = f"is called {len(nodes)} times" if len(nodes) != 1 else "takes several tensors"
        raise ConfigError(f"cell {name!r} {what} in the model's forward: a cell is called once, with one tensor")
    return nodes[0]


def stage_input(module: Traced, name: str) -> NodeShape:
    """Shape (channels, height, width) of the tensor that a stage takes.

    Raises:
        ConfigError: it is not of four dimensions.
    """
    value = stage_node(module, name).all_input_nodes[0].meta["value"]
    if not isinstance(value, Tensor) or value.dim() != 4:
        raise ConfigError(f"cell {name!r} takes {value!r}, wanted a tensor (batch, channels, height, width)")
    return int(value.shape[1]), int(value.shape[2]), int(value.shape[3])


def follows_directly(module: Traced, first: str, second: str) -> bool:
    """Whether stage `second` takes the output of stage `first`, and nobody else does."""
    before = stage_node(module, first)
    return stage_node(module, second).all_input_nodes == [before] and len(before.users) == 1


def bypass(module: Traced, name: str) -> None:
    """Take a stage out of the graph: its input stands in the place of its output."""
    node = stage_node(module, name)
    node.replace_all_uses_with(node.all_input_nodes[0])
    module.graph.erase_node(node)


def drop_activations_before(module: Traced, name: str) -> list[str]:
    """Remove activations whose results only the stage `name` sees, poolings in between included; names of the removed.

    Signs of a rectified tensor are all +1: a binary stage must see what comes before the rectifier.
    """
    removed = []
    node = stage_node(module, name).all_input_nodes[0]
    while len(node.users) == 1 and len(node.all_input_nodes) == 1:
        before = node.all_input_nodes[0]
        if is_activation(node, module):
            removed.append(node.name)
            node.replace_all_uses_with(before)
            module.graph.erase_node(node)
        elif node.op != "call_module" or not isinstance(module.get_submodule(str(node.target)), _BETWEEN):
            break
        node = before
    return removed
