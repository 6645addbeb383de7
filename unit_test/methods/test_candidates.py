"""The table of candidates: every row at every kind of place, by name; what does not fit says which shapes."""

from __future__ import annotations

import contextlib
import itertools
import re
from typing import Any

import pytest
import torch
from settings import largest_difference
from torch import nn
from toys.table import randomise

from benchmarks_mlperf_tiny.networks import ds_cnn
from nasopt import PIT, PITSuperNet, SuperNet, SuperNetModule, supernet_candidates, with_candidates
from nasopt.cost import network_cost
from nasopt.errors import ConfigError
from nasopt.methods.candidate_table import CANDIDATES, find_candidate
from nasopt.nn import AdderConv2d, LightResidual, MultiHeadDepthwise

EXAMPLES = [row.example for row in CANDIDATES]
NEW = ("multi_head3", "reaf_4_3", "light_skip", "fractal2", "weight_attention")


def _counts(net: nn.Module) -> list[int]:
    return [len(m.branches) for m in net.modules() if isinstance(m, SuperNetModule)]


def _starts(net: nn.Module) -> list[int]:
    return [0, *itertools.accumulate(_counts(net))][:-1]


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("outputs", [8, 12])
def test_every_row_keeps_the_output_shape_or_says_why_it_does_not_fit(name: str, stride: int, outputs: int) -> None:
    layer, x = nn.Conv2d(8, outputs, 3, stride, 1), torch.randn(2, 8, 9, 9)
    if name in ("identity", "fractal2", "binary_fractal2") and (stride, outputs) != (1, 8):
        place = f"(8 -> {outputs} channels, kernel (3, 3), stride ({stride}, {stride}), padding (1, 1))"
        message = re.escape(f"{name!r} does not fit: it needs equal shapes of input and output {place}")
        with pytest.raises(ConfigError, match=message):
            supernet_candidates(layer, nn.BatchNorm2d(outputs), nn.ReLU(), candidates=(name,))
        return
    branches = supernet_candidates(layer, nn.BatchNorm2d(outputs), nn.ReLU(), candidates=(name,))
    assert [branch(x).shape for branch in branches] == [layer(x).shape] * 2
    norms = [m for m in branches[1].modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms or isinstance(branches[1], (LightResidual, nn.Identity))


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (nn.Conv2d(8, 8, 3, padding="same", dilation=2), EXAMPLES),
        (nn.Conv2d(8, 8, (3, 1), padding=(1, 0)), EXAMPLES),
        (nn.Conv2d(8, 8, 4, 2, 1), EXAMPLES),
        (nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"), EXAMPLES),
        (nn.Conv1d(8, 8, 3, padding=1), EXAMPLES),
        (nn.Conv1d(8, 8, 3, padding=4, dilation=2), EXAMPLES),
        (nn.Conv2d(3, 5, 3, padding="valid"), EXAMPLES),
        (nn.Conv2d(1, 8, 3, padding=1), EXAMPLES),
    ],
)
def test_unusual_places(layer: Any, names: list[str]) -> None:
    x = torch.randn(2, layer.in_channels, *(9,) * len(layer.kernel_size))
    fitting = []
    for name in names:
        with contextlib.suppress(ConfigError):
            branches = supernet_candidates(layer, candidates=(name,))
            fitting.append(name)
            assert all(branch(x).shape == layer(x).shape for branch in branches)
    assert "separable" in fitting
    if isinstance(layer, nn.Conv1d) or layer.padding_mode != "zeros":
        assert not set(fitting) - {"conv5x5", "separable", "identity", "light_skip"}


def test_separable_blocks() -> None:
    block = [nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12)]
    x = torch.randn(2, 8, 9, 9)
    names = ("conv3x3", "separable", "multi_head2", "adder_separable", "light_skip", "reaf_4_3")
    branches = supernet_candidates(block[0], own=block, candidates=names)
    # The separable one stands there already.
    assert len(branches) == 1 + len(names) - 1
    assert {tuple(branch(x).shape) for branch in branches} == {(2, 12, 5, 5)}


