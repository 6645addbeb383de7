"""What a network costs: metrics over `LayerShape`, embedded targets, peak memory, and the sum over a network."""

from nasopt.cost.energy import energy_metric
from nasopt.cost.latency import latency_metric
from nasopt.cost.latency_table import LatencyTable
from nasopt.cost.metrics import (
    MACS,
    OPS,
    SIZE,
    SIZE_BITS,
    Metric,
    get_metric,
    metric_names,
    register_family,
    register_metric,
)
from nasopt.cost.network import LayerCall, NetworkCalls, network_calls, network_cost
from nasopt.cost.targets import Target, get_target, register_target, target_from_table, target_names

__all__ = [
    "MACS",
    "OPS",
    "SIZE",
    "SIZE_BITS",
    "LatencyTable",
    "LayerCall",
    "Metric",
    "NetworkCalls",
    "Target",
    "energy_metric",
    "get_metric",
    "get_target",
    "latency_metric",
    "metric_names",
    "network_calls",
    "network_cost",
    "register_family",
    "register_metric",
    "register_target",
    "target_from_table",
    "target_names",
]
