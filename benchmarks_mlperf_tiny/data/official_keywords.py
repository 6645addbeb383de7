"""The 1,000 official MLPerf Tiny keyword features: an evaluation set for networks trained elsewhere."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks_mlperf_tiny.data.sources import DataOptions, stand_in
from benchmarks_mlperf_tiny.data.splits import Split

CLASSES = ("Down", "Go", "Left", "No", "Off", "On", "Right", "Stop", "Up", "Yes", "Silence", "Unknown")


def official_keywords(options: DataOptions) -> Split:
    """MFCC features `(1000, 1, 49, 10)` with labels in the order of `CLASSES`.

    The file holds what a microcontroller is given, int8; the real value is `(x - zero_point) * scale`.

    Raises:
        DataError: the file is nowhere.
    """
    with np.load(stand_in("kws01_eval_int8.npz", "kws01", options)) as arrays:
        x = (arrays["x"].astype(np.float32) - np.float32(arrays["zero_point"])) * np.float32(arrays["scale"])
        y = arrays["y"].astype(np.int64)
    return Split(torch.tensor(x).permute(0, 3, 1, 2).contiguous(), torch.tensor(y))