def test_skips_are_not_repeated() -> None:
    names = ("light_skip", "identity")
    assert len(supernet_candidates(nn.Conv2d(4, 4, 3, padding=1), candidates=names)) == 2
    with pytest.raises(ConfigError, match="'identity' does not fit: it needs equal shapes"):
        supernet_candidates(nn.Conv2d(4, 6, 3, padding=1), candidates=names)
    layers = [nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 6, 3, 2, 1)]
    model = with_candidates(nn.Sequential(*layers), (4, 8, 8), candidates=names)
    branches = [list(m.branches) for m in model.modules() if isinstance(m, SuperNetModule)]
    assert [[type(branch) for branch in others] for _, *others in branches] == [
        [nn.Identity],
        [LightResidual],
        [LightResidual],
    ]


def test_bad_names() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1)
    with pytest.raises(
        ConfigError, match=r"unknown candidate 'seperable': known are conv5x5.*Did you mean 'separable'"
    ):
        supernet_candidates(layer, candidates=("seperable",))
    with pytest.raises(ConfigError, match="candidates must be a list of text or None, got"):
        with_candidates(nn.Sequential(layer), (4, 8, 8), candidates=(3,))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="candidates is empty"):
        supernet_candidates(layer, candidates=())
    with pytest.raises(ConfigError, match="holds a name twice: adder, adder"):
        supernet_candidates(layer, candidates=("adder", "adder"))
    with pytest.raises(ConfigError, match="leave kernels=, separable= and identity= out"):
        supernet_candidates(layer, candidates=("adder",), kernels=(3,))
    for name, message in (("multi_head0", "heads must be at least 1"), ("reaf_3_4", "merge=4 exceeds groups=3")):
        with pytest.raises(ConfigError, match=message):
            supernet_candidates(layer, candidates=(name,))
    for name, message in (("reaf_3_2", "4 input channels must be a multiple of 3"), ("fractal0", "1 to 8 columns")):
        with pytest.raises(ConfigError, match=message):
            supernet_candidates(layer, candidates=(name,))
    with pytest.raises(ConfigError, match=r"conv0x0.*at least one tap"):
        supernet_candidates(layer, candidates=("conv0x0",))


def test_a_candidate_that_fits_nowhere_says_which_shapes() -> None:
    seed = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 10, 3, 2, 1))
    with pytest.raises(
        ConfigError, match=r"'reaf_5_2' fits none of the places: 0: .* \(3 -> 8 channels, .*; 1: .*8 -> 10"
    ):
        with_candidates(seed, (3, 8, 8), candidates=("separable", "reaf_5_2"))
    # It fits one of two.
    model = with_candidates(seed, (3, 8, 8), candidates=("separable", "reaf_2_1"))
    assert _counts(model) == [2, 3]


def test_rows_are_told_apart() -> None:
    for row in CANDIDATES:
        assert find_candidate(row.example)[0] is row
        assert [other for other in CANDIDATES if other.numbers(row.example) is not None] == [row]
    assert find_candidate("reaf_12_5")[1] == (12, 5)
    assert {row.arithmetic for row in CANDIDATES} == {"multiplies", "adds", "counts bits", "none"}


@pytest.mark.filterwarnings("ignore::nasopt.errors.NoEffectWarning")
@pytest.mark.parametrize("names", [NEW, ("adder", "adder_separable", "binary_fractal1", "binary")])
def test_search_export_and_prune_what_was_chosen(names: tuple[str, ...]) -> None:
    shape, metric = (3, 8, 8), "ops"
    convs = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8)]
    seed = randomise(nn.Sequential(*convs, nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)))
    seed.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)))
    x = torch.randn(2, *shape, dtype=torch.float64)
    torch.manual_seed(3)
    net = with_candidates(seed.double(), shape, ["3", "6"], candidates=names)
    assert largest_difference(seed.eval()(x), net.eval()(x)) < 1e-12
    model: Any = SuperNet(net.train(), shape, regularizer=metric)
    logits = next(iter(model.arch_parameters()))
    chosen = set()
    for index in range(1, len(names) + 1):
        with torch.no_grad():
            logits.copy_(torch.randn_like(logits))
            for first, count in zip(_starts(net), _counts(net)):
                logits[first + min(index, count - 1)] = 9
        found = model.arch_export()
        assert largest_difference(model.eval()(x), found.eval()(x)) < 1e-9
        assert not any(isinstance(m, SuperNetModule) for m in found.modules())
        assert model.get_cost(metric, discrete=True) == network_cost(found, metric, shape)
        chosen |= {type(m).__name__ for m in found.modules()}
        small = PIT(found, shape, regularizer="size")
        with torch.no_grad():
            small.alpha.copy_(torch.rand_like(small.alpha))
        again = small.arch_export()
        assert largest_difference(small.eval()(x), again.eval()(x)) < 1e-9
    assert chosen & {"MultiHeadDepthwise", "AdderConv2d"}


