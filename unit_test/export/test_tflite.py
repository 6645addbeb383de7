"""LiteRT files: float and int8, run in LiteRT and in the real TFLM interpreter. `make litert` installs what they need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from settings import scramble
from torch import Tensor, nn
from torch.nn import functional as F
from toys.table import randomise

from benchmarks.device_networks import NETWORKS
from benchmarks_mlperf_tiny import networks
from nasopt import NASB, PIT, PITSuperNet, SuperNet, with_candidates
from nasopt.cost import suggest_calibration_models
from nasopt.errors import ConfigError, ExportError
from nasopt.export import ExportReport, to_tflite, write_calibration_models
from nasopt.nn import LightResidual, MeanVarianceECA, MultiHeadDepthwise, ReafConv2d, fractal_block
from unit_test.methods.nasb_seeds import SHAPE as NASB_SHAPE
from unit_test.methods.nasb_seeds import Residual

HEADERS = Path(__file__).with_name("tflm_headers")


@pytest.fixture(autouse=True)
def _extra() -> None:
    for package in ("litert_torch", "ai_edge_quantizer", "ai_edge_litert", "tflite_micro"):
        if not _installed(package):
            pytest.skip(f'{package} is missing: pip install "nasopt[litert]"')


def _installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


class Gated(nn.Module):
    """Separable convolutions, a residual sum, a squeeze-and-excite gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1))
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.deep(x))
        return self.head((x * self.gate(x)).mean((2, 3)))


def dense() -> nn.Module:
    layers = [nn.Linear(20, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4), nn.BatchNorm1d(4), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(4, 20))


def convolutional() -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(8, 5))


def temporal() -> nn.Module:
    return networks.tcn(width=6, kernel=3, dilations=(1, 2))


def found(method: Any, make: Callable[[], nn.Module], *shape: int) -> nn.Module:
    model = method(randomise(make()), shape)
    scramble(model)
    return randomise(model.arch_export())


SHAPES = {"gated": (3, 16, 16), "temporal": (4, 20), "dense": (20,), "super": (3, 8, 8), "both": (3, 8, 8)}
MAKE: dict[str, Callable[[], nn.Module]] = {
    "gated": lambda: found(PIT, Gated, 3, 16, 16),
    "temporal": lambda: found(PIT, temporal, 4, 20),
    "dense": lambda: found(PIT, dense, 20),
    "super": lambda: found(SuperNet, lambda: with_candidates(convolutional(), (3, 8, 8)), 3, 8, 8),
    "both": lambda: found(PITSuperNet, lambda: with_candidates(convolutional(), (3, 8, 8)), 3, 8, 8),
}


def last(x: Tensor) -> np.ndarray[Any, Any]:
    """A torch tensor of one sample as the file takes it: channels last, of (1, C, T) with a height of 1."""
    x = x.unsqueeze(2) if x.dim() == 3 else x
    return np.ascontiguousarray(x.movedim(1, -1).numpy() if x.dim() > 2 else x.numpy())


def in_litert(path: Path, x: Tensor) -> Tensor:
    """Outputs of a float or int8 file, by the interpreter's own interface."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(os.fspath(path))
    interpreter.allocate_tensors()
    entry, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    for i in range(len(x)):
        values = last(x[i : i + 1])
        scale, zero = entry["quantization"]
        if scale:
            values = np.clip(np.round(values / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(entry["index"], values)
        interpreter.invoke()
        stored = interpreter.get_tensor(result["index"]).astype(np.float64)
        scale, zero = result["quantization"]
        rows.append((stored - zero) * scale if scale else stored)
    return torch.as_tensor(np.concatenate(rows))


def starts(path: Path, arena: int) -> bool:
    """Whether TFLM's interpreter starts in an arena of that size: in a process of its own, which some sizes crash."""
    start = f"runtime.Interpreter.from_file({str(path)!r}, arena_size={arena})"
    script = f"from tflite_micro.python.tflite_micro import runtime; {start}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", MAKE)
