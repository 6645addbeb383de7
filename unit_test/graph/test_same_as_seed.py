"""What is done for its effect, in one mode, or in a region of its own, is done by the search model and the export, too."""

from __future__ import annotations

import functools
import pickle
import random
from collections import OrderedDict
from typing import Any

import pytest
import torch
from same import Around, assert_same
from settings import scramble
from torch import Tensor, fx, nn
from torch.nn import functional as F

from nasopt import PIT
from nasopt.errors import TraceError, TraceWarning
from nasopt.graph.example import make_example
from nasopt.nn import PathByMode
from nasopt.search.distance import moved_differently, other_names
from nasopt.search.passes import run_or_none

pytestmark = pytest.mark.filterwarnings("ignore::nasopt.errors.NoEffectWarning")


def double(x: Tensor) -> None:
    x.mul_(2.0)


def change_list(items: list[Tensor]) -> None:
    items[0] = items[0] * 2
    items.append(items[0] + 1)


fx.wrap("double")
fx.wrap("change_list")


class AddsInPlace(nn.Module):
    def forward(self, x: Tensor) -> None:
        x.add_(1.0)


class DropPath(nn.Module):
    """As timm has it."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(0.5)
        return x * kept.div_(0.5)


class NormAct(nn.BatchNorm2d):
    """As timm has it: a functional norm whose arguments follow the mode."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps)
        return F.relu(x, inplace=True)


