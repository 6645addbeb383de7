"""Kinds of code that have an integer form: functional layers, paths of train mode, constants, maxima, padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from integers import batch, check
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt import PIT, Precision
from nasopt.errors import ExportError
from nasopt.export import integer_program, to_c, to_quantised_onnx
from nasopt.nn import Quantise

X = (3, 8, 8)
Made = Callable[[], nn.Module]


class Net(nn.Module):
    """Two convolutions, and a function between them."""

    def __init__(self, between: Any, width: int = 6, **held: Any) -> None:
        super().__init__()
        self.between = between
        self.first, self.second, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(width, 6, 1), nn.Linear(6, 3)
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self, F.relu(self.first(x)))
        return self.head(self.second(x).mean((2, 3)))


class FunctionalNorm(nn.BatchNorm2d):
    """Batch norm and activation in one, as timm writes it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        x = F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum or 0.0,
            self.eps,
        )
        return self.act(x)  # type: ignore[no-any-return]


class SameConvolution(nn.Conv2d):
    """A convolution that pads by the size of its input and its weight, as TensorFlow does."""

    def forward(self, x: Tensor) -> Tensor:
        pad = self.weight.shape[-1] - 1
        x = F.pad(x, [pad // 2, pad - pad // 2, pad // 2, pad - pad // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class DropPath(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (torch.rand(len(x), 1, 1, 1) < 0.7).to(x.dtype) / 0.7


def _two_largest(m: Any, x: Tensor) -> Tensor:
    return x * torch.sigmoid(torch.cat([x.max(1, keepdim=True)[0], x.mean(1, keepdim=True)], 1).amax(1, keepdim=True))


def _in_place(m: Any, x: Tensor) -> Tensor:
    x = m.conv(x).abs_().div_(2).exp_()
    x = m.conv(x).square_().neg_().floor_()
    x /= 2
    x **= 2
    return x


KINDS: dict[str, Made] = {
    "norm_and_activation_in_one": lambda: Net(lambda m, x: m.norm(x), norm=FunctionalNorm(6)),
    "functional_convolution_that_pads": lambda: Net(lambda m, x: m.conv(x), conv=SameConvolution(6, 6, 3)),
    "a_path_of_train_mode": lambda: Net(lambda m, x: x + m.drop(m.conv(x)), conv=nn.Conv2d(6, 6, 1), drop=DropPath()),
    "layer_scale": lambda: Net(lambda m, x: x + m.scale * m.conv(x), conv=nn.Conv2d(6, 6, 1), scale=_scales()),
    "numbers": lambda: Net(lambda m, x: (1 - x) * 0.5 + x / x.shape[1]),
    "channels_of_zeros": lambda: Net(lambda m, x: torch.cat([x, torch.zeros_like(x[:, :2])], 1), width=8),
    "new_zeros": lambda: Net(
        lambda m, x: torch.cat([x.new_zeros(x.shape[0], 2, *x.shape[2:]), x], 1), width=8
    ),
    "largest_and_mean_over_channels": lambda: Net(_two_largest),
    "expanded": lambda: Net(lambda m, x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)).expand_as(x)),
    "larger_of_two": lambda: Net(lambda m, x: torch.max(x, x.flip(1))),
    "reflected_border": lambda: Net(lambda m, x: F.pad(x, (1, 1, 1, 1), mode="reflect")),
    "replicated_border": lambda: Net(lambda m, x: m.pad(x), pad=nn.ReplicationPad2d(1)),
    "unfolded": lambda: Net(lambda m, x: F.unfold(x, 2).reshape(x.shape[0], 24, 5, 5), width=24),
    "activation_in_place": lambda: Net(lambda m, x: m.act(m.pool(x)).flip(1), act=nn.SiLU(True), pool=nn.MaxPool2d(2)),
    "cast_to_its_own_type": lambda: Net(lambda m, x: torch.tanh(x).to(x.dtype)),
    "largest_by_name": lambda: Net(lambda m, x: x * torch.sigmoid(x.max(dim=1, keepdim=True).values)),
    "more_functions": lambda: Net(lambda m, x: torch.erf(x) + torch.log1p(x)),
    "functions_in_place": lambda: Net(_in_place, conv=nn.Conv2d(6, 6, 1)),
    "another_padding": lambda: Net(lambda m, x: m.conv(m.conv(x)), conv=nn.Conv2d(6, 6, 3, 1, 1, padding_mode="circular")),
    "another_same_padding": lambda: Net(
        lambda m, x: m.conv(x), conv=nn.Conv2d(6, 6, (3, 5), padding="same", padding_mode="reflect", groups=6)
    ),
    "gated": lambda: Net(lambda m, x: m.gate(F.glu(m.conv(x), 1)), conv=nn.Conv2d(6, 24, 1), gate=nn.GLU(1)),
    "gated_by_rows": lambda: Net(lambda m, x: m.gate(x), gate=nn.GLU(-1)),
    "random_slopes_in_training": lambda: Net(lambda m, x: m.act(m.conv(x)), conv=nn.Conv2d(6, 6, 1), act=nn.RReLU()),
}  # fmt: skip


