"""Published sizes and operations of ResNets at 224x224, and Bi-Real networks output for output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nasopt import NASB
from nasopt.cost import get_metric, network_calls
from nasopt.methods.nasb import binary_cells
from nasopt.methods.nasb.cell import Cell
from nasopt.nn import BinaryActivation, BinaryConv2d
from unit_test.methods.nasb_seeds import SHAPE, Residual, torchvision_models

STAGES = ["layer1", "layer2", "layer3", "layer4"]


SHAPE_OF_IMAGENET = (3, 224, 224)
CANDIDATES = ("zero", "max_pool_3x3", "identity")


def resnet(name: str) -> nn.Module:
    """With weights of any value: costs need shapes only."""
    with torch.device("meta"):
        seed = getattr(torchvision_models(), name)()
    return seed.to_empty(device="cpu")


@pytest.fixture(scope="module")
def resnet18() -> NASB:
    return NASB(resnet("resnet18"), SHAPE_OF_IMAGENET, cells=STAGES, nodes=5, candidates=CANDIDATES)


def chain(model: NASB, is_identity: Any) -> None:
    """From the previous node everywhere: identity where `is_identity(cell, node)`, else max pooling."""
    nn.init.zeros_(model.choice_logits)
    for name, shapes in model.cell_shapes.items():
        for j in range(1, len(shapes)):
            model.choose(name, j - 1, j, "identity" if is_identity(name, j) else "max_pool_3x3")


def test_full_precision(resnet18: NASB) -> None:
    assert resnet18._seed_cost(get_metric("size_bits")) == pytest.approx(374.1e6, rel=0.005)
    assert resnet18._seed_cost(get_metric("ops")) == pytest.approx(1.81e9, rel=0.005)
    resnet34 = resnet("resnet34")
    calls = network_calls(resnet34, SHAPE_OF_IMAGENET)
    assert calls.total("size_bits") == pytest.approx(697.5e6, rel=0.005)
    assert calls.total("ops") == pytest.approx(3.66e9, rel=0.005)
    # Stages of 6, 8, 12 and 6 convolutions, regrouped in cells of 5 nodes.
    made = binary_cells(resnet34, SHAPE_OF_IMAGENET, cells=STAGES, nodes=5, candidates=CANDIDATES)
    assert [len(cell.shapes) for cell in made.modules() if isinstance(cell, Cell)] == [5] * 8


def test_bi_real_resnet18(resnet18: NASB) -> None:
    # 694,440 real parameters, 10,985,472 binary ones: 33.2 Mbit, and norms
    chain(resnet18, lambda cell, node: True)
    assert resnet18.get_cost("size_bits", discrete=True) == pytest.approx(33.5e6, rel=0.005)
    # 137.8e6 real MACs + 1,676e6 binary ones / 64
    assert resnet18.get_cost("ops", discrete=True) == pytest.approx(1.64e8, rel=0.005)


def test_nasb_resnet18(resnet18: NASB) -> None:
    # Twelve max poolings and four identities. The source does not say where the identities are, and a pooling costs by its
    # size; with identities at the first two nodes of the first two cells the count is the published one.
    chain(resnet18, lambda cell, node: cell in ("layer1.0", "layer1.1") and node <= 2)
    kept = [k["operation"] for cell in resnet18.cell_summary().values() for k in cell["kept"]]
    assert (kept.count("max_pool_3x3"), kept.count("identity")) == (12, 4)
    assert resnet18.get_cost("size_bits", discrete=True) == pytest.approx(33.8e6, rel=0.005)
    assert resnet18.get_cost("ops", discrete=True) == pytest.approx(1.71e8, rel=0.005)


class BiRealBlock(nn.Module):
    """Liu et al. 2018: a shortcut around every binary convolution, none of them rectified."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, down: nn.Module | None) -> None:
        super().__init__()
        self.sign, self.conv, self.norm, self.down = BinaryActivation(), BinaryConv2d.from_conv(conv), norm, down

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.sign(x))) + (x if self.down is None else self.down(x))


class BiReal(nn.Module):
    def __init__(self, seed: Residual) -> None:
        super().__init__()
        self.stem, self.head = seed.stem[:2], seed.head
        blocks = []
        for block in (*seed.stage1, *seed.stage2):
            blocks += [BiRealBlock(block.conv1, block.norm1, block.down), BiRealBlock(block.conv2, block.norm2, None)]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


@pytest.mark.parametrize("nodes", [None, 5, 9, 4])
def test_identity_from_the_previous_node_everywhere_is_a_bi_real_network(nodes: int | None) -> None:
    seed = Residual()
    for module in seed.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
            nn.init.normal_(module.running_mean)
    model = NASB(seed, SHAPE, cells=["stage1", "stage2"], nodes=nodes, candidates=CANDIDATES).eval()
    for name, shapes in model.cell_shapes.items():
        for j in range(1, len(shapes)):
            model.choose(name, j - 1, j, "identity")
    x = torch.randn(4, *SHAPE)
    with torch.no_grad():
        wanted = BiReal(seed).eval()(x)
        assert torch.equal(model(x), wanted)
        assert torch.equal(model.arch_export()(x), wanted)
