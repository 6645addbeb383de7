"""Right calls of exports, tools and layers for `hostile_calls.py`, and what it leaves out for a reason."""

from __future__ import annotations

import functools
from typing import Any

import torch
from hostile_bases import ANY, BASES, SHAPE, base, found, images, loader, rounded, seed
from torch import nn

from nasopt import datafree, export, pareto, testing, track, train, zoo
from nasopt import nn as layers
from nasopt.methods.pit import PIT

__all__ = ["BASES", "LEFT_OUT"]


# Files.
FILES: dict[str, Any] = {"example": (), "data": (None,), "metric": ()}
base(
    "export.to_onnx",
    export.to_onnx,
    lambda: {"found": found(), "path": "a.onnx", "example": torch.randn(2, *SHAPE)},
    **FILES,
)
base(
    "export.to_int8_onnx",
    export.to_int8_onnx,
    lambda: {"found": found(), "path": "b.onnx", "calibration": loader()},
    **FILES,
)
base(
    "export.to_quantised_onnx",
    export.to_quantised_onnx,
    lambda: {"found": rounded(), "path": "c.onnx"},
    **{**FILES, "example": (None,)},
)
base(
    "export.to_exported_program",
    export.to_exported_program,
    lambda: {"found": found(), "example": torch.randn(2, *SHAPE)},
    **FILES,
)
base("export.to_torch_layers", export.to_torch_layers, lambda: {"found": found(), "example": torch.randn(2, *SHAPE)})
base(
    "train.Distillation.load_state_dict",
    lambda: train.Distillation(found(), (1, 1, 1)).load_state_dict,
    lambda: {"state": train.Distillation(found(), (1, 1, 1)).state_dict()},
    fresh=True,
)
base(
    "train.kd_loss",
    train.kd_loss,
    lambda: {"student": torch.randn(2, 3), "teacher": torch.randn(2, 3), "labels": torch.tensor([0, 1])},
)
base("train.hyperspherical_energy", train.hyperspherical_energy, lambda: {"filters": torch.randn(3, 4)})
base("train.AngleRegularizer", train.AngleRegularizer, lambda: {"model": seed(), "quantizer": torch.round})
base("train.SphereConstrained", train.SphereConstrained, lambda: sphere())
SMALL: dict[str, Any] = {"steps": 1, "batch_size": 2}
base("datafree.Generator", datafree.Generator, lambda: {"classes": 2, "shape": SHAPE})
base("datafree.searchable_generator", datafree.searchable_generator, lambda: {"classes": 2, "shape": SHAPE})
base("datafree.StatisticsLoss", datafree.StatisticsLoss, lambda: {"model": images()})
base("datafree.generate", datafree.generate, lambda: {"generator": datafree.Generator(2, SHAPE, 4, 4), "count": 3})
base(
    "datafree.search_generator",
    datafree.search_generator,
    lambda: {"model": images(), "classes": 2, "shape": SHAPE, "noise": 4, "width": 4, **SMALL},
)
base(
    "datafree.train_generator",
    datafree.train_generator,
    lambda: {"model": images(), "generator": datafree.Generator(2, SHAPE, 4, 4), **SMALL},
)
base(
    "datafree.train_student",
    datafree.train_student,
    lambda: {"student": images(), "teacher": images(), "generator": datafree.Generator(2, SHAPE, 4, 4), **SMALL},
)
base(
    "testing.check_method",
    testing.check_method,
    lambda: {
        "front": lambda net, inputs: PIT(net, input_example=inputs),
        "seed": seed(),
        "inputs": (torch.randn(2, *SHAPE),),
        "laws": ["isolation"],
    },
    inputs=(),
)


def sphere() -> dict[str, Any]:
    net = found()
    return {"optimizer": torch.optim.SGD(net.parameters(), lr=0.1), "parameters": [next(net.parameters())]}


