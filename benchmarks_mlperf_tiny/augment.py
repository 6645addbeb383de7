"""Random variation of training images, drawn from a given generator so that a resumed run repeats it exactly."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks_mlperf_tiny.data.splits import Augment


def affine_jitter(degrees: float = 0.0, shift: float = 0.0, zoom: float = 0.0, flip: bool = False) -> Augment:
    """An augmentation that rotates, moves, scales and mirrors every image of a batch on its own.

    Args:
        degrees: largest rotation to either side.
        shift: largest move along each axis, as a fraction of the image.
        zoom: largest change of scale: factors lie in `1 - zoom .. 1 + zoom`.
        flip: mirror half of the images left to right.

    Returns:
        A function of a batch `(B, C, H, W)` and a generator. Pixels from outside repeat the border.
    """

    def augment(x: Tensor, generator: torch.Generator) -> Tensor:
        def draw(limit: float) -> Tensor:
            return (2 * torch.rand(len(x), generator=generator) - 1) * limit

        angle, dx, dy = draw(degrees * math.pi / 180), draw(2 * shift), draw(2 * shift)
        scale = 1 + draw(zoom)
        mirror = torch.ones(len(x))
        if flip:
            mirror = 1.0 - 2.0 * (torch.rand(len(x), generator=generator) < 0.5)
        cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
        theta = torch.stack([torch.stack([mirror * cos, -sin, dx], 1), torch.stack([mirror * sin, cos, dy], 1)], 1)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)

    return augment
