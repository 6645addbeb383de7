"""ic: ResNet-8 on small colour images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks_mlperf_tiny.data.images import cifar10, digits
from benchmarks_mlperf_tiny.networks import resnet8
from benchmarks_mlperf_tiny.task import DataSet, Recipe, Task, top1
from nasopt import with_candidates


def build_seed(num_classes: int) -> nn.Module:
    """ResNet-8 with fresh weights."""
    return resnet8(num_classes)


def build_supernet(num_classes: int) -> nn.Module:
    """The seed with alternatives at every convolution with more than one tap."""
    return with_candidates(build_seed(num_classes), (3, 32, 32), gumbel_softmax=True)


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
                warmup=6, search=10, finetune=8, batch_size=32, lr=1e-3, arch_lr=1e-2, strength=1.0, norm_momentum=0.1
            ),
            "scikit-learn's 1,797 digits (embedded, real)",
        ),
        "cifar10": DataSet(
            cifar10,
            Recipe(warmup=20, search=40, finetune=40, batch_size=128, lr=1e-3, arch_lr=5e-3, strength=1.0),
            "CIFAR-10",
        ),
    },
)
