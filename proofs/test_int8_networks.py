"""int8 files of whole networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from test_int8_files import Case, check_binary_layers, check_every_layer, pit
from torch import nn
from toys.table import randomise

from benchmarks_mlperf_tiny import networks
from benchmarks_mlperf_tiny.tasks import get_task
from nasopt import NASB, PITSuperNet, SuperNet
from unit_test.methods.nasb_seeds import torchvision_models


def imagenet(name: str) -> Callable[[], nn.Module]:
    return lambda: getattr(torchvision_models(), name)(num_classes=10)


NETWORKS: dict[str, Case] = {
    "autoencoder": pit(networks.autoencoder, 640),
    "resnet8": pit(networks.resnet8, 3, 32, 32),
    "mobilenet_v1": pit(networks.mobilenet_v1, 3, 96, 96),
    "tcn": pit(networks.tcn, 4, 64),
    "tcn-symmetric": pit(lambda: networks.tcn(padding="symmetric"), 4, 64),
    "wake-word": pit(networks.wake_word_cnn, 40, 30),
    "mobilenet_v2": pit(imagenet("mobilenet_v2"), 3, 64, 64),
    "resnet18": pit(imagenet("resnet18"), 3, 64, 64),
    "resnet8-supernet": (lambda: SuperNet(randomise(get_task("ic").supernet(10)), (3, 32, 32)), (3, 32, 32)),
    "resnet8-pit-supernet": (lambda: PITSuperNet(randomise(get_task("ic").supernet(10)), (3, 32, 32)), (3, 32, 32)),
    "resnet8-nasb": (
        lambda: NASB(randomise(networks.resnet8()), (3, 32, 32), cells=["stack1", "stack2", "stack3"]),
        (3, 32, 32),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks(name: str, tmp_path: Path) -> None:
    check = check_binary_layers if "nasb" in name else check_every_layer
    check(NETWORKS[name], tmp_path / "int8.onnx")