def test_an_int8_file_runs_in_the_real_interpreter(name: str, tmp_path: Path, capfd: Any) -> None:
    torch.manual_seed(0)
    network, shape, path = MAKE[name]().train(), SHAPES[name], tmp_path / "found.tflite"
    batches = [torch.randn(8, *shape) for _ in range(3)]
    labels = [network.eval()(x).argmax(1) for x in batches]
    network.train()
    report = to_tflite(network, path, batches, [*zip(batches, labels)], targets=["cortex_m4"])
    assert network.training
    assert capfd.readouterr() == ("", "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["found.tflite"]
    assert report.file_bytes == path.stat().st_size
    assert report.difference < 1e-5
    with torch.no_grad():
        wanted = network.eval()(batches[0]).double()
    error = float((in_litert(path, batches[0]) - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
    assert error == pytest.approx(report.int8_difference, rel=1e-3)
    assert error < 0.1
    assert set(report.accuracy) == {"torch", "float", "int8", "tflm"}
    assert report.accuracy["torch"] == report.accuracy["float"] == 1.0
    assert report.accuracy["tflm"] > 0.8

    device = report.device
    assert device is not None
    assert device.steps is not None
    assert device.steps <= 2
    assert device.in_float == device.lacking == ()
    assert "TRANSPOSE" not in device.operations
    assert {port.dtype for port in (*device.inputs, *device.outputs)} == {"int8"}
    assert device.inputs[0].shape == last(batches[0][:1]).shape
    arena = device.arena
    assert arena is not None
    assert starts(path, arena.needed)
    assert not starts(path, arena.needed - 16)
    assert report.costs[0].memory_bytes <= arena.planned < arena.whole <= arena.needed
    text = str(report)
    share = f"tflm {report.accuracy['tflm']:.2%}"
    for part in (f"{arena.needed:,} B needed", "one sample per run", share, str(device.inputs[0])):
        assert part in text


def candidate_net(*layers: nn.Module, width: int = 6) -> nn.Module:
    """The layers between a convolution with six channels and a classifier, with random weights."""
    first = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()]
    return randomise(nn.Sequential(*first, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)))


CANDIDATES: dict[str, Callable[[], list[nn.Module]]] = {
    "multi_head": lambda: [MultiHeadDepthwise(6, 3, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()],
    "sum of heads": lambda: [MultiHeadDepthwise(6, 2, 3, 2, reduction="sum"), nn.BatchNorm2d(6), nn.ReLU()],
    "reaf": lambda: [ReafConv2d(6, 6, 3, 3, 2, padding=1, bias=True), nn.BatchNorm2d(6), nn.ReLU()],
    "light_skip": lambda: [LightResidual(6, 10, 2), LightResidual(10, 6)],
    "fractal": lambda: [fractal_block(2, lambda: nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)))],
    "attention": lambda: [MeanVarianceECA(3)],
}


