"""Right calls of methods, costs and targets for `hostile_calls.py`: what is called, its arguments, and further right values.

`...` in place of values: the argument is left out, for it may be anything.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import nasopt
from nasopt import cost
from nasopt.methods import nasb
from nasopt.methods.pit import PIT

SHAPE = (3, 6, 6)
ANY: Any = ...
Base = tuple[Callable[[], tuple[Callable[..., Any], dict[str, Any]]], dict[str, Any]]
BASES: dict[str, Base] = {}


def seed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))


def branches() -> nn.Module:
    choice = nasopt.SuperNetModule([nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)])
    return nn.Sequential(choice, nn.Conv2d(4, 4, 3))


def stages() -> nn.Module:
    stage = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), stage, nn.Flatten(), nn.Linear(144, 2))


def loader() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(2, *SHAPE), torch.tensor([0, 1])) for _ in range(2)]


@functools.cache
def found() -> nn.Module:
    return PIT(seed(), SHAPE).arch_export().eval()


@functools.cache
def rounded() -> nn.Module:
    model = nasopt.PIT(seed(), SHAPE, precision=8)
    model.calibrate([x for x, _ in loader()])
    return model.arch_export().eval()


def mixed() -> Any:
    model = nasopt.MixedPrecision(seed(), SHAPE, precision=nasopt.Precision((4, 8), first_last=None))
    model.calibrate([x for x, _ in loader()])
    return model


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )


def base(name: str, function: Any, given: Callable[[], dict[str, Any]] = dict, **right: Any) -> None:
    """One callable; `function` may be a lambda that makes a method of a fresh object, where `right` has `fresh=True`."""
    fresh = right.pop("fresh", False)
    BASES[name] = (lambda: (function() if fresh else function, given()), right)


# Search methods.
OPTIONS: dict[str, Any] = {"input_example": (None,), "precision": (None, 3), "regularizer": (), "input_shape": (None,)}
base("PIT", nasopt.PIT, lambda: {"model": seed(), "input_shape": SHAPE}, **OPTIONS)
base("SuperNet", nasopt.SuperNet, lambda: {"model": branches(), "input_shape": SHAPE}, **OPTIONS)
base("PITSuperNet", nasopt.PITSuperNet, lambda: {"model": branches(), "input_shape": SHAPE}, **OPTIONS)
base("MixedPrecision", nasopt.MixedPrecision, lambda: {"model": seed(), "input_shape": SHAPE}, **OPTIONS)
base("NASB", nasopt.NASB, lambda: {"model": stages(), "input_shape": SHAPE, "cells": ["1"], "nodes": 2}, **OPTIONS)
BASES["methods.nasb.NASB"] = BASES["NASB"]
base(
    "methods.nasb.binary_cells",
    nasb.binary_cells,
    lambda: {"model": stages(), "input_shape": SHAPE, "cells": ["1"], "nodes": 2},
    **OPTIONS,
)
base(
    "methods.nasb.AlternatingSearch",
    nasb.AlternatingSearch,
    lambda: {"model": nasopt.NASB(stages(), SHAPE, cells=["1"], nodes=2), "criterion": nn.functional.cross_entropy},
)
for name in ("full_precision", "pack"):
    base(f"methods.nasb.{name}", getattr(nasb, name), lambda: {"model": cells()})
base("methods.nasb.binarize", nasb.binarize, lambda: {"model": nasb.full_precision(cells())})
base(
    "methods.nasb.fine_tune_optimizer",
    nasb.fine_tune_optimizer,
    lambda: {"model": nasb.binarize(nasb.full_precision(cells()))},
)
base("SuperNetModule", nasopt.SuperNetModule, lambda: {"branches": [nn.ReLU(), nn.Tanh()]})
base(
    "with_candidates",
    nasopt.with_candidates,
    lambda: {"model": seed(), "input_shape": SHAPE},
    input_example=(None,),
    where=(),
)
base("supernet_candidates", nasopt.supernet_candidates, lambda: {"conv": nn.Conv2d(4, 4, 3, padding=1)})
base(
    "restore",
    nasopt.restore,
    lambda: {"seed": seed(), "structure": PIT(seed(), SHAPE).arch_structure()},
    input_example=(None,),
)
base("recalibrate", nasopt.recalibrate, lambda: {"model": images(), "batches": [torch.randn(2, *SHAPE)]})
base(
    "prune_quantised",
    nasopt.prune_quantised,
    lambda: {"model": rounded_seed(), "input_shape": SHAPE, "evaluate": lambda net: 0.5, "trials": (1, 1)},
    input_shape=(None,),
)
base(
    "allocate_bits",
    nasopt.allocate_bits,
    lambda: {"model": mixed(), "batches": loader(), "budget": nasopt.Budget(size_bits=3000)},
)
base(
    "search",
    nasopt.search,
    lambda: {
        "model": seed(),
        "train_loader": loader(),
        "val_loader": loader(),
        "budget": {"size": 60},
        "epochs": (0, 20, 0),
        "progress": False,
    },
    precision=(None, 3),
    checkpoint=("no", "1"),
)


def cells() -> nn.Module:
    return nasopt.NASB(stages(), SHAPE, cells=["1"], nodes=2).arch_export()


# What stands beside them.
base("Budget", nasopt.Budget, lambda: {"limits": {"size": 100}})
base("Precision", nasopt.Precision)
base("Switch", nasopt.Switch)
base(
    "Switchable",
    nasopt.Switchable,
    lambda: {"model": mixed(), "switches": [nasopt.Switch(weights=4), nasopt.Switch(weights=8)]},
)
base("Switchable.use", lambda: switchable().use, lambda: {"switch": nasopt.Switch(weights=4)}, fresh=True)
base("Switchable.param_groups", lambda: switchable().param_groups, lambda: {"lr": 0.1}, fresh=True)
base("Switchable.export", lambda: switchable().export, lambda: {"switch": nasopt.Switch(weights=4)}, fresh=True)
base("PhaseSchedule", nasopt.PhaseSchedule, lambda: {"model": PIT(seed(), SHAPE), "search": 3, "strength": 1.0})
for name, given in {
    "phase_of": {"epoch": 1},
    "set_epoch": {"epoch": 1},
    "load_state_dict": {"state": {"epoch": 1}},
}.items():
    base(
        f"PhaseSchedule.{name}",
        lambda name=name: getattr(nasopt.PhaseSchedule(PIT(seed(), SHAPE), search=3, strength=1.0), name),
        lambda given=given: given,
        fresh=True,
    )
for name, given in {
    "arch_export": {}, "shrink": {}, "drop_branches": {}, "get_cost": {"metric": "macs"}, "get_icv_loss": {},
    "set_epoch": {"epoch": 1},
    "param_groups": {"lr": 0.1, "arch_lr": 0.1}, "freeze_arch": {}, "hold": {"names": []},
}.items():  # fmt: skip
    base(
        f"SuperNet().{name}",
        lambda name=name: getattr(nasopt.PITSuperNet(branches(), SHAPE), name),
        lambda given=given: given,
        fresh=True,
    )
for name, given in {
    "calibrate": {"batches": [torch.randn(2, *SHAPE)]},
    "quantise": {},
    "choose_widths": {"widths": {}},
    "set_width_temperature": {"value": 0.5},
}.items():
    base(f"MixedPrecision().{name}", lambda name=name: getattr(mixed(), name), lambda given=given: given, fresh=True)
base("schedule.linear", nasopt.schedule.linear, lambda: {"start": 1.0, "end": 2.0, "epochs": 3})
base("schedule.exponential", nasopt.schedule.exponential, lambda: {"start": 1.0, "end": 2.0, "epochs": 3})
base("schedule.constant", nasopt.schedule.constant, lambda: {"value": 1.0})


def rounded_seed() -> nn.Module:
    model = nasopt.PIT(seed(), SHAPE, precision=8)
    model.calibrate([x for x, _ in loader()])
    return model.arch_export()


def switchable() -> nasopt.Switchable:
    return nasopt.Switchable(mixed(), [nasopt.Switch(weights=4), nasopt.Switch(weights=8)])


# Costs and targets.
def board() -> cost.Target:
    return cost.get_target("cortex_m4")


for name in ("cost_report", "lint", "network_calls"):
    base(
        f"cost.{name}",
        getattr(cost, name),
        lambda: {"model": seed(), "input_shape": SHAPE},
        input_shape=(None,),
        input_example=(None,),
    )
base(
    "cost.network_cost",
    cost.network_cost,
    lambda: {"model": seed(), "metric": "macs", "input_shape": SHAPE},
    input_example=(None,),
)
base("cost.Metric", cost.Metric, lambda: {"name": "q", "unit": "u", "per_call": True, "cost": lambda shape: 1})
base("cost.RatioMetric", cost.RatioMetric, lambda: {"name": "q", "unit": "u", "above": cost.MACS, "below": cost.SIZE})
base("cost.PeakMetric", cost.PeakMetric)
base(
    "cost.Target",
    cost.Target,
    lambda: {
        "name": "q",
        "summary": "",
        "clock_mhz": 1.0,
        "kernel": max,
        "law": (),
        "priced": frozenset(),
        "provenance": "",
    },
    law=((),),
    priced=(),
)
base("cost.get_target", cost.get_target, lambda: {"target": "cortex_m4"})
base("cost.get_metric", cost.get_metric, lambda: {"metric": "macs"})
base("cost.get_runtime", cost.get_runtime, lambda: {"runtime": "tflm"})
base("cost.latency_metric", cost.latency_metric, lambda: {"target": "cortex_m4"})
for name, given in {"energy_metric": "target", "runtime_memory": "runtime", "runtime_flash": "runtime"}.items():
    base(
        f"cost.{name}",
        getattr(cost, name),
        lambda given=given: {given: {"target": "cortex_m4", "runtime": "tflm"}[given]},
    )
base("cost.sums_of", cost.sums_of, lambda: {"metric": cost.MACS})
base(
    "cost.LatencyTable.build",
    cost.LatencyTable.build,
    lambda: {"target": "cortex_m4", "shapes": [call.shape for call in cost.network_calls(seed(), SHAPE).calls]},
)
base("cost.read_profile", cost.read_profile, lambda: {"profile": profile()})
base(
    "cost.suggest_calibration_models",
    cost.suggest_calibration_models,
    lambda: {"candidates": {"a": (seed(), SHAPE), "b": (images(), SHAPE)}, "k": 1},
)
base(
    "cost.target_from_table",
    cost.target_from_table,
    lambda: {"table": measured(), "name": "my_table", "clock_mhz": 64.0},
    table=(),
)
base(
    "cost.target_from_timings",
    cost.target_from_timings,
    lambda: {"timings": [(seed(), SHAPE, 1.0), (images(), SHAPE, 0.5)]},
)
base(
    "cost.target_from_profile",
    cost.target_from_profile,
    lambda: {"model": seed(), "input_shape": SHAPE, "profile": profile(), "clock_mhz": 64.0},
)
for name in ("register_target", "register_metric", "register_runtime"):
    base(f"cost.{name}", getattr(cost, name), lambda name=name: {name.removeprefix("register_"): registered(name)})
base(
    "cost.register_converter",
    cost.register_converter,
    lambda: {"kind": type("Mine", (), {}), "make": lambda one: cost.MACS},
    kind=(nn.ReLU,),
)
base(
    "cost.register_family",
    cost.register_family,
    lambda: {"prefix": unused(), "make": lambda word: cost.MACS, "argument": "WORD"},
)


def measured() -> list[dict[str, Any]]:
    rows = []
    for channels in (2, 4, 8, 16):
        row = {
            "kind": "conv",
            "in_channels": channels,
            "out_channels": channels,
            "kernel": "3x3",
            "output_size": "8x8",
            "stride": "1x1",
        }
        rows.append({**row, "groups": 1, "ms": 0.1 * channels**2})
    return rows


def profile() -> str:
    Path("profile.txt").write_text("operator,cycles\nconv_2d,1200\nfully_connected,300\n")
    return "profile.txt"


_COUNT = iter(range(10**9))


def unused() -> str:
    return f"name_{next(_COUNT)}"


def registered(name: str) -> Any:
    import dataclasses

    if name == "register_metric":
        return cost.Metric(unused(), "u", per_call=True, cost=lambda shape: 1)
    return dataclasses.replace(board() if name == "register_target" else cost.get_runtime("tflm"), name=unused())
