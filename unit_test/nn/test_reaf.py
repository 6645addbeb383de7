"""REAF convolutions: equal to masked dense ones, cost, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nasopt.cost import network_cost
from nasopt.errors import ConfigError
from nasopt.nn import ReafConv2d, ReafPlus

CASES = [(4, 3), (4, 2), (3, 1), (6, 1), (2, 2), (1, 1)]


@pytest.mark.parametrize(("groups", "merge"), CASES)
def test_equal_to_a_block_masked_dense_convolution(groups: int, merge: int) -> None:
    count = math.comb(groups, merge)
    layer = ReafConv2d(2 * groups, 3 * count, 3, groups, merge, stride=2, padding=1, bias=True)
    dense = layer.dense_weight()
    x = torch.randn(2, 2 * groups, 7, 7)
    torch.testing.assert_close(layer(x), F.conv2d(x, dense, layer.bias, 2, 1))
    is_read = (dense != 0).any(3).any(2).view(count, 3, groups, 2).any(3).any(1)
    assert bool((is_read.sum(1) == merge).all())
    # Every output group reads another subset.
    assert len({tuple(row) for row in is_read.tolist()}) == count


def test_merge_of_one_is_a_grouped_convolution_and_of_all_a_dense_one() -> None:
    x = torch.randn(2, 6, 5, 5)
    layer, conv = ReafConv2d(6, 9, 3, 3, 1), nn.Conv2d(6, 9, 3, groups=3, bias=False)
    layer.load_state_dict(conv.state_dict())
    torch.testing.assert_close(layer(x), conv(x))
    layer, conv = ReafConv2d(6, 9, 3, 3, 3), nn.Conv2d(6, 9, 3, bias=False)
    layer.load_state_dict(conv.state_dict())
    torch.testing.assert_close(layer(x), conv(x))


@pytest.mark.parametrize(("groups", "merge"), CASES)
def test_cost_is_the_share_that_is_read(groups: int, merge: int) -> None:
    count = math.comb(groups, merge)
    layer = ReafConv2d(2 * groups, 3 * count, 3, groups, merge, padding=1, bias=True)
    dense = 2 * groups * 3 * count * 9
    shape = (2 * groups, 5, 5)
    assert network_cost(nn.Sequential(layer), "macs", shape) == 25 * dense * merge / groups
    assert (
        network_cost(nn.Sequential(layer, nn.BatchNorm2d(3 * count)), "size", shape)
        == dense * merge / groups + 3 * count
    )


def test_plus_gives_every_output_group_a_norm_of_its_own() -> None:
    layer, x = ReafPlus(4, 6, 3, padding=1, groups=3).eval(), torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        for part in layer.parts:
            part[0].weight.uniform_(0.5, 2)  # type: ignore[index, union-attr, operator]
            part[0].bias.normal_()  # type: ignore[index, union-attr, operator]
    wanted = torch.cat([part[2](part[1](part[0](x))) for part in layer.parts], 1)  # type: ignore[index, operator]
    torch.testing.assert_close(layer(x), wanted)
    # Three norms of 4 channels, and the weights of one dense convolution.
    assert sum(p.numel() for p in layer.parameters()) == 3 * 8 + 6 * 4 * 9


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match="merge=4 exceeds groups=3"):
        ReafConv2d(6, 6, 3, 3, 4)
    with pytest.raises(ConfigError, match="5 input channels must be a multiple of 4"):
        ReafConv2d(5, 4, 3, 4, 3)
    with pytest.raises(ConfigError, match="10 output channels one of 6"):
        ReafConv2d(8, 10, 3, 4, 2)
    with pytest.raises(ConfigError, match="merge must be at least 1"):
        ReafConv2d(8, 8, 3, 4, 0)
    with pytest.raises(ConfigError, match="groups must be at least 1"):
        ReafConv2d(8, 8, 3, 0, 0)
    with pytest.raises(ConfigError, match="groups=4: choose a common divisor"):
        ReafPlus(4, 6, groups=4)