@pytest.mark.parametrize("name", CANDIDATES)
def test_candidate_layers_run_in_int8(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, batches = candidate_net(*CANDIDATES[name]()).eval(), [torch.randn(8, 3, 8, 8) for _ in range(3)]
    labels = [network(x).argmax(1) for x in batches]
    report = to_tflite(network, tmp_path / "found.tflite", batches, [*zip(batches, labels)])
    assert report.difference < 1e-5
    assert report.int8_difference is not None
    assert report.int8_difference < 0.1
    assert report.accuracy["tflm"] > 0.8
    assert report.device is not None
    assert report.device.in_float == report.device.lacking == ()
    assert name != "multi_head" or report.device.operations["MAXIMUM"] == 2


def test_a_float_file_in_either_layout(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, x = MAKE["gated"](), torch.randn(5, 3, 16, 16)
    reports = [to_tflite(network, tmp_path / f"{name}.tflite", layout=name, example=x) for name in ("nhwc", "nchw")]
    for report in reports:
        assert report.difference < 1e-5
        assert report.device is not None
        assert report.device.arena is not None
        assert report.device.inputs[0].dtype == "float32"
        assert report.float_file_bytes is None
    assert reports[0].device.inputs[0].shape == (1, 16, 16, 3)
    assert reports[1].device.inputs[0].shape == (1, 3, 16, 16)
    assert "TRANSPOSE" not in reports[0].device.operations
    assert reports[1].device.operations["TRANSPOSE"] == 1
    torch.testing.assert_close(in_litert(tmp_path / "nhwc.tflite", x).float(), network.eval()(x).detach())


def test_an_input_that_has_no_channels_keeps_its_order(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))  # over the last of three dimensions
    x = torch.randn(2, 5, 6)
    report = to_tflite(network, tmp_path / "found.tflite", example=x)
    assert report.device.inputs[0].shape == (1, 5, 6)
    assert "TRANSPOSE" not in report.device.operations


def test_large_weights_stay_inside_the_file(tmp_path: Path) -> None:
    """TFLM takes weights that lie after the flatbuffer for tensors without values, and puts them into the arena."""
    network = nn.Sequential(nn.Linear(600, 500), nn.ReLU(), nn.Linear(500, 600))
    report = to_tflite(network, tmp_path / "found.tflite", [torch.randn(8, 600)])
    assert report.file_bytes > 600_000
    assert report.device.arena.planned < 2_000
    assert report.device.steps <= 1


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(2, 3, 3), nn.Linear(5, 3)

        def forward(self, image: Tensor, state: Tensor, gain: float = 2.0) -> dict[str, Tensor]:
            y = self.conv(image)
            return {"map": y + gain, "sum": y.mean((2, 3)) + self.linear(state)}

    example = {"state": torch.randn(4, 5), "image": torch.randn(4, 2, 6, 6)}
    for calibration in (None, [example]):
        report = to_tflite(Two(), tmp_path / "two.tflite", calibration, example=example)
        assert [(port.name, port.shape) for port in report.device.inputs] == [
            ("image", (1, 6, 6, 2)),
            ("state", (1, 5)),
        ]
        assert [port.shape for port in report.device.outputs] == [(1, 4, 4, 3), (1, 3)]


def test_ranges_come_from_all_batches_that_may_be_looked_at(tmp_path: Path) -> None:
    batches = [torch.rand(8, 48) * 2 - 1, torch.rand(8, 48) * 20 - 10]
    scales = [
        to_tflite(nn.Linear(48, 2), tmp_path / "x.tflite", batches, max_batches=n).device.inputs[0].scale
        for n in (1, 2)
    ]
    assert scales == pytest.approx([2 / 255, 20 / 255], rel=0.1)


class Lacks(nn.Sequential):
    """TFLM has no GELU."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(16, 2))


def test_operations_that_are_missing_are_named_with_their_layers(tmp_path: Path) -> None:
    x, path = torch.randn(4, 3, 4, 4), tmp_path / "found.tflite"
    for calibration in (None, [x]):
        with pytest.raises(ExportError, match=r"TFLM has no kernel for GELU \(layer '1'\).*runtime='litert'"):
            to_tflite(Lacks(), path, calibration, example=x)
    with pytest.raises(ExportError, match=r"TFLM has no kernel for CONV_3D \(layer '0'\)"):
        to_tflite(nn.Sequential(nn.Conv3d(1, 2, 3), nn.MaxPool3d(2)), path, [torch.randn(2, 1, 5, 5, 5)])
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.FractionalMaxPool2d(2, output_size=1), nn.Flatten())
    with pytest.raises(ExportError, match=r"litert-torch cannot convert the network.*fractional_max_pool2d.*layer '1'"):
        to_tflite(layers, path, example=x)
    assert not list(tmp_path.iterdir())
    report = to_tflite(Lacks(), path, [x], runtime="litert")
    assert report.device.lacking == (("GELU", "1"),)
    assert report.device.arena is None
    assert "not in TFLM  " in str(report)
    assert path.exists()


UNUSUAL = {
    "causal_tcn": {"CONV_2D": 4, "PAD": 3, "ADD": 3, "SLICE": 1, "FULLY_CONNECTED": 1},
    "gated_linear": {"CONV_2D": 3, "SLICE": 2, "TANH": 1, "LOGISTIC": 1, "MUL": 1, "ADD": 1, "TRANSPOSE": 1},
    "two_outputs": {"CONV_2D": 4, "MAX_POOL_2D": 1, "LOGISTIC": 1},
    "slopes": {"MAXIMUM": 1, "SELECT_V2": 1},
    "statistics": {"SQRT": 1, "MAX_POOL_2D": 2},
    "pools": {"MAX_POOL_2D": 2, "AVERAGE_POOL_2D": 1},
    "lstm": {"CONCATENATION": 3},
    "separable_1d": {"CONV_2D": 4, "DEPTHWISE_CONV_2D": 3, "MEAN": 1},
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_networks_run_in_tflm(name: str, tmp_path: Path) -> None:
    """What they become is what the kernels have: no order is changed for nothing, few things are computed in float."""
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    device = to_tflite(make(), tmp_path / "found.tflite", [torch.randn(8, *shape)], tolerance=1.0).device
    assert device.operations.items() >= UNUSUAL[name].items()
    assert ("TRANSPOSE" in device.operations) <= (name not in ("causal_tcn", "two_outputs", "separable_1d"))
    assert {kind for kind, _ in device.in_float} <= {"DEQUANTIZE", "SQRT", "EXP"}
    assert device.steps <= (12 if name == "slopes" else 3)  # of tanh the two runtimes have other tables


def test_an_arena_that_makes_the_interpreter_crash_is_too_small(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    arena = to_tflite(network, tmp_path / "found.tflite", [torch.randn(8, 256)]).device.arena
    assert arena.whole < arena.needed < arena.whole + 512


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


X = torch.zeros(2, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: to_tflite(network(), p, []), r"calibration holds no batch"),
        (lambda p: to_tflite(network(), p, X), r"calibration is a Tensor: give an iterable of batches"),
        (lambda p: to_tflite(network(), p, [X], max_batches=0), r"max_batches is 0"),
        (lambda p: to_tflite(network(), p), r"an example is needed.*give calibration, data or example"),
        (lambda p: to_tflite(network(), p, data=[]), r"data holds no batch"),
        (lambda p: to_tflite(network(), p, [X], method="min_max"), r"method 'min_max'.*Did you mean 'minmax'"),
        (lambda p: to_tflite(network(), p, [X], layout="NHWC"), r"layout 'NHWC': use nhwc, nchw"),
        (lambda p: to_tflite(network(), p, [X], runtime="tflite"), r"runtime 'tflite': use tflm, litert"),
        (lambda p: to_tflite(network(), p, [X], runtime="litert", c_array=True), r"needs runtime='tflm'"),
        (lambda p: to_tflite(network(), p, [torch.zeros(2, 5)]), r"Sequential fails on the example"),
        (lambda p: to_tflite(network(), p, [X, torch.zeros(2, 5)]), r"calibration batch 1: samples have shape \(5,\)"),
        (
            lambda p: to_tflite(network(), p, [X, X * torch.nan]),
            r"calibration batch 1 holds values that are not finite",
        ),
        (lambda p: to_tflite("network", p, [X]), r"found is a str"),
        (lambda p: to_tflite(network(), "/dev/null", [X]), r"/dev/null is a device, which is never replaced"),
        (lambda p: to_tflite(network(), p.parent / "missing" / "x.tflite", [X]), r"there is no folder"),
        (lambda p: to_tflite(network(), p, [X], data=[(X[:, :3], X)]), r"batch 0 of data: samples have shape \(3,\)"),
    ],
)
def test_arguments_that_cannot_be_used(call: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        call(tmp_path / "found.tflite")
    assert not list(tmp_path.iterdir())


def test_binary_networks_are_float(tmp_path: Path) -> None:
    model = NASB(randomise(Residual()), NASB_SHAPE, cells=["stage1", "stage2"])
    scramble(model)
    binary, x = model.arch_export(), torch.randn(4, *NASB_SHAPE)
    with pytest.raises(ConfigError, match=r"is a binary convolution.*write a float file"):
        to_tflite(binary, tmp_path / "found.tflite", [x])
    report = to_tflite(binary, tmp_path / "found.tflite", example=x)
    assert report.device.arena is not None
    assert "binary layers are written as float layers" in str(report)


def test_rounding_that_is_too_large_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "found.tflite"
    path.write_bytes(b"older")
    with pytest.raises(ExportError, match=r"rounding changes the outputs of the int8 file by .* \(allowed 0%\)"):
        to_tflite(network(), path, [torch.randn(4, 4)], tolerance=1e-9, c_array=True)
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("int8", [True, False])
def test_a_c_program_compiles_and_compares(int8: bool, tmp_path: Path) -> None:
    """Against stand-ins for TFLM's headers, which have its declarations and give the answer that they are told."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    torch.manual_seed(0)
    x = torch.randn(4, 3, 16, 16)
    report: ExportReport = to_tflite(
        Gated(), tmp_path / "my-net.tflite", [x] if int8 else None, example=x, c_array=True
    )
    names = ["my-net_main.cc", "my-net_model.cc", "my-net_model.h"]
    assert sorted(path.name for path in report.device.files) == names
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([*names, "my-net.tflite"])
    source = (tmp_path / "my-net_model.cc").read_text()
    listed = source.split("my_net_model[] = {")[1].split("}")[0]
    assert bytes(int(byte, 16) for byte in listed.split(",")[:-1]) == (tmp_path / "my-net.tflite").read_bytes()
    header = (tmp_path / "my-net_model.h").read_text()
    assert f"my_net_arena_bytes = {report.device.arena.needed};" in header
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{HEADERS}", "-include", "my-net_model.h"]
    files = ["my-net_main.cc", "my-net_model.cc", "-o", "program"]
    for answer, code in (("my_net_test_output", 0), ("my_net_test_input", 4)):
        command = [compiler, *flags, f"-DSTANDIN_ANSWER={answer}", *files]
        subprocess.run(command, cwd=tmp_path, check=True)
        assert subprocess.run([tmp_path / "program"], capture_output=True).returncode == code


SLOW: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "autoencoder": (networks.autoencoder, (640,)),
    "resnet8": (networks.resnet8, (3, 32, 32)),
    "ds_cnn": (networks.ds_cnn, (1, 49, 10)),
    "mobilenet_v1": (networks.mobilenet_v1, (3, 96, 96)),
    "tcn": (networks.tcn, (4, 64)),
    "wake-word": (networks.wake_word_cnn, (40, 30)),
}


