"""Integer programs as files, and what has none: refusals name the call and the cure."""

from __future__ import annotations

import json
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from integers import batch, check, found
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt import MixedPrecision, Precision
from nasopt.errors import ConfigError, ExportError
from nasopt.export import IntegerProgram, integer_program
from nasopt.export.integer.pack import pack


class Head(nn.Module):
    """A convolution, what comes between, and a classifier."""

    def __init__(self, between: Any, behind: Any = lambda x: x) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3), nn.Linear(4, 3)
        self.between, self.behind = between, behind

    def forward(self, x: Tensor) -> Any:
        return self.behind(self.head(self.between(self.conv(x)).mean((2, 3))))


def network(between: Any = F.relu, behind: Any = lambda x: x, **precision: Any) -> nn.Module:
    torch.manual_seed(0)
    model = MixedPrecision(Head(between, behind), (2, 6, 6), precision=Precision(**{"weights": 4, **precision}))
    model.calibrate(batch((2, 6, 6)))
    exported: nn.Module = model.arch_export()
    return exported


def test_a_file_holds_the_program(tmp_path: Path) -> None:
    program = integer_program(network(behind=lambda x: {"a": x, "b": [torch.sigmoid(x), None]}, activations=5))
    again = IntegerProgram.load(program.save(tmp_path / "found.npz"))
    x = batch((2, 6, 6))
    left, right = program(*x), again(*x)
    assert np.array_equal(left["a"], right["a"])
    assert np.array_equal(left["b"][0], right["b"][0])
    assert left["b"][1] is right["b"][1] is None
    assert str(program) == str(again)
    with np.load(tmp_path / "found.npz", allow_pickle=False) as file:  # plain arrays, described by JSON
        text = json.loads(file["program"].tobytes())
        assert all(file[name].dtype.kind in "iuf" for name in file.files)
    assert [step["kind"] for step in text["steps"]] == ["accumulate", "pool", "accumulate"]


@pytest.mark.parametrize("damage", ["cut", "other", "foreign", "gone", "kind", "missing", "version"])
def test_damaged_files_are_refused(damage: str, tmp_path: Path) -> None:
    path = integer_program(network()).save(tmp_path / "found.npz")
    with np.load(path) as file:
        arrays = dict(file)
    text = json.loads(arrays["program"].tobytes())
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:300])
    elif damage == "other":
        path.write_text("no program")
    elif damage == "foreign":
        np.savez(path, x=np.zeros(3))
    elif damage == "gone":
        path.unlink()
    else:
        if damage == "kind":
            text["steps"][0]["kind"] = "__import__"
        elif damage == "version":
            text["version"] = 99
        else:
            del arrays["step0.weight"]
        arrays["program"] = np.frombuffer(json.dumps(text).encode(), np.uint8)
        np.savez(path, **arrays)
    with pytest.raises(ConfigError):
        IntegerProgram.load(path)


def test_no_pickle_is_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", program=np.array([print], dtype=object))
    with pytest.raises(ConfigError, match="is no integer program, or damaged"):
        IntegerProgram.load(tmp_path / "evil.npz")


def test_only_plain_files_are_replaced(tmp_path: Path) -> None:
    program = integer_program(network())
    with pytest.raises(ConfigError, match="is a device, which is never replaced"):
        program.save("/dev/null")
    with pytest.raises(ConfigError, match="is a folder"):
        program.c_header(tmp_path)
    with pytest.raises(ConfigError, match="there is no folder"):
        program.save(tmp_path / "none" / "x.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("between", "named"),
    [
        (lambda x: torch.softmax(x, 1), "'softmax' is computed in floats in the middle"),
        (lambda x: F.layer_norm(x, x.shape[1:]), "'layer_norm' is computed in floats in the middle"),
        (
            lambda x: x / x.square().mean((2, 3), keepdim=True),
            "in floats in the middle of the network .*no integer form",
        ),
    ],
)
def test_floats_in_the_middle_are_named(between: Any, named: str) -> None:
    with pytest.raises(ExportError, match=named):
        integer_program(network(between))


