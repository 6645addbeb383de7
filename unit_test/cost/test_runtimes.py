"""Memory and flash of runtimes: rules against values derived by hand, plans against the arenas of the real interpreter."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.device_networks import NETWORKS as DEVICE_NETWORKS
from benchmarks.targets.board_networks import NETWORKS as BOARD_NETWORKS
from benchmarks.targets.tflm_arenas import calls_of
from benchmarks.targets.tflm_networks import NETWORKS, mobilenet_v2
from benchmarks_mlperf_tiny.networks import resnet8
from nasopt import PIT, Budget, SuperNet, SuperNetModule
from nasopt.cli import main
from nasopt.cost import cost_report, get_metric, get_runtime, get_target, network_calls, network_cost, register_runtime
from nasopt.cost import runtime as runtimes
from nasopt.cost.placement import place, plans, tower
from nasopt.errors import ConfigError

torch.set_num_threads(1)
ARENAS = Path(__file__).parents[2] / "benchmarks" / "targets" / "tflm_arenas.csv"


def measured() -> list[dict[str, str]]:
    with ARENAS.open(newline="") as file:
        return list(csv.DictReader(file))


ROWS = {row["network"]: row for row in measured()}
# A mean of windows at the rim that leaves the usual order of dimensions, and a spread over time beside a maximum.
OUTSIDE = {"pools": (0.94, 1.0), "statistics": (0.93, 1.0), "board pit scaled_series": (0.97, 1.0)}
# Of those that searches find, what takes less than half a second to find.
FOUND = (
    "pit attention_keywords", "pit gated_images", "pit temporal", "pit recurrent_keywords", "pit two_sensors", "pit spatial_gate",
    "pit silu_images", "pit mixer", "pit grouped", "pit decoder",
)  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_tflm_plans_what_the_interpreter_planned(name):
    row, calls = ROWS[name], calls_of(name)
    if name != "cat":  # copies for another scale depend on the values
        operations = sum(len(step.operations) for step in calls.materialised.steps)
        assert operations == sum(int(part.split(":")[1]) for part in row["kinds"].split())
    memory = calls.materialised
    sizes = {name: buffer.elements() for name, buffer in memory.buffers.items()}
    assert runtimes.TFLM.tower(sizes, plans(memory))[1] == int(row["planned"])
    assert 0.99 * int(row["needed"]) <= calls.total("memory:tflm") <= 1.02 * int(row["needed"])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", [*(name for name in DEVICE_NETWORKS if name in ROWS), *FOUND, *BOARD_NETWORKS])
def test_other_networks_fit_where_they_were_said_to(name):
    needed, (low, high) = int(ROWS[name]["needed"]), OUTSIDE.get(name, (0.98, 1.05))
    assert low * needed <= calls_of(name).total("memory:tflm") <= high * needed


def between(*layers: nn.Module, dims: int = 2) -> nn.Module:
    """Layers behind a convolution and before another one, a mean and a linear layer."""
    convolution, mean = ((nn.Conv1d, nn.AdaptiveAvgPool1d), (nn.Conv2d, nn.AdaptiveAvgPool2d))[dims - 1]
    first, last = (convolution(3, 8, 3, padding=1), nn.ReLU()), (convolution(8, 4, 1), mean(1))
    return nn.Sequential(*first, *layers, *last, nn.Flatten(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("pool", "needed"), [((3, 2, 1), 3312), ((5, 2, 2), 3712), ((7, 2, 3), 4080), ((9, 2, 4), 4480), ((2,), 2880)]
)
def test_copies_of_the_rim_take_their_bytes_while_the_engine_plans(pool, needed):
    """What TFLM's interpreter needed for the file of `to_tflite`, in steps of 16 B."""
    network = between(nn.MaxPool1d(*pool), dims=1)
    assert needed - 32 < network_calls(network, (3, 40)).total("memory:tflm") <= needed


