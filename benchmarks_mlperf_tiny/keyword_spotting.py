"""kws: DS-CNN on MFCC features of one-second recordings."""

from __future__ import annotations

from torch import nn

from benchmarks_mlperf_tiny.data.keywords import spoken_digits, synthetic_words
from benchmarks_mlperf_tiny.data.speech_commands import speech_commands
from benchmarks_mlperf_tiny.image_classification import loss
from benchmarks_mlperf_tiny.networks import ds_cnn
from benchmarks_mlperf_tiny.task import DataSet, Recipe, Task, top1
from nasopt import with_candidates


def build_seed(num_classes: int) -> nn.Module:
    """DS-CNN with fresh weights."""
    return ds_cnn(num_classes)


def build_supernet(num_classes: int) -> nn.Module:
    """The seed with alternatives at every separable block."""
    return with_candidates(build_seed(num_classes), (1, 49, 10), lambda name, conv: conv.groups > 1)


TASK = Task(
    name="kws",
    title="keyword spotting",
    input_shape=(1, 49, 10),
    figure_name="accuracy",
    target=0.90,
    seed=build_seed,
    supernet=build_supernet,
    loss=loss,
    figure=top1,
    datasets={
        "synthetic": DataSet(
            synthetic_words,
            Recipe(
                warmup=8, search=12, finetune=8, batch_size=50, lr=2e-3, arch_lr=6e-3, strength=1.0, norm_momentum=0.2
            ),
            "generated words of gliding tones (embedded, synthetic)",
        ),
        "fsdd": DataSet(
            spoken_digits,
            Recipe(
                warmup=4,
                search=12,
                finetune=8,
                batch_size=100,
                lr=2e-3,
                arch_lr=6e-3,
                strength=0.5,
                norm_momentum=0.2,
            ),
            "Free Spoken Digit Dataset, 10 words of 6 speakers",
        ),
        "speech_commands": DataSet(
            speech_commands,
            Recipe(warmup=8, search=16, finetune=12, batch_size=100, lr=1e-3, arch_lr=2e-3, strength=0.5),
            "Speech Commands v2, 12 classes (downloads 2.4 GB)",
        ),
    },
)