def _scales() -> nn.Parameter:
    return nn.Parameter(torch.tensor([0.5, -1.0, 0.0, 2.0, 0.1, 1.0]).reshape(1, 6, 1, 1))


def _found(seed: nn.Module, x: Tensor) -> Any:
    """A network of 8 bits, trained for a step."""
    model = PIT(seed, input_example=x, precision=8)
    model.calibrate([x])
    model.train()(x).square().sum().backward()
    with torch.no_grad():
        for p in model.net_parameters():
            if p.grad is not None:
                p.sub_(0.01 * p.grad / (p.grad.norm() + 1))
        for p in model.arch_parameters():
            p.copy_(torch.rand_like(p) + 0.2)
    return model.arch_export()


@pytest.mark.parametrize("kind", KINDS)
def test_program_and_network_are_equal(kind: str) -> None:
    (x,) = batch(X)
    check(_found(KINDS[kind](), x), (x,))


@pytest.mark.parametrize("kind", ["layer_scale", "largest_and_mean_over_channels", "reflected_border"])
def test_files_compute_the_integers(kind: str, tmp_path: Path, c_compiler: str) -> None:
    (x,) = batch(X)
    network = _found(KINDS[kind](), x)
    report = to_c(integer_program(network), tmp_path / "net")
    assert " 0 of " in report.checked
    to_quantised_onnx(network, tmp_path / "net.onnx")


def test_an_average_on_its_own_grid_meets_exact_ties() -> None:
    """Sums of 6 integers, divided by 6: every sixth lies between two integers, where a multiplier of 1/6 is too small."""
    (x,) = batch(X, size=16)
    seed = Net(lambda m, x: torch.cat([x, x.mean(1, keepdim=True)], 1), width=7)
    network = PIT(seed, input_example=x, precision=8, channel_block=6)
    network.calibrate([x])
    found = network.arch_export()
    program = integer_program(found)
    assert [step.settings["quarters"] for step in program.steps if step.settings.get("quarters")] == [True]
    check(found, (x,), program)


def test_layers_of_functions_are_quantised_and_keep_their_names() -> None:
    (x,) = batch(X)
    seed = Net(lambda m, x: m.norm(m.conv(x)), norm=FunctionalNorm(6), conv=SameConvolution(6, 6, 3))
    model = PIT(seed, input_example=x, precision=8)
    assert not model.floats
    model.calibrate([x])
    model.load_state_dict(seed.state_dict())  # under the seed's names
    for _ in range(2):
        model.train()(x), seed.train()(x)
    assert int(model.net.get_buffer("norm.num_batches_tracked")) == int(seed.norm.num_batches_tracked) == 2
    norms = [step for step in integer_program(model.arch_export()).steps if step.kind == "affine"]
    assert not norms  # it is part of the convolution