@pytest.mark.parametrize(
    ("zeros", "pool", "needed"),
    [
        (0, (5, 2, 2), 8080),
        (0, (7, 2, 3), 9488),
        (0, ((5, 3), 2, (2, 1)), 7776),
        (0, ((5, 1), 2, (2, 0)), 7152),
        (1, (3, 2), 6768),
        (1, (3, 2, 1), 8080),
        (1, (5, 2, 2), 9504),
        ((0, 1, 0, 1), (3, 2), 6496),
        ((0, 1, 0, 1), (3, 2, 1), 6496),
    ],
)
def test_copies_of_the_rim_are_made_row_by_row_and_zeros_around_it_first(zeros, pool, needed):
    around = (nn.ZeroPad2d(zeros),) if zeros else ()
    network = between(*around, nn.MaxPool2d(*pool))
    assert 0.99 * needed < network_calls(network, (3, 16, 16)).total("memory:tflm") <= needed


def test_what_a_layer_becomes_follows_from_where_its_input_lies():
    def kinds(*layers: nn.Module) -> list[str]:
        calls = network_calls(nn.Sequential(nn.Conv2d(3, 8, 3), *layers), (3, 9, 9))
        return [kind for step in calls.materialised.steps[1:] for kind in step.operations]

    # A flattened image is put into torch's order first, a vector is not.
    assert kinds(nn.Flatten(), nn.Linear(392, 4)) == ["TRANSPOSE", "RESHAPE", "FULLY_CONNECTED"]
    assert kinds(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)) == ["MEAN", "FULLY_CONNECTED"]
    # A convolution puts it back into its own.
    assert kinds(nn.ChannelShuffle(2), nn.Conv2d(8, 4, 1)) == [
        "TRANSPOSE", "RESHAPE", "TRANSPOSE", "RESHAPE", "TRANSPOSE", "CONV_2D",
    ]  # fmt: skip
    # 7 x 7 with one element around it at stride 2 is the runtime's "same", 8 x 8 is not; no kernel counts zeros in a mean.
    assert kinds(nn.MaxPool2d(3, 2, 1)) == ["MAX_POOL_2D"]
    assert kinds(nn.ConstantPad2d((0, 1, 0, 1), 1.0), nn.MaxPool2d(3, 2, 1))[1:] == ["MIRROR_PAD", "MAX_POOL_2D"]
    # Converters copy one row and column of the rim at once.
    for pool, rings in (
        ((7, 2, 2), 2),
        (((7, 3), 2, (2, 1)), 2),
        (((1, 7), 2, (0, 2)), 2),
        ((7, 2, 3), 0),
        ((9, 1, 3), 3),
    ):
        assert kinds(nn.MaxPool2d(*pool)) == ["MIRROR_PAD"] * rings + ["MAX_POOL_2D"]
    assert kinds(nn.AvgPool2d(3, 1, 1)) == ["PAD", "AVERAGE_POOL_2D"]
    # Only the first activation is part of its convolution.
    assert kinds(nn.ReLU(), nn.Hardswish()) == ["HARD_SWISH"]
    assert kinds(nn.ReLU(), nn.ReLU6()) == ["DEQUANTIZE", "RELU6", "QUANTIZE"]
    # Nor does a norm that no layer absorbs: it ends in a sum, which is.
    assert kinds(nn.MaxPool2d(2), nn.BatchNorm2d(8), nn.ReLU()) == ["MAX_POOL_2D", "SUB", "MUL", "MUL", "ADD"]
    # Windows that end outside: 7 = 3 * 2 + 1. The last one has half as many elements.
    assert kinds(nn.AvgPool2d(2, ceil_mode=True)) == ["PAD", "AVERAGE_POOL_2D", "MUL"]
    assert kinds(nn.AvgPool2d(7, ceil_mode=True)) == ["AVERAGE_POOL_2D"]
    # "Same" at stride 2 puts one more element at the end, and none at the start of a kernel of 3: torch cuts both dimensions.
    assert kinds(nn.ConvTranspose2d(8, 4, 4, 2, 1), nn.ReLU()) == ["TRANSPOSE_CONV"]
    assert kinds(nn.ConvTranspose2d(8, 4, 3, 2, 1, 1), nn.ReLU()) == ["TRANSPOSE_CONV", "SLICE", "SLICE", "RELU"]
    # One operation cuts, the convolution pads.
    assert kinds(nn.ZeroPad2d((-1, 1, -1, 1)), nn.Conv2d(8, 8, 2)) == ["SLICE", "CONV_2D"]
    assert kinds(nn.ZeroPad2d((-1, 1, 0, 0)), nn.Conv2d(8, 8, 1)) == ["SLICE", "PAD", "CONV_2D"]
    # What pads a mean over windows does so in torch's order; behind a maximum the convolution pads.
    padded = [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 8, 2)]
    assert kinds(nn.AvgPool2d(2), *padded) == ["AVERAGE_POOL_2D", "TRANSPOSE", "PAD", "TRANSPOSE", "CONV_2D"]
    assert kinds(nn.MaxPool2d(2), *padded) == ["MAX_POOL_2D", "CONV_2D"]
    cut = [nn.ZeroPad2d((-1, 1, -1, 1)), nn.Conv2d(8, 8, 2)]
    assert kinds(nn.AvgPool2d(2), *cut) == ["AVERAGE_POOL_2D", "SLICE", "CONV_2D"]
    # Zeros that a search's cut takes away again are nothing.
    assert kinds(nn.ZeroPad2d(2), nn.ZeroPad2d(-2), nn.Conv2d(8, 8, 1)) == ["CONV_2D"]


