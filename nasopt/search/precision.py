"""Precision: how many bits weights and activations have; a traced network becomes a quantised one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import fx, nn

from nasopt.errors import ConfigError, nearest
from nasopt.graph.branches.markers import Choice
from nasopt.graph.integer_roles import BATCH_NORMS, quantised_class
from nasopt.graph.points import SHARING, Points, find_points, insert_points
from nasopt.graph.registry import alteration
from nasopt.graph.trace import matches_module
from nasopt.nn.quantised import FLOAT_BITS, QuantBatchNorm, Quantise, QuantisedWeight, check_widths

Widths = int | Sequence[int]
Quantizer = Literal["lsq", "minmax"]
Sampling = Literal["soft", "hard"]
_REST = "*"


@dataclass(frozen=True)
class Precision:
    """Widths in bits of weights and activations; one is quantisation-aware training, several are searched.

    ```python
    Precision(weights=8, activations=8)
    Precision(weights={"*": (2, 4, 8), "head": 8, nn.Linear: 4}, activations=(4, 8))
    ```

    Attributes:
        weights: a width, several, or a mapping of names, globs and classes of layers to those, the first that fits; `"*"` for
            the rest. 32 leaves a layer in floats.
        activations: the same for tensor classes, by name: the path of the layer that writes it. 32 leaves a tensor in floats.
        first_last: width of the weights of first and last layers, where `weights` does not name them; None: as all others.
        inputs: width of the network's inputs.
        quantizer: of weights: `"lsq"`, a learned step per channel; `"minmax"`, the largest weight of each channel.
        sampling: of several widths: `"soft"`, a mixture; `"hard"`, one that is drawn (Gumbel softmax).
        share_steps_at: `"add"`, `"mul"`, `"average"`: inputs and outputs of these share one grid, for chips that cannot rescale.
    """

    weights: Widths | Mapping[Any, Widths] = (2, 4, 8)
    activations: Widths | Mapping[str, Widths] = 8
    first_last: int | None = 8
    inputs: int = 8
    quantizer: Quantizer = "lsq"
    sampling: Sampling = "soft"
    share_steps_at: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("weights", "activations"):
            given = getattr(self, name)
            table = given if isinstance(given, Mapping) else {_REST: given}
            for key, widths in table.items():
                _widths(widths, f"{name}[{key!r}]" if isinstance(given, Mapping) else name)
            if not table:
                raise ConfigError(f"{name}: an empty mapping gives no width to anything: name some, or '*' for the rest")
        for name in ("first_last", "inputs"):
            value = getattr(self, name)
            if value is not None or name == "inputs":
                _widths(value, name)
        for name, known in (("quantizer", ("lsq", "minmax")), ("sampling", ("soft", "hard"))):
            value = getattr(self, name)
            if value not in known:
                hint = nearest(value, known) if isinstance(value, str) else ""
                raise ConfigError(f"{name}: unknown {value!r}: known are {', '.join(known)}.{hint}")
        if isinstance(self.share_steps_at, str) or not set(self.share_steps_at) <= set(SHARING):
            raise ConfigError(f"share_steps_at must be a tuple of {', '.join(SHARING)}, got {self.share_steps_at!r}")

    @staticmethod
    def of(value: Any) -> Precision:
        """A `Precision` as it is; an int or several as one for weights, ints alone for activations, too.

        Raises:
            ConfigError: neither.
        """
        if isinstance(value, Precision):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return Precision(weights=value, activations=value, first_last=None if value >= 8 else 8)
        if isinstance(value, Sequence) and not isinstance(value, str):
            return Precision(weights=tuple(value))
        raise ConfigError(f"precision must be a nasopt.Precision, or a width in bits, got {value!r}")

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: _listed(value) for name, value in found.items()}


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else key.__name__: _listed(item) for key, item in value.items()}
    return list(value) if isinstance(value, (tuple, list)) else value


def _widths(value: Any, where: str) -> tuple[int, ...]:
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value,)
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise ConfigError(f"{where}: widths are ints, or several of them; got {value!r}")
    return check_widths(value, where)


@dataclass(frozen=True)
class Plan:
    """Widths of every layer and tensor class of one model, resolved; plain values, as a structure stores them.

    Attributes:
        weights: path of a layer -> widths.
        activations: name of a tensor class -> widths.
        quantizer, sampling, share_steps_at: as in `Precision`.
    """

    weights: Mapping[str, tuple[int, ...]]
    activations: Mapping[str, tuple[int, ...]]
    quantizer: str = "lsq"
    sampling: str = "soft"
    share_steps_at: tuple[str, ...] = field(default=())

    def plain(self) -> dict[str, Any]:
        """As plain values, for a structure."""
        return {
            "weights": {name: list(widths) for name, widths in self.weights.items()},
            "activations": {name: list(widths) for name, widths in self.activations.items()},
            "quantizer": self.quantizer,
            "sampling": self.sampling,
            "share_steps_at": list(self.share_steps_at),
        }

    @staticmethod
    def from_plain(value: Any) -> Plan:
        """Of a structure.

        Raises:
            ConfigError: it is damaged.
        """
        try:
            weights = {str(name): check_widths(widths, name) for name, widths in value["weights"].items()}
            activations = {str(name): check_widths(widths, name) for name, widths in value["activations"].items()}
            return Plan(weights, activations, value["quantizer"], value["sampling"], tuple(value["share_steps_at"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"damaged structure, precision: {type(error).__name__}: {error}. Save arch_structure() again"
            ) from error


def plan(module: fx.GraphModule, precision: Precision) -> Plan:
    """Resolve names and globs of a `Precision` for a traced model.

    Raises:
        ConfigError: a name or class matches nothing.
    """
    layers = quantisable_layers(module)
    given = precision.weights if isinstance(precision.weights, Mapping) else {_REST: precision.weights}
    _check_matches(given, layers, "weights")
    ends = _first_and_last(module, layers)
    weights: dict[str, tuple[int, ...]] = {}
    for name, layer in layers.items():
        key = _key(given, name, layer)
        if key in (None, _REST) and name in ends and precision.first_last is not None:
            weights[name] = (precision.first_last,)
        else:
            weights[name] = (FLOAT_BITS,) if key is None else _widths(given[key], "weights")
    floats = [name for name, widths in weights.items() if widths == (FLOAT_BITS,)]
    points = find_points(module, floats, tuple(precision.share_steps_at))
    of_values = precision.activations if isinstance(precision.activations, Mapping) else {_REST: precision.activations}
    inputs = {node.target for node in module.graph.nodes if node.op == "placeholder"}
    _check_matches(of_values, dict.fromkeys(points.classes, nn.Identity()), "activations")
    activations = {}
    for name in points.classes:
        key = _key(of_values, name, nn.Identity())
        if name in inputs and key in (None, _REST):
            activations[name] = (precision.inputs,)
        else:
            activations[name] = (FLOAT_BITS,) if key is None else _widths(of_values[key], "activations")
    return Plan(weights, activations, precision.quantizer, precision.sampling, tuple(precision.share_steps_at))


def quantise_network(module: fx.GraphModule, chosen: Plan) -> Points:
    """Make a traced network a quantised one, in place: layers and norms get their quantised form, values their points.

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
        raise ConfigError(f"precision: the network has no tensor class {sorted(missing)[0]!r}: it belongs to another model")
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    made: dict[str, nn.Module] = {}
    for name, one in points.classes.items():
        widths = chosen.activations.get(name, (FLOAT_BITS,))
        if widths != (FLOAT_BITS,):
            made[name] = _searchable(Quantise(widths, one.signed), chosen).to(like.device, like.dtype)
    insert_points(module, points, made, container(module))
    for name, layer in layers.items():
        if name not in floats:
            quantised = _become(layer, quantised_class(layer))
            quantised.quantise_weights(chosen.weights[name], chosen.quantizer == "minmax")
            quantised.__dict__["source"] = made.get(points.source.get(name, ""))
            _replace(module, layer, _searchable(quantised, chosen))
    norms = {str(n.target) for n in module.graph.nodes if n.op == "call_module"}
    for name in norms & (set(points.absorbed) | set(points.source)):
        norm = module.get_submodule(name)
        if isinstance(norm, BATCH_NORMS) and not isinstance(norm, QuantBatchNorm):
            writer = points.absorbed.get(name)
            quantised = _become(norm, QuantBatchNorm)
            absorbing = module.get_submodule(writer) if writer is not None else None
            quantised.__dict__["layer"] = absorbing if isinstance(absorbing, QuantisedWeight) else None
            quantised.__dict__["source"] = made.get(points.source.get(name, ""))
            if isinstance(absorbing, QuantisedWeight):
                absorbing.__dict__["norm"] = quantised
            _replace(module, norm, quantised)
    return points


