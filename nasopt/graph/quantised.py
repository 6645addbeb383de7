"""A quantised network of a traced one: layers and norms get their quantised form, activations their points."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from nasopt.errors import ConfigError
from nasopt.graph.branches.markers import SITE, WidthSite
from nasopt.graph.integer_roles import BATCH_NORMS, QUANTISED, quantised_class
from nasopt.graph.points import Points, find_points
from nasopt.graph.registry import alteration
from nasopt.graph.sharing import is_changed_in_place
from nasopt.nn.grids import FLOAT_BITS
from nasopt.nn.quantise import Quantise
from nasopt.nn.quantised import QuantisedWeight
from nasopt.nn.quantised_norm import QuantBatchNorm


@dataclass(frozen=True)
class Widths:
    """Widths of every layer and tensor class of one model.

    Attributes:
        weights: path of a layer -> widths, ascending; layers without any stay in floats.
        activations: name of a tensor class -> widths; classes without any stay in floats.
        quantizer, activation_quantizer: by name.
        sampling: of several widths: `"soft"` or `"hard"`.
        share_steps_at: operations whose inputs and outputs share one grid.
        per_channel: whether each output channel of a layer has a width of its own, where layers allow that.
    """

    weights: Mapping[str, tuple[int, ...]]
    activations: Mapping[str, tuple[int, ...]]
    quantizer: str = "lsq"
    activation_quantizer: str = "lsq"
    sampling: str = "soft"
    share_steps_at: tuple[str, ...] = ()
    per_channel: bool = False


def quantise_network(module: fx.GraphModule, chosen: Widths) -> Points:
    """Make a traced network a quantised one, in place: layers and norms get their quantised form, values their points.

    Args:
        module: behind `use_layers`.
        chosen: of its layers and tensor classes.

    Raises:
        ConfigError: the plan names layers or tensor classes that the network does not have.
    """
    layers = quantisable_layers(module)
    unknown = set(chosen.weights) - set(layers)
    if unknown:
        raise ConfigError(f"precision: the network has no layer {sorted(unknown)[0]!r} with weights to quantise")
    floats = [name for name in layers if chosen.weights.get(name, (FLOAT_BITS,)) == (FLOAT_BITS,)]
    points = find_points(module, floats, chosen.share_steps_at)
    missing = set(chosen.activations) - set(points.classes)
    if missing:
        raise ConfigError(
            f"precision: the network has no tensor class {sorted(missing)[0]!r}: it belongs to another model"
        )
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    made: dict[str, nn.Module] = {}
    for name, one in points.classes.items():
        widths = chosen.activations.get(name, (FLOAT_BITS,))
        if widths != (FLOAT_BITS,):
            made[name] = _searchable(Quantise(widths, one.signed, chosen.activation_quantizer), chosen).to(
                like.device, like.dtype
            )
    insert_points(module, points, made, container(module))
    for name, layer in layers.items():
        if name not in floats:
            quantised = _become(layer, quantised_class(layer))
            quantised.quantise_weights(chosen.weights[name], chosen.quantizer)
            quantised.__dict__["source"] = made.get(points.source.get(name, ""))
            _replace(module, layer, _searchable(quantised, chosen))
    norms = {str(n.target) for n in module.graph.nodes if n.op == "call_module"}
    for name in norms & (set(points.absorbed) | set(points.source)):
        norm = module.get_submodule(name)
        if isinstance(norm, BATCH_NORMS) and not isinstance(norm, QuantBatchNorm):
            writer = points.absorbed.get(name)
            absorbing = module.get_submodule(writer) if writer is not None else None
            if not isinstance(absorbing, QuantisedWeight) and points.source.get(name) not in made:
                continue
            quantised = _become(norm, QuantBatchNorm)
            quantised.__dict__["layer"] = absorbing if isinstance(absorbing, QuantisedWeight) else None
            quantised.__dict__["source"] = made.get(points.source.get(name, ""))
            if isinstance(absorbing, QuantisedWeight):
                absorbing.__dict__["norm"] = quantised
            _replace(module, norm, quantised)
    return points


def has_sites(module: fx.GraphModule) -> bool:
    """Whether some width is still to choose."""
    return any(isinstance(layer, WidthSite) for layer in module.modules())


def quantisable_layers(module: fx.GraphModule) -> dict[str, nn.Module]:
    """Layers of a traced model that have a quantised form, by path, in the order of the graph."""
    found: dict[str, nn.Module] = {}
    for node in module.graph.nodes:
        if node.op == "call_module":
            layer = module.get_submodule(str(node.target))
            if quantised_class(layer) is not None and not alteration(layer) and len(node.all_input_nodes) == 1:
                found.setdefault(str(node.target), layer)
    first: dict[int, str] = {}
    return {path: layer for path, layer in found.items() if first.setdefault(id(layer), path) == path}


def container(module: nn.Module) -> str:
    """Name of the submodule that holds the points: one that the seed does not use."""
    name = "points"
    while hasattr(module, name):
        name += "_"
    return name


def _searchable(layer: Any, chosen: Widths) -> Any:
    if len(layer.widths) > 1:
        hard = chosen.sampling == "hard"
        settings = {"gumbel_softmax": hard, "hard_softmax": hard, "temperature": 1.0}
        channels = layer.weight_log_steps.shape[1] if chosen.per_channel and has_widths_per_channel(layer) else None
        setattr(layer, SITE, WidthSite(layer.widths, settings, channels))
    return layer


def has_widths_per_channel(layer: nn.Module) -> bool:
    """Whether output channels of a layer may differ in width: each is computed from its own part of the weight, by one call
    per width. Of convolutions in groups only depthwise ones of as many outputs as inputs can be split so."""
    found: Any = layer
    if not isinstance(layer, QuantisedWeight):
        return False
    groups = getattr(found, "groups", 1)
    return groups == 1 or (not found.output_dim and groups == found.in_channels == found.out_channels)


def as_floats(network: nn.Module) -> nn.Module:
    """A quantised network as torch's own layers, without grids; a network without quantised layers is returned as it is."""
    if not any(isinstance(layer, (Quantise, QuantisedWeight)) for layer in network.modules()):
        return network
    plain = copy.deepcopy(network)
    if isinstance(plain, fx.GraphModule):
        for node in list(plain.graph.nodes):
            if node.op == "call_module" and isinstance(plain.get_submodule(str(node.target)), Quantise):
                node.replace_all_uses_with(node.all_input_nodes[0])
                plain.graph.erase_node(node)
        plain.recompile()
    for layer in list(plain.modules()):
        if isinstance(layer, Quantise):
            _replace(plain, layer, nn.Identity())
        elif isinstance(layer, (QuantisedWeight, QuantBatchNorm)):
            _replace(plain, layer, _become(layer, _plain_class(layer)))
    return plain