def test_what_follows_complex_numbers_is_rounded() -> None:
    """They hold no floats, and what is computed of them depends on the input."""
    (x,) = batch(X)
    seed = Net(lambda m, x: torch.fft.irfft2(torch.fft.rfft2(x) * 2, s=x.shape[-2:]))
    model = PIT(seed, input_example=x, precision=8, unpriced="ignore")
    assert set(model.floats) == {"fft_irfft2"}
    assert model.net.get_submodule("points.fft_irfft2")


def test_what_is_changed_in_place_is_rounded_behind_the_change() -> None:
    (x,) = batch(X)
    model = PIT(KINDS["activation_in_place"](), input_example=x, precision=8)
    model.calibrate([x])
    points = [name for name, layer in model.net.named_modules() if isinstance(layer, Quantise)]
    assert "points.act" in points


def test_names_of_points_differ_and_are_no_methods() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.to_, self.a_b, self.a = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Module()
            self.a.b = nn.Conv2d(4, 4, 1)

        def forward(self, to: Tensor) -> Tensor:
            return self.a.b(self.a_b(self.to_(to))).mean((2, 3)).exp()

    (x,) = batch(X)
    found = _found(Named(), x)
    assert sum(isinstance(layer, Quantise) for layer in found.modules()) == 5
    check(found, (x,))


def test_numbers_of_a_fixed_type_are_refused_by_name() -> None:
    (x,) = batch(X)
    seed = Net(lambda m, x: torch.einsum("bchw,cd->bdhw", x, torch.eye(6, dtype=torch.float32)))
    with pytest.raises(ExportError, match=r"dtype=x\.dtype|has no integer form"):
        integer_program(_found(seed, x))


@pytest.mark.parametrize(
    ("between", "held", "reason"),
    [
        (lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"), {}, "in mode 'bilinear': 'nearest' has one"),
        (lambda m, x: F.pad(x, (1, 1), value=0.5), {}, "pad has no integer form where it fills in other numbers than 0"),
        (lambda m, x: x + m.map, {"map": nn.Parameter(torch.randn(6, 6))}, "neither equal nor one per channel"),
        (lambda m, x: torch.cat([x[:, 1:], m.map.expand(len(x), -1, -1, -1)], 1),
         {"map": nn.Parameter(torch.randn(1, 1, 6, 6))}, "cat has no integer form with constants"),
        (lambda m, x: m.norm(x), {"norm": nn.GroupNorm(2, 6)}, "GroupNorm .* a batch norm has one"),
        (lambda m, x: m.rnn(F.max_pool2d(x, 2).flatten(2))[0][..., None], {"rnn": nn.GRU(9, 4, batch_first=True)},
         r"^'rnn' .*GRU has no integer form\)"),
    ],
    ids=["bilinear", "pad", "map", "cat", "norm", "recurrent"],
)  # fmt: skip
def test_refusals_name_the_call_that_computes_in_floats(between: Any, held: dict[str, Any], reason: str) -> None:
    (x,) = batch(X)
    with pytest.raises(ExportError, match=reason):
        integer_program(_found(Net(between, **held), x))


@pytest.mark.parametrize("name", ["second", "head"])
def test_layers_of_32_bits_are_named(name: str) -> None:
    (x,) = batch(X)
    model = PIT(Net(lambda m, x: x), input_example=x, precision=Precision({name: 32, "*": 8}, 8))
    model.calibrate([x])
    with pytest.raises(ExportError, match=rf"^'{name}' is computed in floats .*32 bits were asked for"):
        integer_program(model.arch_export())


def test_numbers_of_rows_of_a_table_are_no_integers_of_a_grid() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, words: Tensor) -> Tensor:
            return self.head(self.table(words).amax(1))

    words = torch.randint(0, 9, (4, 5))
    model = PIT(Words(), input_example=words, precision=8)
    model.calibrate([words])
    with pytest.raises(ExportError, match=r"'table' .*Embedding makes floats of whole numbers"):
        integer_program(model.arch_export())


def test_the_index_of_the_largest_belongs_to_the_tail() -> None:
    class Decides(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).argmax(1)

    (x,) = batch(X)
    model = PIT(Decides(lambda m, x: x), input_example=x, precision=8)
    model.calibrate([x])
    network = model.arch_export()
    with pytest.raises(ExportError, match=r"'argmax' .*leave_out_tail=True"):
        integer_program(network)
    scores = integer_program(network, leave_out_tail=True)(x)
    assert (scores.argmax(1) == network.eval()(x).numpy()).all()