def test_what_changes_nothing_is_no_operation():
    class Sums(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            skip = 0
            for _ in range(2):
                skip = skip + x * 1
            return skip - 0 + x.reshape(-1, 3, 4, 6) / 1

    def kinds(module: nn.Module, shape: tuple[int, ...]) -> list[str]:
        return [kind for step in network_calls(module, shape).materialised.steps for kind in step.operations]

    assert kinds(Sums(), (3, 4, 6)) == ["ADD", "ADD"]
    # A vector that becomes an image is one reshape, and its padding is that of the image.
    layers = nn.Sequential(nn.Unflatten(1, (1, 4, 6)), nn.Conv2d(1, 2, 5, padding=2), nn.MaxPool2d(3, 2, 1))
    assert kinds(layers, (24,)) == ["RESHAPE", "CONV_2D", "MIRROR_PAD", "MAX_POOL_2D"]


def test_wide_layers_need_memory_while_the_engine_plans():
    # Measured: a layer of 1000 outputs takes 12 B each and 640 more while it prepares itself, 4 each (8 with a bias) and 240
    # (336) if it is linear; 8 B per output of the layers behind it are not there yet.
    narrow = [nn.Linear(1000, 4), nn.Linear(4, 4)]
    for layer, shape, least in (
        (nn.Conv2d(2, 1000, 1), (2, 1, 1), 12_640),
        (nn.Linear(2, 1000), (2,), 8336),
        (nn.Linear(2, 1000, bias=False), (2,), 4240),
    ):
        whole = nn.Sequential(layer, nn.Flatten(), *narrow)
        memory = network_calls(whole, shape).materialised
        kept = runtimes.TFLM.persistent(memory) + 8 * (1000 + 4 + 4)
        assert network_cost(whole, "memory:tflm", shape) == kept + runtimes.TFLM.aligned(least - 8 * 8)


def test_a_layer_whose_name_is_that_of_a_function():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.mean = nn.Conv2d(3, 8, 3), nn.LeakyReLU(), nn.MaxPool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.mean(self.relu(self.conv(x)))

    steps = network_calls(Named(), (3, 8, 8)).materialised.steps
    assert [step.node for step in steps] == ["conv", "relu:0", "relu:1", "relu", "mean"]
    assert [step.operations for step in steps[1:4]] == [("MUL",), ("QUANTIZE",), ("MAXIMUM",)]


def test_placement_is_greedy_by_size():
    # b (20) first; then c (10), which lives beside it, on top; then a (10), beside b only: below nothing, so on top too.
    lives = {"a": (0, 1), "b": (1, 2), "c": (2, 3)}
    assert place({"a": 10, "b": 20, "c": 10}, lives) == {"b": 0, "c": 20, "a": 20}
    # Equal sizes: the last is placed first. d and c live together; b beside c; a beside all that is left.
    lives = {"a": (0, 3), "b": (1, 2), "c": (2, 3), "d": (3, 4)}
    assert place(dict.fromkeys("abcd", 16), lives) == {"d": 0, "c": 16, "b": 0, "a": 32}
    assert tower(dict.fromkeys("abcd", 16), lives) == ["a", "c", "d"]
    assert tower({}, {}) == []


class Separable(nn.Module):
    """8 x 8 images: a first convolution, depthwise (3 x 3) and pointwise, and a head."""

    def __init__(self, residual: bool = False):
        super().__init__()
        self.residual = residual
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 24, 1)
        self.head = nn.Linear(32 if residual else 24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        y = F.relu(self.pointwise(F.relu(self.depthwise(x))))
        y = torch.cat([x, y], 1) if self.residual else y
        return self.head(y.mean((2, 3)))


def test_rules_by_hand():
    cost = {
        name: network_cost(Separable(), name, (3, 8, 8)) for name in ("memory", "memory:tinyengine", "memory:xcube7")
    }
    # live: x 192 + first 512 = 704, depthwise 2 x 512 = 1024, pointwise 512 + 1536 = 2048
    assert cost["memory"] == 2048
    # In place, one channel of 64 beside: 512 + 64; but the pointwise layer needs both its input and its output.
    assert cost["memory:tinyengine"] == 2048
    # Depthwise and pointwise in one step: the larger of 512 and 1536, and 3 of 8 input rows, 192: no buffer in between.
    assert cost["memory:xcube7"] == 1536 + 192
    # With the input needed afterwards nothing overlaps: 512 + 1536 + 192; then 512 + 1536 + 2048 for the copy.
    assert network_cost(Separable(True), "memory:xcube7", (3, 8, 8)) == 512 + 1536 + 2048


def test_depthwise_layers_work_in_place():
    net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8))
    assert network_cost(net, "memory", (8, 8, 8)) == 2 * 512
    assert network_cost(net, "memory:tinyengine", (8, 8, 8)) == 512 + 64
    # No 1x1 convolution follows the second; the first reads the network's input: the larger, and 3 of 8 rows.
    assert network_cost(net, "memory:xcube7", (8, 8, 8)) == 1024


