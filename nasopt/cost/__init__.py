"""Costs of networks: metrics over `LayerShape`, embedded targets, peak memory, and the sum over a network."""

from nasopt.cost.calibration import suggest_calibration_models, target_from_timings
from nasopt.cost.latency import energy_metric, latency_metric
from nasopt.cost.latency_table import LatencyTable
from nasopt.cost.lint import LintReport, lint
from nasopt.cost.measured import target_from_table
from nasopt.cost.metrics import (
    MACS,
    MEMORY,
    OPS,
    SIZE,
    SIZE_BITS,
    AnyMetric,
    Metric,
    PeakMetric,
    RatioMetric,
    Tabulation,
    get_metric,
    metric_names,
    register_converter,
    register_family,
    register_metric,
    runtime_flash,
    runtime_memory,
    sums_of,
)
from nasopt.cost.network import LayerCall, NetworkCalls, network_calls, network_cost
from nasopt.cost.profiles import read_profile, target_from_profile
from nasopt.cost.report import CostReport, cost_report
from nasopt.cost.runtime import Runtime, get_runtime, register_runtime, runtime_names
from nasopt.cost.targets import Target, chip_names, get_target, register_target, target_names

__all__ = [
    "MACS",
    "MEMORY",
    "OPS",
    "SIZE",
    "SIZE_BITS",
    "AnyMetric",
    "CostReport",
    "LatencyTable",
    "LayerCall",
    "LintReport",
    "Metric",
    "NetworkCalls",
    "PeakMetric",
    "RatioMetric",
    "Runtime",
    "Tabulation",
    "Target",
    "chip_names",
    "cost_report",
    "energy_metric",
    "get_metric",
    "get_runtime",
    "get_target",
    "latency_metric",
    "lint",
    "metric_names",
    "network_calls",
    "network_cost",
    "read_profile",
    "register_converter",
    "register_family",
    "register_metric",
    "register_runtime",
    "register_target",
    "runtime_flash",
    "runtime_memory",
    "runtime_names",
    "suggest_calibration_models",
    "sums_of",
    "target_from_profile",
    "target_from_table",
    "target_from_timings",
    "target_names",
]
