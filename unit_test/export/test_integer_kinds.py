"""Kinds of code that have an integer form: functional layers, paths of train mode, constants, maxima, padding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from integers import batch, check
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt import PIT
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
    "dropped_channels": lambda: Net(lambda m, x: m.drop(x), drop=nn.Dropout2d()),
    "gated_by_rows": lambda: Net(lambda m, x: m.gate(x), gate=nn.GLU(-1)),
    "random_slopes_in_training": lambda: Net(lambda m, x: m.act(m.conv(x)), conv=nn.Conv2d(6, 6, 1), act=nn.RReLU()),
}  # fmt: skip


def _scales() -> nn.Parameter:
    return nn.Parameter(torch.tensor([0.5, -1.0, 0.0, 2.0, 0.1, 1.0]).reshape(1, 6, 1, 1))


def found_network(seed: nn.Module, x: Tensor) -> Any:
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
    check(found_network(KINDS[kind](), x), (x,))


@pytest.mark.parametrize("kind", ["layer_scale", "largest_and_mean_over_channels", "reflected_border"])
def test_files_compute_the_integers(kind: str, tmp_path: Path, c_compiler: str) -> None:
    (x,) = batch(X)
    network = found_network(KINDS[kind](), x)
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
    found = found_network(Named(), x)
    assert sum(isinstance(layer, Quantise) for layer in found.modules()) == 5
    check(found, (x,))


def test_numbers_of_a_fixed_type_are_refused_by_name() -> None:
    (x,) = batch(X)
    seed = Net(lambda m, x: torch.einsum("bchw,cd->bdhw", x, torch.eye(6, dtype=torch.float32)))
    with pytest.raises(ExportError, match=r"dtype=x\.dtype|has no integer form"):
        integer_program(found_network(seed, x))
