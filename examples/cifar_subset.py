"""A subset of CIFAR-10 as tensors, read from the folder that `NASOPT_DATA` names."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

FILE = "cifar10_jpeg.npz"


def load_subset(part: str, count: int) -> tuple[Tensor, Tensor]:
    """`count` images, every class equally often, in a fixed random order: (count, 3, 32, 32) normalised, labels (count,).

    Args:
        part: `"train"` or `"test"`.
        count: of images.

    Raises:
        FileNotFoundError: the file is not there.
    """
    path = Path(os.environ.get("NASOPT_DATA", "")) / FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: set NASOPT_DATA to the folder that holds {FILE}")
    with np.load(path) as data:
        bytes_, ends, labels = data[f"{part}_jpeg"], data[f"{part}_end"], data[f"{part}_y"]
    generator = np.random.default_rng(0)
    per_class = count // 10
    chosen = np.concatenate([generator.permutation(np.flatnonzero(labels == c))[:per_class] for c in range(10)])
    generator.shuffle(chosen)
    starts = np.concatenate([[0], ends[:-1]])
    images = [np.asarray(Image.open(io.BytesIO(bytes_[starts[i] : ends[i]].tobytes()))) for i in chosen]
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().float() / 255
    return (x - 0.47) / 0.25, torch.from_numpy(labels[chosen].astype(np.int64))


def batches(x: Tensor, y: Tensor, size: int, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Shuffled batches, half of the images flipped; the last incomplete batch is left out."""
    order = torch.randperm(len(x), generator=generator)
    flip = torch.rand(len(x), generator=generator) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(3), x)
    return [(x[i], y[i]) for i in order.split(size) if len(i) == size]
