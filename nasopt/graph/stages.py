"""Where do a model's stages stand in its graph? Inputs of stages, neighbours, and small edits around them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, fx, nn

from nasopt.errors import ConfigError
from nasopt.graph.chain import NodeShape, is_activation

# A traced model: what packages above this one call it, which import no torch.fx.
Traced = fx.GraphModule

_BETWEEN = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Dropout2d, nn.ZeroPad2d, nn.Identity)


def stage_node(module: fx.GraphModule, name: str) -> fx.Node:
    """The one call of the stage `name`, which must be kept whole in the graph.

    Raises:
        ConfigError: it is not called, called several times, or takes more than one tensor.
    """
    nodes = [node for node in module.graph.nodes if node.op == "call_module" and node.target == name]
    if len(nodes) != 1 or len(nodes[0].all_input_nodes) != 1:
        what = f"is called {len(nodes)} times" if len(nodes) != 1 else "takes several tensors"
        raise ConfigError(f"cell {name!r} {what} in the model's forward: a cell is called once, with one tensor")
    return nodes[0]


def stage_input(module: fx.GraphModule, name: str) -> NodeShape:
    """Shape (channels, height, width) of the tensor that a stage takes.

    Raises:
        ConfigError: it is not of four dimensions.
    """
    value = stage_node(module, name).all_input_nodes[0].meta["value"]
    if not isinstance(value, Tensor) or value.dim() != 4:
        raise ConfigError(f"cell {name!r} takes {value!r}, wanted a tensor (batch, channels, height, width)")
    return int(value.shape[1]), int(value.shape[2]), int(value.shape[3])


def follows_directly(module: fx.GraphModule, first: str, second: str) -> bool:
    """Whether stage `second` takes the output of stage `first`, and nobody else does."""
    before = stage_node(module, first)
    return stage_node(module, second).all_input_nodes == [before] and len(before.users) == 1


def bypass(module: fx.GraphModule, name: str) -> None:
    """Take a stage out of the graph: its input stands in the place of its output."""
    node = stage_node(module, name)
    node.replace_all_uses_with(node.all_input_nodes[0])
    module.graph.erase_node(node)


def drop_activations_before(module: fx.GraphModule, name: str) -> list[str]:
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


def tidy(module: fx.GraphModule) -> None:
    """Drop layers that nobody calls any more, and bring the code up to date."""
    module.delete_all_unused_submodules()
    module.graph.lint()
    module.recompile()


def readers_of(module: fx.GraphModule, layer: type[nn.Module], reader: type[nn.Module]) -> list[str]:
    """Paths of the layers of type `reader` that take the result of a `layer` at every call."""
    calls: dict[str, list[bool]] = {}
    for node in module.graph.nodes:
        if node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), reader):
            before = node.all_input_nodes[0]
            is_layer = before.op == "call_module" and isinstance(module.get_submodule(str(before.target)), layer)
            calls.setdefault(str(node.target), []).append(is_layer)
    return [path for path, follow in calls.items() if all(follow)]


def merge_into_readers(module: fx.GraphModule, layer: type[nn.Module], reader: type[nn.Module]) -> None:
    """Take every `layer` out of the graph whose result only layers of type `reader` see: they do its work themselves."""
    for node in list(module.graph.nodes):
        if node.op != "call_module" or not isinstance(module.get_submodule(str(node.target)), layer):
            continue
        users = [user for user in node.users if user.op == "call_module"]
        if len(users) == len(node.users) and all(
            isinstance(module.get_submodule(str(user.target)), reader) for user in users
        ):
            node.replace_all_uses_with(node.all_input_nodes[0])
            module.graph.erase_node(node)
    tidy(module)


def sequence_graph(layers: Iterable[nn.Module]) -> fx.GraphModule:
    """Layers with a rule, one after the other, as a graph: without tracing, and without copies."""
    root, graph = nn.Sequential(*layers), fx.Graph()
    x = graph.placeholder("input")
    for name, _ in root.named_children():
        x = graph.call_module(name, (x,))
    graph.output(x)
    return fx.GraphModule(root, graph)