def test_padding_is_an_operation_where_it_is_not_the_runtimes_own():
    def steps(*layers: nn.Module, size: int = 8) -> list[str]:
        return [step.node for step in network_calls(nn.Sequential(*layers), (3, size, size)).materialised.steps]

    conv = nn.Conv2d
    assert steps(conv(3, 4, 3)) == steps(conv(3, 4, 3, padding=1)) == ["_0"]
    # stride 2 over 8: "same" pads 1 at the end only; over 9 it pads 1 at both ends
    assert steps(conv(3, 4, 3, 2, 1)) == ["_0:pad", "_0"]
    assert steps(conv(3, 4, 3, 2, 1), size=9) == ["_0"]
    # zeros before a convolution are its padding, if they make "same" of it
    assert steps(nn.ZeroPad2d((0, 1, 0, 1)), conv(3, 4, 3, 2)) == ["_1"]
    assert steps(nn.ZeroPad2d(1), conv(3, 4, 3)) == ["_1"]
    assert steps(nn.ZeroPad2d(2), conv(3, 4, 3)) == ["_1:pad", "_1"]
    assert steps(nn.ConstantPad2d(1, 3.0), conv(3, 4, 3)) == ["_0", "_1"]


class Functions(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.weight, stride=2, padding=1))
        return torch.sigmoid(F.max_pool2d(x, 2)).flatten(1)


def test_functions_are_seen_as_layers_are():
    calls = network_calls(Functions(), (3, 8, 8))
    assert [step.node for step in calls.materialised.steps] == [
        "conv2d:pad",
        "conv2d",
        "max_pool2d",
        "sigmoid",
        "flatten:order",
        "flatten",
    ]


@pytest.mark.parametrize("name", ["memory:tflm", "memory:tinyengine", "memory:xcube7", "flash:tflm", "flash:xcube7"])
def test_exact_when_decided_and_differentiable(name, half_searched):
    model, calls = half_searched
    model.alpha.grad = None
    model.get_cost(name).backward()
    assert torch.isfinite(model.alpha.grad).all()
    assert (model.alpha.grad > 0).any()
    assert model.get_cost(name, discrete=True) == calls.total(name)


@pytest.fixture(scope="module", params=[partial(resnet8, width=8), mobilenet_v2], ids=["resnet", "mobilenet"])
def half_searched(request):
    """A search model with masks at random, and what its export is made of."""
    shape = (3, 32, 32)
    model = PIT(request.param(), shape, verify=False)
    with torch.no_grad():
        model.alpha.copy_(torch.rand_like(model.alpha) * 1.3)
    return model, network_calls(model.arch_export(verify=False), shape)