def _plain_class(layer: Any) -> Any:
    if isinstance(layer, QuantisedWeight):
        return next(kind for kind in type(layer).__mro__ if kind in QUANTISED)
    rank = 2 if layer.layer is None else max(layer.layer.weight.dim() - 2, 1)
    return BATCH_NORMS[rank - 1]


def _become(layer: nn.Module, kind: Any) -> Any:
    """The same tensors and settings as a layer of another class."""
    made = kind.__new__(kind)
    made.__dict__.update(vars(layer))
    for table in ("_parameters", "_buffers", "_modules"):
        made.__dict__[table] = dict(getattr(layer, table))
    return made


def _replace(module: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def first_and_last(module: fx.GraphModule, layers: Mapping[str, nn.Module]) -> set[str]:
    """Layers with no other one before them, and those with none behind."""
    ends: set[str] = set()
    for nodes, neighbours in (
        (list(module.graph.nodes), "all_input_nodes"),
        (list(reversed(module.graph.nodes)), "users"),
    ):
        reached: dict[fx.Node, bool] = {}
        for node in nodes:
            before = any(reached[one] for one in getattr(node, neighbours) if one in reached)
            is_layer = node.op == "call_module" and str(node.target) in layers
            if is_layer and not before:
                ends.add(str(node.target))
            reached[node] = before or is_layer
    return ends


def insert_points(module: fx.GraphModule, points: Points, layers: Mapping[str, nn.Module], container: str) -> None:
    """Put a call of the class's layer behind every value of a class.

    Args:
        module: changed in place.
        points: of this module.
        layers: name of a class -> its layer; classes without one stay in floats.
        container: name of the submodule that holds the layers.
    """
    paths = submodule_names(points.classes)
    module.add_submodule(container, nn.ModuleDict({paths[name]: layer for name, layer in layers.items()}))
    graph = module.graph
    for name in layers:
        for node in points.classes[name].behind:
            with graph.inserting_after(node):
                rounded = graph.call_module(f"{container}.{paths[name]}", (node,))
            rounded.meta = {key: value for key, value in node.meta.items() if key != "writes"}
            for user in list(node.users):
                if user is not rounded:
                    user.replace_input_with(node, rounded)
            if is_changed_in_place(module, rounded):  # what is rounded is needed in the backward pass as it is
                with graph.inserting_after(rounded):
                    copied = graph.call_method("clone", (rounded,))
                copied.meta = dict(rounded.meta)
                for user in list(rounded.users):
                    if user is not copied:
                        user.replace_input_with(rounded, copied)
    graph.lint()
    module.recompile()


def submodule_names(names: Iterable[str]) -> dict[str, str]:
    """Names without dots, which differ and are no attributes of a `ModuleDict`."""
    found: dict[str, str] = {}
    taken = set(dir(nn.ModuleDict()))
    for name in names:
        plain = name.replace(".", "_")
        while plain in taken:
            plain += "_"
        taken.add(plain)
        found[name] = plain
    return found
