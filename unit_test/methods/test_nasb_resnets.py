"""torchvision's ResNets with basic and with bottleneck blocks become cells, and what they cost and compute is true."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from nasopt import NASB, cost
from nasopt.errors import UnpricedError
from unit_test.methods.nasb_seeds import SHAPE, Residual, torchvision_models

FEW = ("zero", "max_pool_3x3", "identity")


def shaken(seed: nn.Module, cells: list[str], candidates: tuple[str, ...], shape: tuple[int, ...]) -> NASB:
    model = NASB(seed, shape, cells=cells, candidates=candidates).eval()
    with torch.no_grad():
        model.choice_logits.normal_()
    return model


def check(model: NASB, shape: tuple[int, ...]) -> None:
    network = model.arch_export(verify=False)
    x = torch.randn(2, *shape)
    with torch.no_grad():
        assert torch.equal(network(x), model(x))
    calls = cost.network_calls(network, shape)
    for metric in ("ops", "size_bits"):
        assert model.get_cost(metric, discrete=True) == calls.total(metric)


def bottlenecks(blocks: list[int]) -> nn.Module:
    models: Any = torchvision_models()
    return models.ResNet(models.resnet.Bottleneck, blocks, num_classes=5)


def test_bottleneck_blocks() -> None:
    model = shaken(bottlenecks([1, 1, 1, 1]), ["layer1"], (*FEW, "conv_1x1"), (3, 32, 32))
    assert [shape[0] for shape in model.cell_shapes["layer1"]] == [64, 64, 64, 256]
    model.choose("layer1", 0, 3, "identity")
    # The block's own 1x1 convolution beside its main path aligns input and output.
    assert isinstance(model.arch_export(verify=False).get_submodule("layer1.aligners.0.0"), nn.Conv2d)
    check(model, (3, 32, 32))


@pytest.fixture(scope="module")
def small() -> NASB:
    return shaken(Residual(), ["stage1", "stage2"], ("zero", "max_pool_3x3", "conv_3x3"), SHAPE)


def test_latency_and_peak_memory_of_what_is_found(small: NASB) -> None:
    network = small.arch_export()
    for metric in ("latency:cortex_m4", "memory"):
        assert small.get_cost(metric, discrete=True) == cost.network_cost(network, metric, SHAPE)
    assert float(small.get_cost("latency:cortex_m4").detach()) > 0


def test_what_has_no_price_is_refused(small: NASB) -> None:
    with pytest.raises(UnpricedError, match="'gap8' has no law for 'pool' layers"):
        small.get_cost("latency:gap8")