def test_a_tail_of_floats_may_be_left_out() -> None:
    found_network = network(behind=lambda x: torch.log_softmax(x * 2, 1))
    with pytest.raises(ExportError, match=r"leave_out_tail=True\) ends before it"):
        integer_program(found_network)
    program = integer_program(found_network, leave_out_tail=True)
    assert program.left_out == ("log_softmax",)
    x = batch((2, 6, 6))
    wanted = found_network.double().eval()(x[0].double()).detach().numpy()
    assert np.allclose(torch.log_softmax(torch.from_numpy(program(*x)), 1).numpy(), wanted, atol=1e-12)


def test_what_is_not_quantised_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing in this network is quantised"):
        integer_program(nn.Conv2d(1, 1, 1))
    with pytest.raises(ExportError, match="in floats in the middle"):
        integer_program(network(activations={"conv": 32, "*": 8}))


def test_inputs_are_checked() -> None:
    program = integer_program(network())
    with pytest.raises(ConfigError, match=r"takes 1 inputs \(x\), got 2"):
        program(torch.zeros(1, 2, 6, 6), torch.zeros(1))
    with pytest.raises(ConfigError, match=r"has shape \(1, 3, 6, 6\): give \(samples, 2, 6, 6\)"):
        program(torch.zeros(1, 3, 6, 6))
    with pytest.raises(ConfigError, match="is not finite everywhere"):
        program(torch.full((1, 2, 6, 6), torch.nan))


def test_a_pickled_network_needs_an_example() -> None:
    again = pickle.loads(pickle.dumps(network()))
    with pytest.raises(ConfigError, match="pass example="):
        integer_program(again)
    x = batch((2, 6, 6))
    check(again, x, integer_program(again, example=x))


def test_raw_outputs_are_the_integers_behind_the_real_ones() -> None:
    program = integer_program(network())
    x = batch((2, 6, 6))
    raw = program(*x, raw=True)
    assert raw.dtype == np.int64
    assert np.allclose(raw * program.outputs[0].terms[0][1][0], program(*x), atol=0, rtol=1e-15)


def test_a_norm_whose_scale_fell_to_nothing_is_a_constant() -> None:
    """Its shift would need more than 32 bits on the grid of such a scale; in eval mode the network has 0 there, too."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1e-9, -1e-12, 0.0, 1.0]))
        norm.bias.copy_(torch.tensor([3.0, -2.0, 1.0, 0.5]))
    model = MixedPrecision(nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.Conv2d(4, 2, 1)), (2, 6, 6), precision=8)
    x = batch((2, 6, 6))
    model.calibrate(x)
    check(model.arch_export(), x)


@pytest.mark.parametrize(
    ("bits", "integers", "wanted"),
    [
        (4, [1, 2, 3, 4], "2143"),
        (4, [-8, 7, -1, 0], "780f"),
        (2, [1, -1, 0, -2], "8d"),
        (8, [-1, 5], "ff05"),
        (1, [1, -1, -1, 1, 1, -1, -1, -1, 1], "1901"),
        (3, [1, -1, 3], "f900"),  # 001 111 011 from the lowest bit: 0b011111001
    ],
)
def test_packing_is_low_bits_first(bits: int, integers: list[int], wanted: str) -> None:
    assert pack(np.array([integers]), bits).tobytes().hex() == wanted


def test_the_header_compiles(tmp_path: Path, c_compiler: str) -> None:
    program = integer_program(network())
    program.c_header(tmp_path / "net.h")
    (tmp_path / "main.c").write_text(
        '#include "net.h"\nint main(void) { return net_net_points_conv_weight[0] == 0; }\n'
    )
    command = [
        c_compiler,
        "-std=c99",
        "-Wall",
        "-Werror",
        "-Wno-unused-const-variable",
        "-Wno-unused-variable",
        "main.c",
    ]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert "multiplier" in (tmp_path / "net.h").read_text()


def test_weights_of_random_networks_fit_their_width() -> None:
    for number in range(3):
        torch.manual_seed(number)
        seed = nn.Sequential(nn.ConvTranspose2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, bias=False))
        program = integer_program(found(seed, batch((2, 4, 4)), number))
        for step in program.steps:
            bits = step.settings["weight_bits"]
            low, high = {1: (-1, 1), 2: (-2, 1)}.get(bits, (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1))
            assert low <= step.arrays["weight"].min()
            assert step.arrays["weight"].max() <= high
