"""torchvision's ResNets as cells of binary layers: what is found is exact, and every convolution became binary."""

from __future__ import annotations

import pytest
from test_nasb_resnets import FEW, check, shaken

from nasopt.nn import BinaryConv2d
from unit_test.methods.nasb_seeds import torchvision_models

STAGES = ["layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize(("name", "convolutions"), [("resnet18", 16), ("resnet34", 32), ("resnet50", 48)])
def test_whole_resnets(name: str, convolutions: int) -> None:
    model = shaken(getattr(torchvision_models(), name)(num_classes=5), STAGES, FEW, (3, 64, 64))
    assert sum(isinstance(module, BinaryConv2d) for module in model.arch_export().modules()) == convolutions
    check(model, (3, 64, 64))