def quantisable_layers(module: fx.GraphModule) -> dict[str, nn.Module]:
    """Layers of a traced model that have a quantised form, by path, in the order of the graph."""
    found: dict[str, nn.Module] = {}
    for node in module.graph.nodes:
        if node.op == "call_module":
            layer = module.get_submodule(str(node.target))
            if quantised_class(layer) is not None and not alteration(layer) and len(node.all_input_nodes) == 1:
                found.setdefault(str(node.target), layer)
    return found


def container(module: nn.Module) -> str:
    """Name of the submodule that holds the points: one that the seed does not use."""
    name = "points"
    while hasattr(module, name):
        name += "_"
    return name


def _searchable(layer: Any, chosen: Plan) -> Any:
    if len(layer.widths) > 1:
        hard = chosen.sampling == "hard"
        settings = {"gumbel_softmax": hard, "hard_softmax": hard, "temperature": 1.0}
        layer.width = Choice(tuple(f"{bits} bit" for bits in layer.widths), settings)
    return layer


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


def _key(table: Mapping[Any, Any], name: str, layer: nn.Module) -> Any:
    for key in table:
        if key != _REST and matches_module(name, layer, [key]):
            return key
    return _REST if _REST in table else None


def _check_matches(table: Mapping[Any, Any], layers: Mapping[str, nn.Module], where: str) -> None:
    for key in table:
        if not isinstance(key, (str, type)):
            raise ConfigError(f"{where}: {key!r} is no name, glob or class")
        if key != _REST and not any(matches_module(name, layer, [key]) for name, layer in layers.items()):
            hint = nearest(key, layers) if isinstance(key, str) else ""
            raise ConfigError(f"{where}: {key!r} matches nothing. Known are {', '.join(list(layers)[:8])}...{hint}")


def _first_and_last(module: fx.GraphModule, layers: Mapping[str, nn.Module]) -> set[str]:
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