@pytest.mark.parametrize(
    "mix",
    [
        lambda m, x: x - x.max(0)[0],
        lambda m, x: x * x.amax(),
        lambda m, x: x + x.flip(0),
        lambda m, x: x + x.roll(1, 0),
    ],
)
def test_what_mixes_samples_is_refused(mix):
    (x,) = batch(X)
    with pytest.raises(ExportError, match="it reads other samples of the batch"):
        integer_program(_found(Net(mix), x))


def test_what_is_drawn_or_changes_is_no_constant():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.ones(1, 6, 1, 1))

        def forward(self, x):
            self.scale.mul_(1.5)
            return x * self.scale

    (x,) = batch(X)
    for seed in (Net(lambda m, x: x * torch.rand(1, 6, 1, 1)), Net(lambda m, x: m.count(x), count=Counts())):
        model = PIT(seed, input_example=x, precision=8, verify=False)
        assert list(model.floats.values()) == ["mul has no integer form"]


class Pair(NamedTuple):
    """Two results."""

    scores: Any
    features: Any


@dataclass
class Results:
    """Two results."""

    scores: Any
    features: Any


class Returns(nn.Module):
    """Results in a container; one argument is not read, and one that the network divides by."""

    def __init__(self, container: Any, divides: bool = False) -> None:
        super().__init__()
        self.conv, self.head, self.container, self.divides = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), container, divides

    def forward(self, x: Tensor, other: Tensor) -> Any:
        features = torch.relu(self.conv(x))
        scores = self.head(features.mean((2, 3)))
        return self.container(scores / other if self.divides else scores, features)


@pytest.mark.parametrize(
    "container", [Pair, Results, lambda scores, features: {"scores": scores, "features": features}]
)
def test_containers_of_results_and_unread_arguments(container: Any, tmp_path: Path) -> None:
    x = batch(X, (1,))
    model = PIT(Returns(container), input_example=x, precision=8)
    model.calibrate([x])
    network = model.arch_export()
    program = integer_program(network)
    found = list(program(*x).values()) if container is not Pair else program(*x)
    with torch.no_grad():
        wanted = network.double().eval()(*(one.double() for one in x))
    wanted = wanted if isinstance(wanted, dict) else {name: getattr(wanted, name) for name in ("scores", "features")}
    for name, one in zip(("scores", "features"), found):
        assert abs(wanted[name].numpy() - one).max() < 1e-9
    to_quantised_onnx(network.float(), tmp_path / "net.onnx")


def test_what_a_tail_reads_of_the_inputs_is_no_output() -> None:
    x = batch(X, (1,))
    model = PIT(Returns(Pair, divides=True), input_example=x, precision=8, unpriced="ignore")
    model.calibrate([x])
    program = integer_program(model.arch_export(), leave_out_tail=True)
    assert [one.shape for one in program.outputs] == [(1, 2), (1, 4, 6, 6)]


@pytest.mark.parametrize(
    "between",
    [lambda m, x: x * x.flip(1), lambda m, x: F.avg_pool2d(F.pad(x, [200] * 4), 400)],
    ids=["product", "average"],
)
def test_sums_that_32_bits_do_not_hold_are_refused(between: Any) -> None:
    (x,) = batch(X)
    model = PIT(Net(between), input_example=x, precision=Precision(8, 16))
    model.calibrate([x])
    with pytest.raises(ExportError, match="may need more than 32 bits: give what it reads fewer bits"):
        integer_program(model.arch_export())


def test_files_pad_words(tmp_path: Path) -> None:
    (x,) = batch(X)
    model = PIT(Net(lambda m, x: F.max_pool2d(F.pad(x, (1, 0, 1, 0)), 2)), input_example=x, precision=Precision(8, 16))
    model.calibrate([x])
    to_quantised_onnx(model.arch_export(), tmp_path / "net.onnx")
