"""Masks on channels: blocks, ties, exclusion, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nasopt import PIT


def chain(width: int = 7) -> nn.Module:
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 6), nn.Sigmoid(), nn.Linear(6, 2))


@pytest.mark.parametrize(("block", "units"), [(1, 7 + 6), (2, 4 + 3), (3, 3 + 2), (7, 1 + 1), (100, 1 + 1)])
def test_blocks_and_their_remainder(block: int, units: int) -> None:
    """7 channels in blocks of 3 are 3, 3 and 1; a dying group keeps one block."""
    model = PIT(chain(), (4,), channel_block=block)
    assert model.alpha.numel() == units
    with torch.no_grad():
        model.alpha.zero_()
        model.alpha[-(-7 // block) - 1] = 0.4
    layers = model.arch_summary()["layers"]
    assert layers["0"]["out_channels"] == (7 % block or min(block, 7))
    assert layers["2"]["out_channels"] == min(block, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("value", [0.5, 0.0, -3.0, -1e4])
def test_of_equal_channels_the_first_survives(value: float, dtype: torch.dtype) -> None:
    model = PIT(chain(300), (4,)).to(dtype)
    with torch.no_grad():
        model.alpha.fill_(value)
    kept = model.arch_structure()["channels"]
    assert kept == {"0": [0], "2": [0]}
    cost = model.search_space()["cost"]["size"]
    assert cost["now"] == cost["smallest"] == 4 + 1 + 1 + 1 + 2 + 2


def test_the_largest_of_a_dying_group_survives_by_any_margin() -> None:
    model = PIT(chain(300), (4,))
    with torch.no_grad():
        model.alpha.fill_(0.1)
        model.alpha[299] += 1e-5
    assert model.arch_structure()["channels"]["0"] == [299]


def test_gradient_is_that_of_scaling_the_channel() -> None:
    """A mask on the readers' weights and a factor on the channel itself have one derivative, dead channels included."""
    model = PIT(chain().double(), input_example=torch.randn(3, 4, dtype=torch.float64))
    x = torch.randn(5, 4, dtype=torch.float64)
    with torch.no_grad():
        model.alpha[2] = 0
    (model(x) ** 2).sum().backward()
    scale = torch.ones(7, dtype=torch.float64)
    scale[2] = 0
    scale.requires_grad_()
    layers = list(model.net.children())
    y = layers[4](layers[3](layers[2](scale * layers[1](layers[0](x)))))
    (wanted,) = torch.autograd.grad((y**2).sum(), scale)
    torch.testing.assert_close(model.alpha.grad[:7].double(), wanted, rtol=1e-5, atol=1e-6)
    assert float(model.alpha.grad[2].abs()) > 0


def test_excluded_layers_keep_their_outputs_only() -> None:
    model = PIT(chain(), (4,), exclude_names=["2"])
    with torch.no_grad():
        model.alpha.zero_()
    layers = model.arch_summary()["layers"]
    assert (layers["2"]["in_channels"], layers["2"]["out_channels"]) == (1, 6)
    assert layers["2"]["reason"] == "2: it is excluded"
    assert model.arch_export().get_submodule("2").weight.shape == (6, 1)


def test_freezing() -> None:
    model = PIT(chain(), (4,))
    model.net.get_parameter("0.bias").requires_grad_(False)
    model.freeze_arch(), model.freeze_net(), model.freeze_net()
    assert not any(p.requires_grad for p in model.parameters())
    model.unfreeze_net()
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["alpha", "net.0.bias"]
    model.unfreeze_arch()
    assert model.alpha.requires_grad
