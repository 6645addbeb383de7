"""Exact integer convolutions by Fermat number transforms against the direct sum: the source's five layer shapes.

    python examples/lowbit_fermat.py

Multiplications, additions and shifts in millions, and the ratio of all operations, a modular one as two, with kernels that are
stored transformed and for a batch of 128 whose kernels are transformed once; beside them the source's own times. What is
computed is compared bit for bit on a part of the channels. Seconds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from examples.lowbit_digits import print_table
from nasopt.cost.fermat import direct_ops, transform_ops
from nasopt.graph.layer_shape import LayerShape
from nasopt.nn.fermat import fermat_conv2d

# Kernel, transform length, input and output channels; seconds of the source, int8: direct, by transforms
LAYERS = (
    (11, 32, 3, 96, 1.95, 2.33),
    (7, 32, 96, 256, 109.65, 45.34),
    (5, 16, 256, 384, 72.67, 40.82),
    (5, 16, 384, 384, 109.60, 60.32),
    (3, 16, 384, 384, 94.07, 60.16),
)


def is_equal(kernel: int, length: int, channels: int) -> bool:
    """Bit for bit, random int8, up to eight channels."""
    rng, count = np.random.default_rng(0), min(channels, 8)
    size = length - kernel + 1
    x = rng.integers(-128, 128, (1, count, size, size))
    w = rng.integers(-128, 128, (2, count, kernel, kernel))
    wanted = F.conv2d(torch.from_numpy(x).double(), torch.from_numpy(w).double(), padding=kernel // 2)
    return bool(np.array_equal(fermat_conv2d(x, w, padding=kernel // 2), wanted.long().numpy()))


def main() -> None:
    """Command line."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    rows = []
    for kernel, length, inputs, outputs, direct_s, transform_s in LAYERS:
        size = length - kernel + 1
        shape = LayerShape("conv", inputs, outputs, (kernel, kernel), size * size, (size, size), (1, 1))
        direct, ready = direct_ops(shape), transform_ops(shape)
        fresh = transform_ops(shape, weights_ready=False)
        batch = ready.plain + (fresh.plain - ready.plain) / 128
        rows.append(
            [
                f"{kernel}x{kernel}, {inputs} -> {outputs}, {size}x{size}",
                f"{direct.multiplications / 1e6:,.1f}",
                *(f"{count / 1e6:,.1f}" for count in (ready.multiplications, ready.additions, ready.shifts)),
                f"{direct.plain / ready.plain:.2f}",
                f"{direct.plain / batch:.2f}",
                f"{direct_s / transform_s:.2f}",
                "equal" if is_equal(kernel, length, inputs) else "DIFFERENT",
            ]
        )
    counts = ["direct: products = additions", "transform: products", "additions", "shifts"]
    head = ["layer", *counts, "operations, ratio", "batch of 128", "source, time", "results"]
    print_table(head, rows)


if __name__ == "__main__":
    main()
