"""vww: MobileNetV1 x0.25 says whether a person is in the picture."""

from __future__ import annotations

from torch import nn

from benchmarks_mlperf_tiny.data.coco_people import visual_wake_words
from benchmarks_mlperf_tiny.data.people import person_crops, synthetic_figures
from benchmarks_mlperf_tiny.image_classification import loss
from benchmarks_mlperf_tiny.networks import mobilenet_v1
from benchmarks_mlperf_tiny.task import DataSet, Recipe, Task, top1
from nasopt import with_candidates


def build_seed(num_classes: int) -> nn.Module:
    """MobileNetV1 x0.25 with fresh weights."""
    return mobilenet_v1(num_classes)


def build_supernet(num_classes: int) -> nn.Module:
    """The seed with alternatives at every separable block."""
    return with_candidates(build_seed(num_classes), (3, 96, 96), lambda name, conv: conv.groups > 1)


TASK = Task(
    name="vww",
    title="visual wake words",
    input_shape=(3, 96, 96),
    figure_name="accuracy",
    target=0.80,
    seed=build_seed,
    supernet=build_supernet,
    loss=loss,
    figure=top1,
    datasets={
        "synthetic": DataSet(
            synthetic_figures,
            Recipe(
                warmup=12, search=8, finetune=4, batch_size=32, lr=2e-3, arch_lr=8e-3, strength=2.0, norm_momentum=0.2
            ),
            "generated figures among look-alikes (embedded, synthetic)",
        ),
        "person": DataSet(
            person_crops,
            Recipe(
                warmup=2, search=6, finetune=3, batch_size=32, lr=2e-3, arch_lr=6e-3, strength=0.8, norm_momentum=0.2
            ),
            "person / no person crops of the INRIA set",
        ),
        "visual_wake_words": DataSet(
            visual_wake_words,
            Recipe(warmup=10, search=20, finetune=20, batch_size=32, lr=1e-3, arch_lr=1e-3, strength=0.5),
            "Visual Wake Words, 109,619 pictures of COCO (downloads an archive)",
        ),
    },
)
