"""int8 files: every layer with weights in QDQ form, one scale per channel, ranges from real batches, on every kind of network."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from settings import scramble
from torch import Tensor, nn
from toys.table import randomise

import nasopt
from benchmarks_mlperf_tiny import networks
from nasopt import NASB, PIT
from nasopt.export import open_session, to_int8_onnx
from unit_test.methods.nasb_seeds import SHAPE as NASB_SHAPE
from unit_test.methods.nasb_seeds import Residual

Case = tuple[Callable[[], Any], tuple[int, ...]]


def pit(make: Callable[[], nn.Module], *shape: int) -> Case:
    return lambda: PIT(randomise(make()), shape), shape


def first_input(path: Path) -> str:
    return str(onnx.load(path).graph.input[0].name)


def export(case: Case, path: Path) -> Any:
    """Export a found network of random architecture; both files are compared with it once more."""
    make, shape = case
    model = make()
    scramble(model)
    found = randomise(model.arch_export()).train()
    batches = [torch.randn(8, *shape) for _ in range(2)]
    report = to_int8_onnx(found, path, batches, targets=["cortex_m4"])
    assert found.training
    assert 0 <= report.difference <= 1e-4
    output = open_session(path).run(None, {first_input(path): batches[0].numpy()})[0]
    with torch.no_grad():
        wanted = found.eval()(batches[0])
    error = (torch.as_tensor(output) - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()
    assert float(error) == pytest.approx(report.int8_difference, rel=1e-3)
    assert float(error) < 0.15
    assert report.batch is None
    assert report.costs[0].latency_ms > 0
    assert report.file_bytes == path.stat().st_size
    return report


def test_every_layer_with_weights_is_int8(tmp_path: Path) -> None:
    check_every_layer(pit(networks.ds_cnn, 1, 49, 10), tmp_path / "int8.onnx")


def check_every_layer(case: Case, path: Path) -> None:
    report = export(case, path)
    model = onnx.load(path)
    source = {output: node for node in model.graph.node for output in node.output}
    stored = {entry.name: entry for entry in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    for node in layers:
        assert source[node.input[0]].op_type == "DequantizeLinear"
        weight = source[node.input[1]]
        values, scales = stored[weight.input[0]], stored[weight.input[1]]
        assert values.data_type == onnx.TensorProto.INT8
        axis = next(attribute.i for attribute in weight.attribute if attribute.name == "axis")
        assert list(scales.dims) == [values.dims[axis]]  # one per output channel
    assert report.int8_layers == (len(layers), len(layers))
    assert report.file_bytes < report.float_file_bytes
    assert "BatchNormalization" not in [node.op_type for node in model.graph.node]


def test_binary_layers_stay_what_they_are(tmp_path: Path) -> None:
    toy = (lambda: NASB(randomise(Residual()), NASB_SHAPE, cells=["stage1", "stage2"]), NASB_SHAPE)
    check_binary_layers(toy, tmp_path / "int8.onnx")


def check_binary_layers(case: Case, path: Path) -> None:
    report = export(case, path)
    done, layers = report.int8_layers
    assert 0 < done < layers
    assert f"{layers - done} binary layers are written as float layers" in str(report)


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(nasopt.__file__).parent.parent / "docs" / "deployment.md").read_text()
    example = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert example is not None
    monkeypatch.chdir(tmp_path)
    network = randomise(small())
    data = [(torch.randn(50, 3, 4, 4), torch.randint(0, 3, (50,))) for _ in range(2)]
    scope: dict[str, Any] = {"found": network, "train_loader": iter(data), "test_loader": data}
    exec(example[1], scope)
    report = scope["report"]

    path = tmp_path / "found-int8.onnx"
    session, name = open_session(path), first_input(path)
    network.eval()

    def share(run: Callable[[Tensor], Tensor]) -> float:
        return sum(int((run(x).argmax(1) == y).sum()) for x, y in data) / 100

    int8 = share(lambda x: torch.as_tensor(session.run(None, {name: x.numpy()})[0]))
    wanted = {"torch": share(network), "float": share(network), "int8": int8}
    assert {form: report.accuracy[form] for form in wanted} == pytest.approx(wanted)
    assert f"int8 {int8:.2%}" in str(report)


def test_ranges_come_from_all_batches_that_may_be_looked_at(tmp_path: Path) -> None:
    def input_scale(**options: Any) -> float:
        batches = [torch.rand(8, 48) * 2 - 1, torch.rand(8, 48) * 20 - 10]
        path = tmp_path / "int8.onnx"
        to_int8_onnx(network, path, batches, **options)
        stored = {entry.name: onnx.numpy_helper.to_array(entry) for entry in onnx.load(path).graph.initializer}
        return float(stored[f"{first_input(path)}_scale"])

    network = nn.Linear(48, 2)
    assert input_scale(max_batches=1) == pytest.approx(2 / 255, rel=0.1)
    assert input_scale() == pytest.approx(20 / 255, rel=0.1)
    assert input_scale(method="percentile") < 20 / 255
