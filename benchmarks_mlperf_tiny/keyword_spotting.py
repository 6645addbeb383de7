"""kws: DS-CNN on MFCC features of one-second recordings."""

from __future__ import annotations

from torch import nn

from benchmarks_mlperf_tiny.data.keywords import spoken_digits, synthetic_words
from benchmarks_mlperf_tiny.image_classification import loss
from benchmarks_mlperf_tiny.networks import ds_cnn
from benchmarks_mlperf_tiny.task import DataSet, Recipe, Task, top1


def build_seed(num_classes: int) -> nn.Module:
    """DS-CNN with fresh weights."""
    return ds_cnn(num_classes)


TASK = Task(
    name="kws",
    title="keyword spotting",
    input_shape=(1, 49, 10),
    figure_name="accuracy",
    target=0.90,
    seed=build_seed,
    loss=loss,
    figure=top1,
    datasets={
        "synthetic": DataSet(
            synthetic_words,
            Recipe(
                warmup=8, search=12, finetune=8, batch_size=50, lr=2e-3, arch_lr=1e-2, strength=1.0, norm_momentum=0.1
            ),
            "generated words of gliding tones (embedded, synthetic)",
        ),
        "fsdd": DataSet(
            spoken_digits,
            Recipe(
                warmup=15,
                search=25,
                finetune=20,
                batch_size=100,
                lr=2e-3,
                arch_lr=1e-2,
                strength=1.0,
                norm_momentum=0.1,
            ),
            "Free Spoken Digit Dataset, 10 words of 6 speakers",
        ),
    },
)
