"""Functions that nobody can look into: what works element by element passes channels on, the rest stays whole."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from same import Around, Part, assert_same
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from nasopt import PIT
from nasopt.errors import ConfigError


class Surrogate(Function):
    """A step with the slope of a sigmoid, as of spiking networks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] / (1 + ctx.saved_tensors[0].abs()) ** 2


class Rounded(Function):
    """A grid with one step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, bits: int) -> Tensor:
        return (x / step).round().clamp(-(2**bits), 2**bits - 1) * step

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0], None, None


class RoundedByMaximum(Function):
    """A grid that depends on all elements."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        step = x.abs().max() / 127
        return (x / step).round() * step

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0]


class Reversed(Function):
    """The gradient reversal of domain adaptation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return -grads[0]


class CrossedSlopes(Function):
    """Elementwise forward, not so backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] - grads[0].mean()


taken_early = Surrogate.apply


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, 1)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecated in newer versions
    scripted, scripted_softmax = torch.jit.script(swish), torch.jit.script(softmax)
    scripted_part = torch.jit.script(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()))


ELEMENTWISE: dict[str, Part] = {
    "apply": lambda m, x: Surrogate.apply(x),  # type: ignore[no-untyped-call]
    "apply that was taken early": lambda m, x: taken_early(x),  # type: ignore[no-untyped-call]
    "apply as an attribute": lambda m, x: m.spike(x),  # type: ignore[operator]
    "with a step": lambda m, x: Rounded.apply(x, m.step, 3),  # type: ignore[no-untyped-call]
    "of a weight": lambda m, x: F.conv2d(x, Rounded.apply(m.inner.weight, m.step, 4), m.inner.bias),  # type: ignore
    "reversal": lambda m, x: Reversed.apply(x),  # type: ignore[no-untyped-call]
    "scripted": lambda m, x: scripted(x),
}
WHOLE: dict[str, Part] = {
    "step of all elements": lambda m, x: RoundedByMaximum.apply(x),  # type: ignore[no-untyped-call]
    "slopes of all elements": lambda m, x: CrossedSlopes.apply(x),  # type: ignore[no-untyped-call]
    "scripted softmax": lambda m, x: scripted_softmax(x),
}


def passes_on(part: Part) -> bool:
    """Whether channels before the part can go."""
    model = assert_same(
        Around(part, spike=Surrogate.apply, step=torch.tensor(0.1), inner=nn.Conv2d(8, 8, 1)), verify=True
    )
    return any("first" in group.writers for group in model.analysis.searchable)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_what_works_element_by_element_passes_channels_on(name: str) -> None:
    assert passes_on(ELEMENTWISE[name])


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.filterwarnings("ignore::nasopt.errors.NoEffectWarning")
def test_what_does_not_stays_whole(name: str) -> None:
    assert not passes_on(WHOLE[name])


def test_a_part_that_is_torchscript_stays_whole_and_a_model_is_refused() -> None:
    seed = Around(lambda m, x: m.whole(x), whole=scripted_part)  # type: ignore[operator]
    model = PIT(seed, (3, 8, 8))
    assert not any(group.searchable for group in model.analysis.groups)
    # Torch's own copy of it has parameters that no optimizer takes.
    assert all(parameter.is_leaf for parameter in model.parameters())
    x = torch.randn(2, 3, 8, 8)
    for network in (model, model.arch_export()):
        torch.testing.assert_close(network.eval()(x), seed.eval()(x))
    with pytest.raises(ConfigError, match="TorchScript, which has no Python code to follow"):
        PIT(scripted_part, (8, 4, 4))
