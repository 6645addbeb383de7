"""Files of the layers of `nasopt.nn`: those that a runtime executes, in float and int8; the others say what runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from toys import TOYS
from toys.table import randomise

from nasopt import PIT
from nasopt.errors import ExportError
from nasopt.export import to_int8_onnx, to_onnx, to_torch_layers
from nasopt.nn import (
    AWConv2d,
    BinaryActivation,
    BinaryConv2d,
    LightResidual,
    MeanVarianceECA,
    MultiHeadDepthwise,
    ReafConv2d,
    fractal_block,
)

SHAPE = (3, 8, 8)


def found(name: str) -> nn.Module:
    """What a search with random masks finds in a toy."""
    torch.manual_seed(0)
    toy = TOYS[name]
    model = PIT(toy.seed(torch.float32), toy.inputs[0], regularizer="size")
    with torch.no_grad():
        model.alpha.uniform_()
    return model.arch_export()


def everything() -> nn.Module:
    """One network of all layers that a runtime executes."""
    first = [
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        MultiHeadDepthwise(6, 3, 3, padding=1),
        nn.BatchNorm2d(6),
    ]
    second = [ReafConv2d(6, 6, 3, 3, 2, padding=1, bias=True), nn.ReLU(), LightResidual(6, 10, 2)]
    third = [MultiHeadDepthwise(10, 2, 3, reduction="sum"), fractal_block(1, lambda: nn.Conv2d(10, 10, 1))]
    return randomise(nn.Sequential(*first, *second, *third, MeanVarianceECA(3), MeanVarianceECA(3, heads=5)))


def test_onnx_in_float_and_int8(tmp_path: Path) -> None:
    network = everything()
    report = to_onnx(network, tmp_path / "float.onnx", torch.randn(2, *SHAPE))
    assert report.difference < 1e-4
    assert report.batch is None
    whole = to_int8_onnx(network, tmp_path / "int8.onnx", [torch.randn(32, *SHAPE) for _ in range(4)], method="minmax")
    # All convolutions: 2 multi-head, REAF, 2 of the light residual, fractal and the first; perhaps the attention's.
    done, _ = whole.int8_layers  # type: ignore[misc]
    assert done >= 7


@pytest.mark.parametrize(
    ("name", "reason"), [("adder", "hardware with adder arrays"), ("weight_attention", "every sample")]
)
def test_what_no_format_has_says_what_runs_it(name: str, reason: str, tmp_path: Path) -> None:
    network, (x,) = found(name), TOYS[name].batch(2, torch.float32)
    for write in (
        lambda: to_onnx(network, tmp_path / "x.onnx", x),
        lambda: to_int8_onnx(network, tmp_path / "x.onnx", [x]),
        lambda: to_torch_layers(network, x),
    ):
        with pytest.raises(ExportError, match=rf"layer '\d+' \(A\w+Conv2d\) cannot be written: .*{reason}"):
            write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["multi_head", "reaf", "light_residual", "fractal"])
def test_torch_layers(name: str) -> None:
    network, (x,) = found(name).eval(), TOYS[name].batch(8, torch.float32)
    plain = to_torch_layers(network, x)
    torch.testing.assert_close(plain(x), network(x))
    assert all(type(m).__module__.startswith(("torch.", "__")) for m in plain.modules() if m is not plain)


def test_torch_layers_of_a_binary_network_and_of_attention() -> None:
    layers = [nn.Conv2d(3, 6, 3), BinaryActivation(), BinaryConv2d(6, 6, 3), nn.BatchNorm2d(6), MeanVarianceECA(3)]
    network, x = nn.Sequential(*layers, nn.Dropout(0.5)).eval(), torch.randn(2, *SHAPE)
    torch.testing.assert_close(to_torch_layers(network, x)(x), network(x))


def test_a_saved_network_loads_without_nasopt(tmp_path: Path) -> None:
    network, (x,) = found("multi_head").eval(), TOYS["multi_head"].batch(2, torch.float32)
    torch.save((to_torch_layers(network, x), x, network(x)), tmp_path / "found.pt")
    code = (
        "import sys; sys.modules['nasopt'] = None\n"
        "import torch\n"
        f"network, x, wanted = torch.load({str(tmp_path / 'found.pt')!r}, weights_only=False)\n"
        "torch.testing.assert_close(network(x), wanted)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_an_attention_layer_alone_is_refused_by_name() -> None:
    with pytest.raises(
        ExportError, match=r"layer '1' \(AWConv2d\) cannot be written: its weights change with every sample"
    ):
        to_torch_layers(nn.Sequential(nn.ReLU(), AWConv2d(3, 4, 3)), torch.randn(2, *SHAPE))
