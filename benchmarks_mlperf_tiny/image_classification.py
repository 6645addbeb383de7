"""ic: ResNet-8 on small colour images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks_mlperf_tiny.data.images import cifar10, cifar10_subset, digits
from benchmarks_mlperf_tiny.networks import resnet8
from benchmarks_mlperf_tiny.task import DataSet, Recipe, Task, top1
from nasopt import with_candidates


def build_seed(num_classes: int) -> nn.Module:
    """ResNet-8 with fresh weights."""
    return resnet8(num_classes)


def build_supernet(num_classes: int) -> nn.Module:
    """The seed with alternatives at every convolution with more than one tap."""
    return with_candidates(build_seed(num_classes), (3, 32, 32))


def loss(outputs: Tensor, _inputs: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy."""
    return F.cross_entropy(outputs, labels)


TASK = Task(
    name="ic",
    title="image classification",
    input_shape=(3, 32, 32),
    figure_name="accuracy",
    target=0.85,
    seed=build_seed,
    supernet=build_supernet,
    loss=loss,
    figure=top1,
    datasets={
        "digits": DataSet(
            digits,
            Recipe(
                warmup=3, search=13, finetune=8, batch_size=64, lr=2e-3, arch_lr=6e-3, strength=1.0, norm_momentum=0.2
            ),
            "scikit-learn's 1,797 digits (embedded, real)",
        ),
        "cifar10": DataSet(
            cifar10,
            Recipe(
                warmup=10,
                search=30,
                finetune=20,
                batch_size=128,
                lr=2e-3,
                arch_lr=2e-3,
                strength=0.5,
                norm_momentum=0.1,
            ),
            "CIFAR-10",
        ),
        "cifar10_subset": DataSet(
            cifar10_subset,
            Recipe(
                warmup=4, search=8, finetune=5, batch_size=64, lr=2e-3, arch_lr=4e-3, strength=0.3, norm_momentum=0.1
            ),
            "5,452 images of CIFAR-10",
        ),
    },
)
