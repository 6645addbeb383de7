"""What a network costs: metrics over `LayerShape`."""

from nasopt.cost.metrics import MACS, SIZE, Metric, get_metric, metric_names, register_metric

__all__ = ["MACS", "SIZE", "Metric", "get_metric", "metric_names", "register_metric"]
