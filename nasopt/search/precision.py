"""Precision: how many bits weights and activations have, as a user says it, and resolved for one traced model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from nasopt.arguments import check_items
from nasopt.errors import ConfigError, nearest
from nasopt.graph.groups import Traced
from nasopt.graph.points import SHARING, find_points
from nasopt.graph.quantised import Widths, first_and_last, quantisable_layers
from nasopt.graph.trace import matches_module
from nasopt.nn.grids import FLOAT_BITS, check_widths
from nasopt.nn.quantise import Quantise
from nasopt.nn.quantised import QuantisedWeight
from nasopt.nn.weight_quantizers import WEIGHT_QUANTIZERS

Bits = int | Sequence[int]
Quantizer = Literal["lsq", "minmax", "apsq", "dorefa"]
ActivationQuantizer = Literal["lsq", "pact"]
Sampling = Literal["soft", "hard"]
Granularity = Literal["layer", "channel"]
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
        quantizer: of weights: `"lsq"`, a learned step per channel; `"minmax"`, by the largest weight of each channel;
            `"apsq"`, by the least angle to it; `"dorefa"`, by the tanh of the whole layer, which no integer program has.
        activation_quantizer: `"lsq"`, or `"pact"`, whose steps learn from what is clipped alone.
        sampling: of several widths: `"soft"`, a mixture; `"hard"`, one that is drawn (Gumbel softmax).
        granularity: of searched widths of weights: `"layer"`, or `"channel"`: every output channel has its own.
        share_steps_at: `"add"`, `"mul"`, `"average"`: inputs and outputs of these share one grid, for chips that cannot rescale.
    """

    weights: Bits | Mapping[Any, Bits] = (2, 4, 8)
    activations: Bits | Mapping[str, Bits] = 8
    first_last: int | None = 8
    inputs: int = 8
    quantizer: Quantizer = "lsq"
    activation_quantizer: ActivationQuantizer = "lsq"
    sampling: Sampling = "soft"
    share_steps_at: Sequence[str] = ()
    granularity: Granularity = "layer"

    def __post_init__(self) -> None:
        for name in ("weights", "activations"):
            given = getattr(self, name)
            table = given if isinstance(given, Mapping) else {_REST: given}
            for key, widths in table.items():
                _widths(widths, f"{name}[{key!r}]" if isinstance(given, Mapping) else name)
            if not table:
                raise ConfigError(
                    f"{name}: an empty mapping gives no width to anything: name some, or '*' for the rest"
                )
        for name in ("first_last", "inputs"):
            value = getattr(self, name)
            if value is not None or name == "inputs":
                _widths(value, name)
        choices = {
            "quantizer": WEIGHT_QUANTIZERS,
            "activation_quantizer": ("lsq", "pact"),
            "sampling": ("soft", "hard"),
            "granularity": ("layer", "channel"),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                hint = nearest(value, known) if isinstance(value, str) else ""
                raise ConfigError(f"{name}: unknown {value!r}: known are {', '.join(known)}.{hint}")
        operations = check_items("Precision: share_steps_at", self.share_steps_at, str, f"some of {', '.join(SHARING)}")
        if not set(operations) <= set(SHARING):
            raise ConfigError(f"share_steps_at must be a tuple of {', '.join(SHARING)}, got {self.share_steps_at!r}")

        if self.granularity == "channel":
            self._check_channels()

    def _check_channels(self) -> None:
        if self.quantizer != "lsq":
            raise ConfigError(f'granularity="channel" mixes the learned steps of "lsq", not of {self.quantizer!r}')
        table = self.weights if isinstance(self.weights, Mapping) else {_REST: self.weights}
        for key, given in table.items():
            widths = _widths(given, f"weights[{key!r}]")
            if len(widths) > 1 and (FLOAT_BITS in widths or 16 in widths):
                raise ConfigError(
                    f"weights[{key!r}]: channels of one layer are stored in 1 to 8 bits, not in {widths[-1]}: take it out, or "
                    'use granularity="layer"'
                )

    @staticmethod
    def of(value: Any) -> Precision:
        """A `Precision` as it is; an int or several as one for weights, ints alone for activations, too; text as in `parse`.

        Raises:
            ConfigError: neither.
        """
        if isinstance(value, Precision):
            return value
        if isinstance(value, str):
            return Precision.parse(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return Precision(weights=value, activations=value, first_last=None if value >= 8 else 8)
        if isinstance(value, Sequence) and not isinstance(value, bytes):
            return Precision(weights=tuple(value))
        raise ConfigError(f"precision must be a nasopt.Precision, or a width in bits, got {value!r}")

    @staticmethod
    def parse(text: str) -> Precision:
        """`"8"`, `"w4a8"` (widths of weights and of activations) or `"mixed"` (the default: widths are searched).

        Raises:
            ConfigError: none of these, or a width that no quantizer has.
        """
        if text == "mixed":
            return Precision()
        match = re.fullmatch(r"(\d+)|w(\d+)a(\d+)", text)
        if match is None:
            raise ConfigError(
                f"precision {text!r}: give bits like 8 (weights and activations), w4a8, or mixed: widths are searched"
            )
        if match[1]:
            return Precision.of(int(match[1]))
        return Precision(weights=int(match[2]), activations=int(match[3]))


def _widths(value: Any, where: str) -> tuple[int, ...]:
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value,)
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise ConfigError(f"{where}: widths are ints, or several of them; got {value!r}")
    return check_widths(value, where)


def plain_widths(widths: Widths) -> dict[str, Any]:
    """As plain values, for a structure."""
    return {
        "weights": {name: list(bits) for name, bits in widths.weights.items()},
        "activations": {name: list(bits) for name, bits in widths.activations.items()},
        "quantizer": widths.quantizer,
        **({} if widths.activation_quantizer == "lsq" else {"activation_quantizer": widths.activation_quantizer}),
        "sampling": widths.sampling,
        "share_steps_at": list(widths.share_steps_at),
        **({"granularity": "channel"} if widths.per_channel else {}),
    }


def widths_from_plain(value: Any) -> Widths:
    """Of a structure.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        weights = {str(name): check_widths(bits, name) for name, bits in value["weights"].items()}
        activations = {str(name): check_widths(bits, name) for name, bits in value["activations"].items()}
        quantizer, sampling, shared = value["quantizer"], value["sampling"], tuple(value["share_steps_at"])
        of_activations, granularity = value.get("activation_quantizer", "lsq"), value.get("granularity", "layer")
        names = {"quantizer": quantizer, "activation_quantizer": of_activations, "granularity": granularity}
        Precision(**names, sampling=sampling, share_steps_at=shared)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"damaged structure, precision: {type(error).__name__}: {error}. Save arch_structure() again"
        ) from error
    return Widths(weights, activations, quantizer, of_activations, sampling, shared, granularity == "channel")


def plan(module: Traced, precision: Precision) -> Widths:
    """Resolve names and globs of a `Precision` for a traced model.

    Raises:
        ConfigError: a name or class matches nothing, or the model is quantised already.
    """
    if any(isinstance(layer, (Quantise, QuantisedWeight)) for layer in module.modules()):
        raise ConfigError(
            "precision: the model has quantised layers already, whose grids would be lost: wrap it without precision= to train "
            "or search it further in its own widths, or quantise the network that it was made of"
        )
    layers = quantisable_layers(module)
    given = precision.weights if isinstance(precision.weights, Mapping) else {_REST: precision.weights}
    _check_matches(given, layers, "weights")
    ends = first_and_last(module, layers)
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
    activations: dict[str, tuple[int, ...]] = {}
    for name in points.classes:
        key = _key(of_values, name, nn.Identity())
        if name in inputs and key in (None, _REST):
            activations[name] = (precision.inputs,)
        else:
            activations[name] = (FLOAT_BITS,) if key is None else _widths(of_values[key], "activations")
    names = (precision.quantizer, precision.activation_quantizer, precision.sampling)
    per_channel = precision.granularity == "channel"
    return Widths(weights, activations, *names, tuple(precision.share_steps_at), per_channel)


def check_masks(precision: Precision, has_masks: bool) -> None:
    """Raise a `ConfigError` where steps would change with what masks leave."""
    if has_masks and precision.quantizer != "lsq":
        raise ConfigError(
            f'quantizer="{precision.quantizer}" takes its levels from the weights, which a search over channels removes: use '
            '"lsq", or search channels first and quantise what arch_export() returns'
        )


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
