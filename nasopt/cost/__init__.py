"""What a network costs: metrics over `LayerShape`, and the sum over a network."""

from nasopt.cost.metrics import MACS, SIZE, Metric, get_metric, metric_names, register_metric
from nasopt.cost.network import LayerCall, NetworkCalls, network_calls, network_cost

__all__ = [
    "MACS",
    "SIZE",
    "LayerCall",
    "Metric",
    "NetworkCalls",
    "get_metric",
    "metric_names",
    "network_calls",
    "network_cost",
    "register_metric",
]