def test_joint_search_in_a_whole_model() -> None:
    shape, names = (1, 49, 10), ("separable", "multi_head2", "light_skip", "identity")
    net = with_candidates(ds_cnn(), shape, candidates=names)
    assert any(isinstance(m, MultiHeadDepthwise) for m in net.modules())
    model = PITSuperNet(net, shape, paths="sampled", hard_softmax=True, regularizer="macs")
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_arch_parameters():
            parameter.copy_(torch.randn_like(parameter) + (name != "choice_logits"))
    found = model.arch_export()
    assert model.get_cost("macs", discrete=True) == network_cost(found, "macs", shape)


def test_adders_are_a_change_of_arithmetic() -> None:
    net = with_candidates(nn.Sequential(nn.Conv2d(3, 4, 3)), (3, 6, 6), candidates=("adder",))
    (layer,) = (m for m in net.modules() if isinstance(m, AdderConv2d))
    assert find_candidate("adder")[0].arithmetic == "adds"
    # 16 positions of 27 taps to 4 channels, in half of the cases each.
    model = SuperNet(net, (3, 6, 6), regularizer="ops")
    assert float(model.get_cost("multiplications").detach()) == 16 * 27 * 4 / 2
    assert float(model.get_cost("additions").detach()) == 16 * 27 * 4 * (1 + 2) / 2
    assert layer.kernel_size == (3, 3)


class HeldTwice(nn.Module):
    """Layers that the model also holds under plain names, and sizes that forward asks them for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)
        self.steps = [self.first, torch.relu]
        self.by_name = {"last": self.last}
        object.__setattr__(self, "alias", self.first)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1] == self.alias.in_channels
        for step in self.steps:
            x = step(x)
        assert x.shape[1] == self.first.out_channels
        return self.by_name["last"](x)  # type: ignore[no-any-return]


def test_layers_that_the_model_holds_beside_its_modules() -> None:
    seed = HeldTwice()
    model = with_candidates(seed, (3, 8, 8))
    assert isinstance(model.first, SuperNetModule)
    assert model.alias is model.first is model.steps[0]
    assert isinstance(seed.first, nn.Conv2d)
    assert seed.alias is seed.first
    assert len(SuperNet(model, (3, 8, 8)).arch_summary()["choices"]) == 1


class PartlyRead(nn.Module):
    """Channels that only the input of a passed-on branch is read for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.choice, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.last(x) + self.choice(x)[:, :3]  # type: ignore[no-any-return]


def test_channels_that_are_read_in_the_search_space_only() -> None:
    model = PITSuperNet(with_candidates(PartlyRead(), (3, 8, 8), where="choice"), (3, 8, 8)).eval()
    x = torch.randn(2, 3, 8, 8)
    for _ in range(4):
        randomise(model)
        assert largest_difference(model(x), model.arch_export()(x)) < 1e-5


class ReadsItsLayers(nn.Module):
    """Pads by the sizes of a layer, as ports from TensorFlow do; two layers share a weight, and `forward` uses another one."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.used = nn.Conv2d(3, 8, 3, dilation=2), nn.Conv2d(8, 8, 3, padding=1)
        self.tied, self.other = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.other.weight = self.tied.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (side,) = {self.free.dilation[i] * (self.free.kernel_size[i] - 1) // 2 for i in range(2)}
        x = self.other(self.tied(self.used(self.free(nn.functional.pad(x, (side,) * 4)))))
        return nn.functional.conv_transpose2d(x, self.used.weight, padding=1)


def test_weights_that_somebody_else_uses_are_no_place_and_sizes_can_be_read() -> None:
    seed = ReadsItsLayers()
    model = with_candidates(seed, (3, 8, 8), identity=False)
    assert [name for name, layer in model.named_modules() if isinstance(layer, SuperNetModule)] == ["free"]
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(model.eval()(x), seed.eval()(x))
    assert SuperNet(model, (3, 8, 8)).arch_export().eval()(x).shape == (2, 8, 8, 8)