class Branchy(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.choice = SuperNetModule(
            [
                nn.Conv2d(8, 8, 3, padding=1),
                nn.Sequential(nn.Conv2d(8, 24, 1), nn.ReLU(), nn.Conv2d(24, 8, 1)),
                nn.Identity(),
            ]
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(self.choice(x).mean((2, 3)))


@pytest.mark.parametrize("chosen", range(3))
@pytest.mark.parametrize("name", ["memory:tflm", "memory:tinyengine"])
def test_exact_for_every_branch(name, chosen):
    model = SuperNet(Branchy(), (3, 8, 8))
    with torch.no_grad():
        for parameter in model.arch_parameters():
            parameter.zero_()
            parameter.view(-1)[chosen] = 30.0
    found = network_cost(model.arch_export(verify=False), name, (3, 8, 8))
    assert model.get_cost(name, discrete=True) == found
    assert model.get_cost(name).item() == pytest.approx(found, rel=1e-6)
    with torch.no_grad():
        for parameter in model.arch_parameters():
            parameter.zero_()
    model.get_cost(name).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.arch_parameters())


def test_budget_names_a_runtime():
    budget = Budget(memory=("tflm", 65_536), flash=("tflm", 500_000), size=40_000)
    assert {metric.name: limit for metric, limit in budget.limits} == {
        "memory:tflm": 65_536,
        "flash:tflm": 500_000,
        "size": 40_000,
    }
    shape = (3, 8, 8)
    limit = 0.75 * network_cost(Separable(), "memory:tflm", shape)
    model = PIT(Separable(), shape, regularizer=Budget(memory=("tflm", limit)))
    model.settle_budget()
    assert network_cost(model.arch_export(verify=False), "memory:tflm", shape) <= limit
    with pytest.raises(ConfigError, match=r"unknown runtime 'tfml'.*Did you mean 'tflm'"):
        Budget(memory=("tfml", 65_536))
    with pytest.raises(ConfigError, match=r"limit on memory:tflm must be a finite number > 0 \[B\], got '64k'"):
        Budget(memory=("tflm", "64k"))


def test_flash_is_weights_biases_and_code():
    # X-CUBE-AI: 3 layers; 64 x 32 weights of a byte, biases of 4 B, 28 KiB of code and 1843 B per layer
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8, bias=False), nn.Linear(8, 2))
    weights = 64 * 32 + 32 * 8 + 8 * 2
    assert network_cost(net, "flash:xcube7", (64,)) == weights + 4 * (32 + 2) + 28 * 1024 + 3 * 1843
    assert get_metric("flash:xcube7").unit == "B"


def test_report_says_whether_it_fits(capsys):
    report = cost_report(resnet8(), (3, 32, 32), targets=["cortex_m4", "ethos_u55_128"], runtime="tflm")
    deployed = report.totals()["runtime"]
    assert deployed["ram"] == network_cost(resnet8(), "memory:tflm", (3, 32, 32))
    assert deployed["fits"] == {"cortex_m4": True, "ethos_u55_128": None}
    assert f"fits cortex_m4: {deployed['ram']:,} of 655,360 B RAM" in str(report)
    assert main(["cost", "benchmarks_mlperf_tiny.networks:resnet8", "--input", "3,32,32", "--runtime", "tflm"]) == 0
    assert "in tflm: " in capsys.readouterr().out
    small = replace(get_target("cortex_m4"), name="small", ram_bytes=40_000)
    text = str(cost_report(resnet8(), (3, 32, 32), targets=[small], runtime="tflm"))
    assert f"does not fit small: {deployed['ram']:,} of 40,000 B RAM" in text
    assert "runtime" not in cost_report(resnet8(), (3, 32, 32)).totals()
    with pytest.raises(ConfigError, match="unknown runtime 'tfl'"):
        cost_report(resnet8(), (3, 32, 32), runtime="tfl")


def test_registry():
    with pytest.raises(ConfigError, match="'tflm' exists already"):
        register_runtime(runtimes.Runtime("tflm", "", runtimes.live_moments, ""))
    assert get_runtime(runtimes.TFLM) is get_runtime("tflm")
    with pytest.raises(ConfigError, match="unknown runtime 7"):
        get_runtime(7)
