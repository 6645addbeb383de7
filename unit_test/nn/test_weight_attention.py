"""Weight attention: weights per sample, and their price."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nasopt import PIT
from nasopt.cost import network_cost
from nasopt.errors import ConfigError
from nasopt.nn import AWConv2d


@pytest.mark.parametrize("training", [True, False])
def test_every_sample_has_weights_of_its_own(training: bool) -> None:
    layer = AWConv2d(4, 6, 3, stride=2, padding=1, bias=True, reduction=2).train(training)
    x = torch.randn(3, 4, 7, 7)
    attention = layer.attention(x)
    assert attention.shape == (3, 6, 3, 3)
    assert bool(((attention > 0) & (attention < 1)).all())
    weights = layer.weight + attention.unsqueeze(2) * layer.weight
    wanted = [F.conv2d(x[i : i + 1], weights[i], layer.bias, 2, 1) for i in range(3)]
    torch.testing.assert_close(layer(x), torch.cat(wanted))


@pytest.mark.parametrize(("inputs", "outputs", "reduction"), [(32, 64, 16), (16, 16, 4), (4, 8, 16)])
def test_price(inputs: int, outputs: int, reduction: int) -> None:
    layer = AWConv2d(inputs, outputs, 3, padding=1, reduction=reduction)
    hidden = max(outputs // reduction, 1)
    more = sum(p.numel() for p in layer.parameters()) - layer.weight.numel()
    assert more == inputs * hidden + hidden * outputs + 2 * hidden + 2 * outputs
    if outputs % reduction == 0:
        assert more == outputs**2 / reduction + inputs * outputs / reduction + 2 * outputs * (1 / reduction + 1)
    macs = network_cost(nn.Sequential(layer), "macs", (inputs, 5, 5))
    # 25 positions of the convolution, 9 of the attention, one product per weight.
    products = 9 * inputs * outputs
    assert macs == 25 * products + 9 * (inputs * hidden + hidden * outputs) + products
    # Norms of the attention are folded into biases.
    size = network_cost(nn.Sequential(layer), "size", (inputs, 5, 5))
    assert size == products + inputs * hidden + hidden * outputs + hidden + outputs


def test_its_channels_stay_and_say_why() -> None:
    seed = nn.Sequential(
        nn.Conv2d(3, 4, 1), AWConv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1), nn.Conv2d(5, 2, 1)
    )
    groups = PIT(seed, (3, 6, 6)).explain().groups
    assert [group.size for group in groups if group.searchable] == [5]
    assert any("reads all input channels and scales all weights" in group.reason for group in groups)


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match="reduction must be at least 1"):
        AWConv2d(4, 8, 3, reduction=0)
    with pytest.raises(ConfigError, match="out_channels must be at least 1"):
        AWConv2d(4, 0, 3)
