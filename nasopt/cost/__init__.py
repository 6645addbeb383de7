"""What a network costs: metrics over `LayerShape`."""

from nasopt.cost.metrics import MACS, OPS, SIZE, SIZE_BITS, Metric, get_metric, metric_names, register_metric

__all__ = ["MACS", "OPS", "SIZE", "SIZE_BITS", "Metric", "get_metric", "metric_names", "register_metric"]
