"""Switches: the widths, and the share of channels, that a whole network runs with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from nasopt.arguments import check_count, short
from nasopt.checked import checked_fields
from nasopt.errors import ConfigError
from nasopt.graph.branches.markers import SITE, WidthSite
from nasopt.nn.quantise import Quantise

if TYPE_CHECKING:
    from nasopt.search.model import SearchModel

Widths = int | Mapping[str, int] | None
_REST = "*"


@checked_fields
@dataclass(frozen=True)
class Switch:
    """Widths of a whole network.

    Attributes:
        weights: bits of all weights that have a choice; a mapping of layers to bits, `"*"` for the rest; None: the widest.
        activations: the same of tensor classes, by the names that `Precision(activations=...)` takes.
        channels: share of the channels of every group that run, the first ones, in (0, 1]; of a model with masks.
    """

    weights: Widths = None
    activations: Widths = None
    channels: float = 1.0

    def __post_init__(self) -> None:
        share = self.channels
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise ConfigError(f"Switch: channels is a share in (0, 1], got {share!r}")
        for name, widths in (("weights", self.weights), ("activations", self.activations)):
            for bits in widths.values() if isinstance(widths, Mapping) else () if widths is None else (widths,):
                check_count(f"Switch: {name}", bits, 1, "bits")

    @staticmethod
    def of(value: Any) -> Switch:
        """A `Switch` as it is; an int for both widths; `(weights, activations)` or `(weights, activations, channels)`.

        Raises:
            ConfigError: something else.
        """
        if isinstance(value, Switch):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return Switch(value, value)
        if isinstance(value, tuple) and 2 <= len(value) <= 3:
            return Switch(*value)
        raise ConfigError(
            f"a switch is a nasopt.Switch, a width, or (weights, activations, channels); got {short(value)}"
        )

    def __str__(self) -> str:
        parts = [
            "mixed" if isinstance(one, Mapping) else str(one or "widest") for one in (self.weights, self.activations)
        ]
        return "/".join(parts) + (f" x {self.channels:g}" if self.channels < 1 else "")


@torch.no_grad()
def decide(model: SearchModel, switch: Switch) -> None:
    """Let a model with frozen architecture run a switch."""
    logits = model.choice_logits if model.choices is not None else None
    for path, position in positions(model, switch).items():
        first, count = model._prepared.decisions.price.choices[path]
        assert logits is not None
        site = model.net.get_submodule(path)
        assert isinstance(site, WidthSite)
        # One row, or one per channel.
        rows = torch.zeros(count // len(site.widths), len(site.widths)).to(logits)
        rows[:, position] = 1.0
        logits[first : first + count] = rows.reshape(-1)
    if model.masks is not None:
        channels = model._prepared.decisions.masks.channels
        for group in channels.unit_group.unique().tolist():
            units = torch.nonzero(channels.unit_group == group).reshape(-1).to(model.alpha.device)
            model.alpha[units] = 0.0
            model.alpha[units[: math.ceil(len(units) * switch.channels - 1e-9)]] = 1.0


def positions(model: SearchModel, switch: Switch) -> dict[str, int]:
    """Path of every choice of a width -> the position that the switch chooses.

    Raises:
        ConfigError: a width that there is not, or channels of a model without masks.
    """
    if switch.channels < 1 and model.masks is None:
        raise ConfigError(f"switch {switch}: the model has no masks for fewer channels: use PIT(..., precision=...)")
    assert model.precision is not None
    found: dict[str, int] = {}
    for kind, wanted, fixed in (
        ("weights", switch.weights, model.precision.weights),
        ("activations", switch.activations, model.precision.activations),
    ):
        table = wanted if isinstance(wanted, Mapping) else {_REST: wanted}
        sites = _sites(model, kind)
        if unknown := set(table) - set(fixed) - {_REST}:
            raise ConfigError(f"switch {switch}: {kind} names {sorted(unknown)[0]!r}, which the model does not have")
        for name, widths in fixed.items():
            bits = table.get(name, table.get(_REST))
            if bits is None or (name not in sites and (name not in table or bits == widths[0])):
                bits = widths[-1]
            if bits not in widths:
                allowed = ", ".join(map(str, widths))
                raise ConfigError(
                    f"switch {switch}: {kind} of {name!r} have {allowed} bits, not {bits!r}: see Precision"
                )
            if name in sites:
                found[sites[name]] = widths.index(bits)
        if isinstance(wanted, int) and not sites and all(wanted not in own for own in fixed.values()):
            raise ConfigError(
                f"switch {switch}: no {kind} of the model have {wanted} bits: give Precision several widths"
            )
    return found


def _sites(model: SearchModel, kind: str) -> dict[str, str]:
    """Name, as `Precision` calls it -> path of its choice."""
    assert model.precision is not None
    net, found = model.net, {}
    names = {name.replace(".", "_"): name for name in model.precision.activations}
    for path in model._prepared.decisions.price.choices:
        owner = path.removesuffix(f".{SITE}")
        if owner == path:
            continue
        is_point = isinstance(net.get_submodule(owner), Quantise)
        if is_point == (kind == "activations"):
            found[names[owner.rpartition(".")[2]] if is_point else owner] = path
    return found
