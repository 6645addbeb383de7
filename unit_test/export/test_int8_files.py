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
from benchmarks_mlperf_tiny.tasks import TASKS
from nasopt import NASB, PIT, PITSuperNet, SuperNet
from nasopt.export import open_session, to_int8_onnx
from unit_test.methods.nasb_seeds import SHAPE as NASB_SHAPE
from unit_test.methods.nasb_seeds import Residual, torchvision_models

Case = tuple[Callable[[], Any], tuple[int, ...]]


def pit(make: Callable[[], nn.Module], *shape: int) -> Case:
    return lambda: PIT(randomise(make()), shape), shape


def imagenet(name: str) -> Callable[[], nn.Module]:
    return lambda: getattr(torchvision_models(), name)(num_classes=10)


SLOW: dict[str, Case] = {
    "autoencoder": pit(networks.autoencoder, 640),
    "resnet8": pit(networks.resnet8, 3, 32, 32),
    "mobilenet_v1": pit(networks.mobilenet_v1, 3, 96, 96),
    "tcn": pit(networks.tcn, 4, 64),
    "tcn-symmetric": pit(lambda: networks.tcn(padding="symmetric"), 4, 64),
    "wake-word": pit(networks.wake_word_cnn, 40, 30),
    "mobilenet_v2": pit(imagenet("mobilenet_v2"), 3, 64, 64),
    "resnet18": pit(imagenet("resnet18"), 3, 64, 64),
    "resnet8-supernet": (lambda: SuperNet(randomise(TASKS["ic"].supernet(10)), (3, 32, 32)), (3, 32, 32)),
    "resnet8-pit-supernet": (lambda: PITSuperNet(randomise(TASKS["ic"].supernet(10)), (3, 32, 32)), (3, 32, 32)),
    "resnet8-nasb": (
        lambda: NASB(randomise(networks.resnet8()), (3, 32, 32), cells=["stack1", "stack2", "stack3"]),
        (3, 32, 32),
    ),
}


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


FAST: dict[str, Case] = {"ds_cnn": pit(networks.ds_cnn, 1, 49, 10)}


@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(name, marks=pytest.mark.benchmark) for name in SLOW if "nasb" not in name)]
)
def test_every_layer_with_weights_is_int8(name: str, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    report = export((FAST | SLOW)[name], path)
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


@pytest.mark.parametrize("name", ["toy", pytest.param("resnet8-nasb", marks=pytest.mark.benchmark)])
def test_binary_layers_stay_what_they_are(name: str, tmp_path: Path) -> None:
    toy: Case = (lambda: NASB(randomise(Residual()), NASB_SHAPE, cells=["stage1", "stage2"]), NASB_SHAPE)
    report = export(toy if name == "toy" else SLOW[name], tmp_path / "int8.onnx")
    done, layers = report.int8_layers
    assert 0 < done < layers
    assert f"{layers - done} binary layers are written as float layers" in str(report)


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def test_the_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (Path(nasopt.__file__).parent.parent / "README.md").read_text()
    example = re.search(r"## Files for the target.*?```python\n(.*?)```", readme, re.DOTALL)
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