class OwnNorm(nn.Module):
    """A norm written by hand, whose buffers are written in train mode."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.scale = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.mean, self.variance
        if self.training:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
            with torch.no_grad():
                self.mean.lerp_(mean, 0.1)  # type: ignore[operator]
                self.variance = 0.9 * self.variance + 0.1 * variance  # type: ignore[operator]
        return (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt() * self.scale[:, None, None]  # type: ignore[index]


def effect(function: Any) -> Any:
    """A part whose result is thrown away."""

    def part(self: Any, x: Tensor) -> None:
        function(self, x)

    return part


@pytest.mark.parametrize("kind", [nn.ReLU, nn.SiLU, nn.Hardtanh, nn.ELU, nn.Dropout])
def test_layers_in_place_whose_result_is_not_used(kind: Any) -> None:
    assert_same(Around(effect(lambda m, x: m.act(x)), act=kind(inplace=True)))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: double(x),
        lambda m, x: m.leaf(x),
        lambda m, x: x.__setitem__((slice(None), 0), 0.5),
        lambda m, x: F.relu(x, inplace=True),
        lambda m, x: torch.clamp(x.data, 0, out=x.data),
    ],
    ids=["wrapped function", "leaf module", "assignment", "functional", "out="],
)
def test_calls_for_their_effect(function: Any) -> None:
    assert_same(Around(effect(function), leaf=AddsInPlace()))


def test_a_function_that_writes_into_a_list() -> None:
    def part(self: Any, x: Tensor) -> Tensor:
        items = [x, x * 3]
        change_list(items)
        return items[0] + items[1] + items[2]

    model = assert_same(Around(part))
    again = pickle.loads(pickle.dumps(model.arch_export()))
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(again(x), model.arch_export()(x))


def test_stochastic_depth_passes_channels_on() -> None:
    seed = Around(lambda m, x: m.drop(m.norm(m.mix(x))), drop=DropPath(), norm=NormAct(8), mix=nn.Conv2d(8, 8, 1))
    model = assert_same(seed.eval())
    assert sum(group.size for group in model.explain().groups if group.searchable) == 16
    assert any(isinstance(m, PathByMode) for m in model.arch_export().modules())


@pytest.mark.parametrize(
    ("part", "members"),
    [
        (lambda m, x: m.norm(x), {"norm": NormAct(8)}),
        (lambda m, x: m.norm(x), {"norm": OwnNorm(8)}),
        (lambda m, x: F.dropout(x, 0.3, m.training), {}),
        (lambda m, x: x + 0.1 * torch.randn_like(x) if m.training else x, {}),
        (lambda m, x: x.tanh() if m.training else x.relu() + 1, {}),
        (lambda m, x: m.drop(x) + F.dropout(m.norm(x), 0.2, m.training), {"drop": DropPath(), "norm": NormAct(8)}),
    ],
    ids=["functional norm", "own norm", "dropout", "noise", "other functions", "several"],
)
@pytest.mark.parametrize("training", [True, False], ids=["from train", "from eval"])
def test_what_follows_the_mode(part: Any, members: dict[str, Any], training: bool) -> None:
    assert_same(Around(part, **members).train(training))


def test_the_mode_of_a_part_that_is_frozen() -> None:
    seed = Around(lambda m, x: m.norm(F.dropout(x, 0.3, m.training)), norm=NormAct(8))
    seed.norm.eval()
    model = PIT(seed, (3, 8, 8))
    assert model.net.training
    assert not model.net.get_submodule("norm").training
    x = torch.randn(2, 3, 8, 8)
    torch.manual_seed(0)
    wanted = seed(x)
    torch.manual_seed(0)
    assert torch.equal(model(x), wanted)


class WithoutGradient(nn.Module):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def regions() -> dict[str, Any]:
    def with_block(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = m.mix(x).relu()
        return y + x

    def switched(m: Any, x: Tensor) -> Tensor:
        torch.set_grad_enabled(False)
        y = m.mix(x)
        torch.set_grad_enabled(True)
        return y + x

    def by_mode(m: Any, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(m.training):
            return m.mix(x)

    def buffer_in_place(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            m.kept.mul_(0.9).add_(x.mean((0, 2, 3)))
        return x + m.kept[:, None, None]

    def weight_in_place(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            m.mix.weight.clamp_(-0.1, 0.1)
        return m.mix(x)

    return {
        "with": with_block,
        "switched": switched,
        "buffer in place": buffer_in_place,
        "weight in place": weight_in_place,
        "decorated": lambda m, x: x + m.frozen(x),
        "by mode": by_mode,
    }


@pytest.mark.parametrize("name", list(regions()))
def test_regions_without_gradients(name: str) -> None:
    seed = Around(regions()[name], mix=nn.Conv2d(8, 8, 1), kept=torch.zeros(8), frozen=WithoutGradient())
    if name == "by mode":
        PIT(seed, (3, 8, 8))  # In eval mode it takes no gradients, which `assert_same` would ask for.
    else:
        assert_same(seed)


def test_float32_regions_stay_float32_under_autocast() -> None:
    def part(m: Any, x: Tensor) -> Tensor:
        with torch.autocast(device_type=x.device.type, enabled=False):
            return m.mix(x.float())

    seed = Around(part, mix=nn.Conv2d(8, 8, 1))
    model = assert_same(seed)
    scramble(model)
    exported = model.arch_export()
    again = pickle.loads(pickle.dumps(exported))
    x = torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        wanted = PIT(seed, (3, 8, 8))(x)
        assert torch.equal(seed(x), wanted)
        assert torch.equal(model(x), exported(x))
        assert torch.equal(again(x), exported(x))
        assert [n.name for n in exported.graph.nodes if n.name.endswith("_autocast")] == [
            "_enter_autocast",
            "_exit_autocast",
        ]


def computed_weights() -> dict[str, Any]:
    def max_norm(m: Any, x: Tensor) -> Tensor:
        m.mix.weight.data = torch.renorm(m.mix.weight.data, p=2, dim=0, maxnorm=0.1)
        return m.mix(x)

    def swapped(m: Any, x: Tensor) -> Tensor:
        weight = m.mix._parameters.pop("weight")
        m.mix.weight = weight * 2
        y = m.mix(x)
        del m.mix.weight
        m.mix._parameters["weight"] = weight
        return y

    call = torch.func.functional_call
    return {
        "renormalised": max_norm,
        "swapped": swapped,
        "functional_call": lambda m, x: call(m.mix, {"weight": m.mix.weight * 2, "bias": m.mix.bias}, (x,)),
        "functional_call around": lambda m, x: call(m.several, {"0.weight": m.several[0].weight * 2}, (x,)),
        "slice": lambda m, x: F.conv2d(x, m.large[:8, :8]),
        "other layer's": lambda m, x: F.conv2d(x, m.mix.weight.sign(), m.mix.bias) + m.mix(x),
    }


@pytest.mark.parametrize("name", list(computed_weights()))
def test_weights_computed_in_forward(name: str) -> None:
    several = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
    large = nn.Parameter(torch.randn(16, 16, 1, 1))
    assert_same(Around(computed_weights()[name], mix=nn.Conv2d(8, 8, 1), several=several, large=large))


def test_bool_complex_and_self_updating_outputs_are_compared() -> None:
    class Several(Around):
        def forward(self, x: Tensor) -> Any:
            self.kept.add_(1)  # type: ignore[operator]
            y = self.last(self.first(x)) * self.kept
            return y > 0, torch.fft.fft(y), y

    model = assert_same(Several(lambda m, x: x, kept=torch.zeros(1)))
    before = model.net.get_buffer("kept").clone()
    model.arch_export(verify=True)
    assert torch.equal(model.net.get_buffer("kept"), before)


@pytest.mark.parametrize("place", ["eval", "train"])
def test_random_numbers_of_python_are_refused(place: str) -> None:
    draws = functools.partial(_sometimes, place == "train")
    with pytest.raises(TraceError, match="draws random numbers of Python or NumPy"):
        PIT(Around(draws), (3, 8, 8))


def _sometimes(only_in_training: bool, m: Any, x: Tensor) -> Tensor:
    return x * random.random() if m.training or not only_in_training else x


def test_means_behind_a_norm_are_rounding() -> None:
    seed, twin, search = nn.BatchNorm1d(2), nn.BatchNorm1d(2), nn.Sequential(OrderedDict(net=nn.BatchNorm1d(2)))
    others = other_names(twin)
    for mean, problem in ((4e-9, ""), (1e-3, "running_mean is another one after the pass")):
        twin.running_mean.fill_(3e-9), search.get_buffer("net.running_mean").fill_(mean)  # type: ignore[union-attr]
        assert moved_differently(seed, twin, search, others) == problem


class Far(nn.Module):
    """Attention, whose sums may be taken in any order, normed far from zero: what rounding has left is all that is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.attention = nn.Linear(6, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.behind = nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        x = self.attention(x, x, x, need_weights=False)[0] + 1e4
        return self.behind(self.norm(x.transpose(1, 2)).transpose(1, 2))


@pytest.mark.parametrize("training", [True, False])
def test_rounding_is_told_from_another_network(training: bool) -> None:
    torch.manual_seed(0)
    with pytest.warns(TraceWarning, match="is its seed in double precision; in single precision, in train mode"):
        PIT(Far().train(training), (5, 6))
    PIT(Far().double(), input_example=torch.randn(2, 5, 6).double())


def test_statistics_of_what_nobody_reads_may_stand_still() -> None:
    """As of an encoder that makes more features than its decoder takes."""

    def part(m: Any, x: Tensor) -> Tensor:
        m.more(x)
        return x.relu()

    model = PIT(Around(part, more=nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))), (3, 8, 8))
    assert "more" not in {name.partition(".")[0] for name, _ in model.net.named_parameters()}


class TakesOddly(nn.Module):
    """Layers behind arguments of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

    def spread(self, *xs: Tensor) -> Any:
        return self.last(sum(self.first(x) for x in xs))

    def by_place(self, x: Tensor, y: Tensor, /) -> Any:
        return self.last(self.first(x) * self.first(y))

    def by_name(self, x: Tensor, *, scale: float = 1.0, acts: bool = True) -> Any:
        x = self.first(x) * scale
        return self.last(x.relu() if acts else x)


@pytest.mark.parametrize("name", ["spread", "by_place", "by_name"])
def test_arguments_of_every_kind_are_compared(name: str) -> None:
    kind = type(name, (TakesOddly,), {"forward": getattr(TakesOddly, name)})
    x = torch.randn(2, 4)
    given: Any = {"x": x, "scale": 2.0, "acts": False} if name == "by_name" else (x, x + 1)
    seed = kind()
    example = make_example(seed, None, given)
    wanted = run_or_none(seed, example.inputs, example, training=True)
    assert wanted is not None
    model = PIT(seed, input_example=given)
    found = run_or_none(model, example.inputs, example, training=True)
    assert found is not None
    torch.testing.assert_close(found.outputs, wanted.outputs)
