"""Visual Wake Words: pictures of COCO 2014 at 96x96, with or without a person, as MLPerf Tiny hands them out."""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from benchmarks_mlperf_tiny.data.archives import find_archive, naming, tar_files
from benchmarks_mlperf_tiny.data.cache import RemoteFile
from benchmarks_mlperf_tiny.data.people import SIDE, make_data
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.data.splits import Split, TaskData, stratified_parts

SPLIT_SEED = 2024
# The publisher gives no SHA-256: the first download records it.
VWW = RemoteFile(
    "https://www.silabs.com/public/files/github/machine_learning/benchmarks/datasets/vww_coco2014_96.tar.gz",
    "vww_coco2014_96.tar.gz",
    sha256=None,
)
FOLDERS = {"non_person": 0, "person": 1}


def decode(content: bytes) -> np.ndarray:
    """A JPEG file as `(3, 96, 96)` uint8."""
    from PIL import Image

    image = Image.open(io.BytesIO(content)).convert("RGB")
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def read_archive(path: Path) -> list[Split]:
    """80 % train, 10 % val, 10 % test, the classes in equal shares.

    Raises:
        DataError: the archive is damaged, or holds something else.
    """
    files: dict[str, bytes] = {}
    with naming(path, "Visual Wake Words"):
        for name, content in tar_files(path):
            folder = PurePosixPath(name).parts[-2:-1]
            if folder and folder[0] in FOLDERS and name.lower().endswith((".jpg", ".jpeg")):
                files[name] = content
        names = sorted(files)
        y = np.array([FOLDERS[PurePosixPath(name).parts[-2]] for name in names])
        if len(np.unique(y)) < 2:
            raise ValueError("no folders person and non_person with pictures")
        splits = []
        for part in stratified_parts(y, (0.8, 0.1, 0.1), SPLIT_SEED):
            x = torch.empty(len(part), 3, SIDE, SIDE, dtype=torch.uint8)  # filled in place: all pictures are 3 GB
            for place, index in enumerate(part):
                x[place] = torch.tensor(decode(files.pop(names[index])))
            splits.append(Split(x, torch.tensor(y[part])))
    return splits


def visual_wake_words(options: DataOptions) -> TaskData:
    """Visual Wake Words, 109,619 pictures; needs 3 GB of memory for the pixels and 0.5 GB while it reads.

    Raises:
        DataError: no network, or a damaged archive.
    """
    return make_data("visual_wake_words", read_archive(find_archive(VWW, options)), synthetic=False)