POINTS = [(1.0, 0.5), (2.0, 0.75)]
TAKES_ANY: dict[str, Any] = {"example": ANY}
base("export.integer_program", export.integer_program, lambda: {"found": rounded()}, **TAKES_ANY)
base("export.to_c", export.to_c, lambda: {"found": rounded(), "folder": "program"}, **TAKES_ANY)
base("export.open_session", export.open_session, lambda: {"path": session_file()})
base("export.top1", export.top1, lambda: {"outputs": torch.randn(2, 3), "targets": torch.tensor([0, 1])})
base("pareto.front", pareto.front, lambda: {"points": POINTS}, points=((), []))
base("pareto.hypervolume", pareto.hypervolume, lambda: {"points": POINTS, "reference": (3.0, 0.0)}, points=((), []))
base("pareto.plot", pareto.plot, lambda: {"networks": {"a": POINTS}}, networks=({},))
base("track.scalars", track.scalars, lambda: {"model": PIT(seed(), SHAPE)})
base(
    "track.log",
    track.log,
    lambda: {"model": PIT(seed(), SHAPE), "step": 1, "writers": [lambda *a: None]},
    writers=([], ()),
)
base("track.csv_file", track.csv_file, lambda: {"path": "log.csv"})
base("train.Distillation", train.Distillation, lambda: {"teacher": found(), "epochs": (1, 1, 1)})
base("train.ScaledLevels", train.ScaledLevels, lambda: {})
base("zoo.load", zoo.load, lambda: {"name": zoo.list()[0].name})
base("zoo.int8_file", zoo.int8_file, lambda: {"name": zoo.list()[0].name})


@functools.cache
def session_file() -> str:
    export.to_onnx(found(), "session.onnx", torch.randn(2, *SHAPE))
    return "session.onnx"


CONV: dict[str, Any] = {"in_channels": 4, "out_channels": 4}
TORCHS: dict[str, Any] = {"device": ANY, "dtype": ANY}  # as torch checks them
for name, given in {
    "AWConv2d": {**CONV, "kernel_size": 3}, "AdderConv2d": {**CONV, "kernel_size": 3}, "BinaryConv2d": {**CONV, "kernel_size": 3},
    "PAConv2d": {**CONV, "kernel_size": 3}, "ReafConv2d": {**CONV, "kernel_size": 3, "groups": 2, "merge": 2}, "ReafPlus": CONV,
    "LightResidual": CONV, "MultiHeadDepthwise": {"channels": 4, "heads": 2, "kernel_size": 3}, "MeanVarianceECA": {},
    "PAActivation": {},
    "Align2d": {"channels": 4, "size": (2, 2)}, "CellPool2d": {"kind": "max"}, "QuantNoise": {"levels": 4}, "Quantise": {},
    "adder_separable": CONV, "adder_norm": {"layer": layers.AdderConv2d(4, 4, 3)},
    "fractal_block": {"columns": 2, "layer": lambda *a: nn.Identity()},
    "dense_fractal_block": {"columns": 2, "growth": lambda *a: nn.Conv2d(2, 2, 1), "layer": lambda *a: nn.Conv2d(2, 2, 1)},
}.items():  # fmt: skip
    base(f"nn.{name}", getattr(layers, name), lambda given=given: given, **TORCHS)

LEFT_OUT = {
    **dict.fromkeys(
        (
            "nn.BinaryActivation",
            "nn.TwinActivation",
            "zoo.list",
            "function_rule",
            "layer_rule",
            "cost.chip_names",
            "cost.metric_names",
            "cost.runtime_names",
            "cost.target_names",
            "distributed.SynchronisedNorms",
            "distributed.check_same",
            "track.mlflow",
            "track.tensorboard",
        ),
        "takes nothing, or what another package judges, or needs processes",
    ),
    **dict.fromkeys(
        (
            f"nn.Quant{kind}"
            for kind in (
                "BatchNorm",
                "Conv1d",
                "Conv2d",
                "Conv3d",
                "ConvTranspose1d",
                "ConvTranspose2d",
                "ConvTranspose3d",
                "Linear",
            )
        ),
        "takes what torch's layer takes, which judges it",
    ),
    **dict.fromkeys(("nn.TwinConv2d",), "takes what torch's layer takes, which judges it"),
    **dict.fromkeys(
        ("nn.ByMode", "nn.FunctionUnit", "nn.PathByMode", "nn.Zero"), "stands in exports; nobody makes one"
    ),
    **dict.fromkeys(
        (
            "cost.CostReport",
            "cost.LatencyTable",
            "cost.LayerCall",
            "cost.LintReport",
            "cost.NetworkCalls",
            "cost.Runtime",
            "cost.Tabulation",
            "cost.targets.Row",
            "export.CReport",
            "export.ExportReport",
            "export.IntegerProgram",
            "export.TargetCost",
            "export.VelaCost",
            "pareto.Network",
            "pareto.Plot",
            "zoo.Entry",
        ),
        "a record that the library fills",
    ),
    **dict.fromkeys(
        ("export.to_tflite", "export.to_executorch", "export.vela_cost", "export.write_calibration_models"),
        "needs an environment of its own",
    ),
    **dict.fromkeys(
        (f"cost.targets.{name}" for name in ("Target", "get_target", "register_target", "target_names", "chip_names")),
        "of nasopt.cost",
    ),
    "errors.nearest": "no name of the module",
}
