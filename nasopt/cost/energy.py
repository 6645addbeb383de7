"""What energy does a layer take on an embedded target? Its time, times the power of the board while it computes."""

from __future__ import annotations

from functools import partial
from typing import Any

from nasopt.cost.latency import layer_cycles
from nasopt.cost.metrics import Metric, register_family
from nasopt.cost.targets.registry import get_target
from nasopt.cost.targets.target import Target
from nasopt.errors import ConfigError
from nasopt.graph.layer_shape import LayerShape


def energy_metric(target: str | Target) -> Metric:
    """The metric "energy of a layer" [uJ] = active power [mW] x latency [ms]; idle time and peripherals are not in it.

    Published power varies by about 15 % between networks on one board, and with supply voltage: compare candidates on
    one target with it rather than targets with each other.

    Raises:
        ConfigError: no target has that name, or its active power is not known.
    """
    target = get_target(target)
    if not target.active_power_mw > 0:
        raise ConfigError(
            f"target {target.name!r} has no active power, so energy cannot be computed: use a target that has one, or "
            f"dataclasses.replace(target, active_power_mw=...) with a measured figure [mW]"
        )
    return Metric(f"energy:{target.name}", "uJ", per_call=True, cost=partial(_layer_energy, target))


def _layer_energy(target: Target, shape: LayerShape) -> Any:
    """Energy of one call [uJ]: mW times ms."""
    return target.milliseconds(layer_cycles(target, shape)) * target.active_power_mw


register_family("energy", energy_metric)
