"""ONNX files of quantised networks: ONNX Runtime computes the program's integers, weights are stored at their width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from integers import batch, found
from test_integer import FROM_TABLE, OWN
from torch import nn
from toys import TOYS

from nasopt import MixedPrecision, Precision
from nasopt.errors import ConfigError, ExportError
from nasopt.export import integer_program, open_session, to_int8_onnx, to_quantised_onnx, to_tflite
from nasopt.export.integer.onnx_model import onnx_model
from nasopt.export.integer.program import IntegerProgram
from nasopt.export.quantised_onnx import compare_points

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def program_of(name: str, number: int) -> IntegerProgram:
    torch.manual_seed(number)
    seed = OWN[name][0]() if name in OWN else TOYS[name].seed(torch.float32)
    x = batch(*OWN[name][1]) if name in OWN else TOYS[name].batch(4, torch.float32)
    return integer_program(found(seed, x, number, train=False))


def network(weights: Any = 8, activations: Any = 8) -> nn.Module:
    torch.manual_seed(0)
    seed = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),
    )
    model = MixedPrecision(seed, (3, 6, 6), precision=Precision(weights, activations, None), verify=False)
    model.calibrate(batch((3, 6, 6), size=8))
    return model.arch_export(verify=False)


@pytest.mark.parametrize("name", [*OWN, *FROM_TABLE])
def test_the_runtime_computes_the_integers(name: str) -> None:
    """No toy has a tie in single precision with these seeds; where one has, `ALLOWED` says how many."""
    program = program_of(name, 5)
    model = onnx_model(program, points=True)
    onnx.checker.check_model(model, full_check=True)
    differ, compared = compare_points(program, model)
    assert compared > 50
    assert differ == 0


@pytest.mark.parametrize(
    ("weights", "kind"), [(8, "INT8"), (5, "INT8"), (4, "INT4"), (3, "INT4"), (2, "INT2"), (1, "INT2")]
)
@pytest.mark.parametrize("activations", [8, 4])
def test_weights_are_stored_at_their_width(weights: int, kind: str, activations: int, tmp_path: Path) -> None:
    report = to_quantised_onnx(network(weights, activations), tmp_path / "found.onnx")
    assert report.integers is not None
    assert report.integers[0] <= 1e-4 * report.integers[1]
    count = 3 * 16 * 9 + 16 * 32 * 9 + 32 * 4
    assert f"weights: {count:,} of {weights} bits stored as {kind}" in str(report)
    stored = [t for t in onnx.load(tmp_path / "found.onnx").graph.initializer if t.name.endswith(".weight")]
    assert sum(len(t.raw_data) for t in stored) == count * int(kind[3:]) // 8
    session = open_session(tmp_path / "found.onnx", exact=False)  # default options load it
    feed = {session.get_inputs()[0].name: np.zeros((5, 3, 6, 6), np.float32)}
    assert session.run(None, feed)[0].shape == (5, 4)


def test_the_runtime_uses_integer_operators(tmp_path: Path) -> None:
    import onnxruntime as ort

    to_quantised_onnx(network(4, 4), tmp_path / "found.onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(tmp_path / "found.onnx", options, providers=["CPUExecutionProvider"])
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert {"QLinearConv", "QGemm"} <= kinds
    assert not {"Conv", "Gemm", "DequantizeLinear", "AveragePool"} & kinds


def test_sixteen_bits_are_computed_in_floats(tmp_path: Path) -> None:
    report = to_quantised_onnx(network(8, 16), tmp_path / "found.onnx")
    assert "computes layers of 16 bits in floats" in str(report)


def test_accuracies_and_costs_stand_in_the_report(tmp_path: Path) -> None:
    quantised = network(4)
    x = batch((3, 6, 6), size=32)[0]
    labels = quantised.eval()(x).argmax(1)
    report = to_quantised_onnx(quantised, tmp_path / "found.onnx", data=[(x, labels)], targets=["cortex_m4"])
    assert report.accuracy["torch"] == 1
    assert report.accuracy["file"] >= 1 - 1 / 32
    assert report.costs[0].target == "cortex_m4"


def test_other_exporters_point_to_it(tmp_path: Path) -> None:
    for export in (to_int8_onnx, to_tflite):
        with pytest.raises(ExportError, match="quantised already: to_quantised_onnx writes it with its own steps"):
            export(network(), tmp_path / "found.file", batch((3, 6, 6)))  # type: ignore[operator]
    with pytest.raises(ConfigError, match="nothing in this network is quantised"):
        to_quantised_onnx(nn.Conv2d(3, 1, 1), tmp_path / "found.onnx")
    assert not list(tmp_path.iterdir())


def test_a_wrong_file_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nasopt.export.integer import onnx_graph

    right = onnx_graph.OnnxGraph.constant

    def wrong(self: Any, array: Any, dtype: Any, name: str = "") -> str:
        return right(self, np.asarray(array) + 300 * name.endswith(".bias"), dtype, name)

    monkeypatch.setattr(onnx_graph.OnnxGraph, "constant", wrong)
    with pytest.raises(ExportError, match="integers of the file differ from the network's, so nothing was written"):
        to_quantised_onnx(network(), tmp_path / "found.onnx")
    assert not list(tmp_path.iterdir())