@pytest.mark.parametrize("name", SLOW)
def test_large_networks(name: str, tmp_path: Path) -> None:
    make, shape = SLOW[name]
    report = to_tflite(found(PIT, make, *shape), tmp_path / "found.tflite", [torch.randn(8, *shape)])
    assert report.difference < 1e-5
    assert report.int8_difference < 0.1
    assert report.device.steps <= 3
    assert report.device.in_float == ()
    assert "TRANSPOSE" not in report.device.operations


def test_files_of_the_networks_to_time(tmp_path: Path) -> None:
    candidates: dict[str, Any] = {
        "small": (nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)), (1, 8, 8)),
        "wide": (nn.Sequential(nn.Conv2d(3, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (3, 6, 6)),
        "mlp": (nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4)), (12,)),
    }
    files = write_calibration_models(candidates, tmp_path / "to" / "time", k=2)
    assert list(files) == suggest_calibration_models(candidates, 2)
    for name, path in files.items():
        assert path == tmp_path / "to" / "time" / f"{name}.tflite"
        assert int8_input(path).dtype == np.int8
    (tmp_path / "file").write_text("kept")
    for folder, names, message in (
        (tmp_path / "file", candidates, "no folder to write to"),
        (tmp_path, {"a/b": candidates["mlp"]}, "'a/b' is no name of a file"),
    ):
        with pytest.raises(ConfigError, match=message):
            write_calibration_models(names, folder, k=1)
    assert (tmp_path / "file").read_text() == "kept"


def int8_input(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(os.fspath(path))
    interpreter.allocate_tensors()
    return interpreter.get_tensor(interpreter.get_input_details()[0]["index"])
