"""ad: a dense auto-encoder learns how a healthy machine sounds; what it cannot rebuild is an anomaly."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks_mlperf_tiny.data.machines import generated_machines
from benchmarks_mlperf_tiny.data.splits import Split
from benchmarks_mlperf_tiny.data.toycar import toycar
from benchmarks_mlperf_tiny.networks import autoencoder
from benchmarks_mlperf_tiny.task import DataSet, Recipe, Task


def build_seed(features: int) -> nn.Module:
    """The auto-encoder with fresh weights."""
    return autoencoder(features)


def loss(outputs: Tensor, inputs: Tensor, _labels: Tensor) -> Tensor:
    """Mean squared error of the reconstruction [dB^2]."""
    return F.mse_loss(outputs, inputs)


def area_under_curve(scores: Tensor, labels: Tensor) -> float:
    """Probability that an anomaly scores higher than a normal example; ties count half.

    Args:
        scores: `(N,)`.
        labels: `(N,)`, 1 for an anomaly.

    Returns:
        The area under the ROC curve; 0.5 where one of the classes is missing.
    """
    anomalies, normals = scores[labels == 1].double(), scores[labels == 0].double()
    if not len(anomalies) or not len(normals):
        return 0.5
    wins = (anomalies[:, None] > normals).double() + 0.5 * (anomalies[:, None] == normals).double()
    return float(wins.mean())


def auc_of_recordings(outputs: Tensor, split: Split) -> float:
    """AUC of the squared error averaged over all vectors of a recording, as the reference scores."""
    assert split.group is not None
    errors = (outputs - split.x).square().mean(1)
    count = int(split.group.max()) + 1
    sizes = torch.bincount(split.group, minlength=count)
    scores = torch.zeros(count).index_add_(0, split.group, errors) / sizes
    labels = torch.zeros(count, dtype=torch.int64).index_put_((split.group,), split.y)
    return area_under_curve(scores, labels)


TASK = Task(
    name="ad",
    title="anomaly detection",
    input_shape=(640,),
    figure_name="AUC",
    target=0.85,
    seed=build_seed,
    loss=loss,
    figure=auc_of_recordings,
    datasets={
        "synthetic": DataSet(
            generated_machines,
            Recipe(
                warmup=6, search=10, finetune=8, batch_size=512, lr=1e-3, arch_lr=6e-3, strength=10.0, norm_momentum=0.2
            ),
            "sounds of a generated machine with a slipping gear (embedded, synthetic)",
        ),
        "toycar": DataSet(
            toycar,
            Recipe(warmup=20, search=40, finetune=40, batch_size=512, lr=1e-3, arch_lr=1e-3, strength=10.0),
            "ToyADMOS ToyCar as DCASE 2020 cut it (downloads an archive)",
        ),
    },
)
