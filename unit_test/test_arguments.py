"""Every argument of every public constructor and function, with values of every wrong kind: none raw, none silent."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import nasopt
from nasopt import (
    NASB,
    PIT,
    Budget,
    PhaseSchedule,
    PITSuperNet,
    SuperNet,
    SuperNetModule,
    cost,
    export,
    pareto,
    schedule,
)
from nasopt.errors import ConfigError, NasoptError

SHAPE = (3, 6, 6)
NAN, INF = float("nan"), float("inf")
WRONG: list[Any] = [
    *(None, "no", "1", b"x", 3, -1, 0, 1.5, NAN, INF, True, False),
    *([], ["macs"], [1, 1.0], [NAN], {}, {"a": 1}, (), object(), torch.zeros(2), nn.ReLU),
]
MODULE = nn.ReLU()
WRONG.append(MODULE)
FLAG = (True, False)
NUMBER = (3, 0, 1.5)
EMPTY: tuple[Any, ...] = ([], ())


def seed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))


def branches() -> nn.Module:
    choice = SuperNetModule([nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)])
    return nn.Sequential(choice, nn.Conv2d(4, 4, 3))


def stages() -> nn.Module:
    stage = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), stage, nn.Flatten(), nn.Linear(144, 2))


@functools.cache
def wrapped() -> Any:
    return PIT(seed(), SHAPE)


@functools.cache
def chosen() -> Any:
    return SuperNet(branches(), SHAPE)


def table() -> dict[str, tuple[Callable[[Any], Any], tuple[Any, ...]]]:
    """By the name of an argument: a call with a value for it, and those of `WRONG` that are right."""
    rows: dict[str, tuple[Callable[[Any], Any], tuple[Any, ...]]] = {}

    def add(function: Callable[..., Any], base: Callable[[], dict[str, Any]], **arguments: tuple[Any, ...]) -> None:
        for name, right in arguments.items():
            call = lambda value, name=name: function(**{**base(), name: value})  # noqa: E731
            rows[f"{function.__qualname__}({name})"] = (call, right)

    options: dict[str, Any] = {
        "model": (MODULE,),
        "input_shape": (),
        "input_example": (None,),
        "regularizer": (),
        "relative": FLAG,
        "strict": FLAG,
        "verify": FLAG,
        "unpriced": (),
        "leaf_modules": (*EMPTY, "1"),
    }
    masks = {"channel_block": (3,), "kernel_search": FLAG, "exclude_names": (*EMPTY, "1"), "exclude_types": EMPTY}
    flags = {"gumbel_softmax": (None, *FLAG), "hard_softmax": (None, *FLAG)}
    weighed = {**flags, "temperature": (None, 3, 1.5), "paths": ()}
    pit = lambda: {"model": seed(), "input_shape": SHAPE}  # noqa: E731
    supernet = lambda: {"model": branches(), "input_shape": SHAPE}  # noqa: E731
    nasb = lambda: {"model": stages(), "input_shape": SHAPE, "cells": ["1"], "nodes": 2}  # noqa: E731
    add(PIT, pit, **{**options, **masks, "exclude_types": EMPTY, "regulariser": (), "kernel_serch": ()})
    add(SuperNet, supernet, **{**options, **weighed, "leaf_modules": (*EMPTY, "1")})
    more = {"branch_masks": (), "freeze_masks_epochs": (None, *NUMBER), "autoconvert_layers": (None, *FLAG)}
    add(PITSuperNet, supernet, **masks, **weighed, **more)
    given = {"cells": (None, "1", *EMPTY), "preset": (), "candidates": (None,), "active": ()}
    add(NASB, nasb, **given, keep=(None, 1, 3), keep_output=(None, 3), nodes=(None, 3), branches=(None, 3))

    for limit in ("latency", "energy", "latencyy", "Size", "memroy"):
        add(Budget, lambda: {"macs": 5}, **{limit: EMPTY if limit in ("latency", "energy") else ()})
    add(Budget, lambda: {"macs": 5}, size=(3, 1.5), memory=(3, 1.5), limits=(None, {}))
    add(schedule.constant, dict, value=(*NUMBER, -1))
    for way in (schedule.linear, schedule.exponential):
        right = (*NUMBER, -1) if way is schedule.linear else (3, 1.5)
        add(way, lambda: {"start": 1, "end": 2, "epochs": 3}, start=right, end=right, epochs=(3, 1.5))
    add(schedule.Schedule, lambda: {"kind": "linear", "start": 1, "end": 2, "epochs": 3}, kind=())
    add(schedule.linear(1, 2, 3).__call__, dict, epoch=NUMBER)
    base = lambda: {"model": wrapped(), "search": 3, "strength": 1.0}  # noqa: E731
    add(PhaseSchedule, base, model=(), search=(3,), warmup=(3, 0), finetune=(3, 0), strength=NUMBER, freeze=(None, {}))
    phases = PhaseSchedule(wrapped(), search=3, strength=1.0)
    add(phases.set_epoch, dict, epoch=(3, 0))
    add(phases.phase_of, dict, epoch=(3, 0))
    add(phases.load_state_dict, dict, state=())

    more = {"shared": FLAG, "keep": (1,), "groups": (None,), "takes": (None,), "names": (None, *EMPTY)}
    own = {"temperature": (3, 1.5), "gumbel_softmax": FLAG, "hard_softmax": FLAG}
    add(SuperNetModule, lambda: {"branches": [nn.ReLU(), nn.Tanh()]}, branches=(), **own, **more)
    wanted = {"candidates": (None,), "kernels": EMPTY, "separable": FLAG, "identity": FLAG}
    layers = {"conv": (), "norm": (None, MODULE), "activation": (None, MODULE), "own": (None,)}
    conv = nn.Conv2d(4, 4, 3, padding=1)
    add(nasopt.supernet_candidates, lambda: {"conv": conv}, **layers, **wanted, fits_identity=(None, *FLAG))
    add(nasopt.with_candidates, pit, model=(), input_shape=(), where=(None,), **own, **wanted)

    model = wrapped()
    add(model.get_cost, lambda: {"metric": "macs"}, metric=(), discrete=FLAG)
    add(model.arch_export, dict, verify=FLAG)
    add(model.set_epoch, dict, epoch=NUMBER)
    add(
        model.param_groups, lambda: {"lr": 0.1, "arch_lr": 0.1}, lr=NUMBER, arch_lr=(None, *NUMBER), weight_decay=NUMBER
    )
    add(model.hold, dict, names=EMPTY)
    add(model.freeze_arch, dict, decided=FLAG)
    add(chosen().get_icv_loss, dict, eps=(3, 1.5))
    rows["temperature"] = (functools.partial(setattr, chosen(), "temperature"), (3, 1.5, MODULE))
    structure = model.arch_structure()
    add(nasopt.restore, lambda: {"seed": seed(), "structure": structure}, seed=(MODULE,), structure=())
    found = model.arch_export()
    add(nasopt.recalibrate, lambda: {"model": found, "batches": []}, model=(MODULE,), batches=())
    bits = nasopt.MixedPrecision(seed(), SHAPE, precision=nasopt.Precision((4, 8), first_last=None))
    add(bits.calibrate, lambda: {"batches": [torch.randn(2, *SHAPE)]}, batches=(), max_batches=(None, 3))
    add(bits.choose_widths, dict, widths=({},))
    points = {"points": [(1.0, 0.5)], "reference": (3.0, 0.0)}
    add(pareto.hypervolume, lambda: points, points=EMPTY, reference=())
    add(export.top1, lambda: {"outputs": torch.zeros(2, 3), "targets": torch.tensor([0, 1])}, outputs=())
    for function in (nasopt.layer_rule, nasopt.function_rule):
        right = (nn.ReLU,) if function is nasopt.layer_rule else (nn.ReLU, MODULE)
        rows[function.__name__] = (function, right)

    add(cost.cost_report, pit, model=(MODULE,), input_shape=(), targets=EMPTY, runtime=(None,))
    add(cost.network_cost, lambda: {**pit(), "metric": "macs"}, model=(MODULE,), metric=())
    figures = dict.fromkeys(("clock_mhz", "ram_bytes", "flash_bytes", "active_power_mw"), (None, 3, 1.5))
    board = cost.Target("board", "", 1.0, kernel=max, law=(), priced=frozenset(), provenance="")
    add(cost.get_target, lambda: {"target": board}, target=(), **figures)
    metric = lambda: {"name": "q", "unit": "u", "per_call": True, "cost": lambda shape: 1}  # noqa: E731
    add(cost.Metric, metric, name=("no", "1"), unit=("no", "1"), per_call=FLAG, cost=(nn.ReLU, MODULE))
    for register in (cost.register_metric, cost.register_target, cost.register_runtime):
        rows[register.__name__] = (register, ())
    return rows


def is_one_of(value: Any, right: tuple[Any, ...]) -> bool:
    return any(
        value is one or (type(value) is type(one) and type(one) is not torch.Tensor and value == one) for one in right
    )


@pytest.mark.filterwarnings("ignore")
def test_wrong_arguments() -> None:
    """Every value raises an error of nasopt, but for those that are right for the argument."""
    rows = table()
    assert len(rows) > 104
    for argument, (call, right) in rows.items():
        for value in WRONG:
            if is_one_of(value, right):
                continue
            try:
                call(value)
            except NasoptError:
                continue
            except Exception as error:
                pytest.fail(f"{argument} = {value!r}: {type(error).__name__}: {error}")
            pytest.fail(f"{argument} = {value!r} was taken")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PIT(seed(), SHAPE, regularizer=["macs"]), r"regularizer is one metric or a dict .*got \['macs'\]"),
        (lambda: PIT(seed(), SHAPE, regularizer={"macs": 0}), "every weight is 0"),
        (lambda: PIT(seed(), SHAPE, kernel_search="no"), "kernel_search must be True or False, got 'no'"),
        (lambda: PIT(seed(), SHAPE, regulariser="macs"), r"no argument 'regulariser'.* Did you mean 'regularizer'\?"),
        (lambda: PIT(seed(), SHAPE, exclude_names=[nn.ReLU]), "classes belong into exclude_types"),
        (lambda: PIT(seed(), SHAPE, exclude_types="0"), "names belong into exclude_names"),
        (lambda: Budget(latency=30), r"latency is a pair \(target, limit in ms\) like \('cortex_m4', 30\).*got 30"),
        (lambda: Budget(latencyy=3), r"unknown limit 'latencyy'. Did you mean 'latency'\?"),
        (lambda: Budget({"size": 3}, size=4), "size is limited twice"),
        (lambda: PhaseSchedule(wrapped(), search=3, strength=1.0).set_epoch(NAN), "must be an int >= 0, got nan"),
        (lambda: chosen().set_epoch(NAN), "epoch must be a finite number >= 0, got nan"),
        (lambda: SuperNetModule(nn.ReLU()), r"takes a list of branches, got one ReLU"),
        (lambda: SuperNetModule(nn.Sequential(nn.ReLU(), nn.Tanh())), r"list\(sequential\)"),
        (lambda: PITSuperNet(branches(), SHAPE, freeze_masks_epochs="2"), r"finite number >= 0 \[epochs\], got '2'"),
        (lambda: nasopt.function_rule("no_such_method"), "names of tensor methods"),
    ],
)
def test_messages(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def test_top1_counts_samples_and_places() -> None:
    outputs = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert export.top1(outputs, torch.tensor([1, 1])) == 0.5
    assert export.top1(outputs[:, :, None].expand(2, 2, 3), torch.tensor([[1, 1, 0], [0, 0, 0]])) == 5 / 6
    with pytest.raises(ConfigError, match=r"got \(2, 2\) and \(2, 1\)"):  # would be spread over each other
        export.top1(outputs, torch.tensor([[1], [1]]))


def test_long_values_are_cut() -> None:
    with pytest.raises(ConfigError) as error:
        PIT(seed(), SHAPE, kernel_search=torch.zeros(1000, 3))  # type: ignore[arg-type]
    assert len(str(error.value)) < 200
    assert not re.search("\n", str(error.value))
