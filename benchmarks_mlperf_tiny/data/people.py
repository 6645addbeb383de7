"""Pictures of 96x96 with or without a person: generated figures (embedded), the INRIA crops, Visual Wake Words."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from benchmarks_mlperf_tiny.augment import affine_jitter
from benchmarks_mlperf_tiny.data.archives import find_archive, naming, tar_files
from benchmarks_mlperf_tiny.data.cache import RemoteFile
from benchmarks_mlperf_tiny.data.images import decode_jpeg, decode_jpegs
from benchmarks_mlperf_tiny.data.sources import DataOptions, stand_in
from benchmarks_mlperf_tiny.data.splits import Split, TaskData, make_split, stratified_parts

SIDE = 96
SPLIT_SEED = 2024
# The publisher gives no SHA-256: the first download records it.
VWW = RemoteFile(
    "https://www.silabs.com/public/files/github/machine_learning/benchmarks/datasets/vww_coco2014_96.tar.gz",
    "vww_coco2014_96.tar.gz",
    sha256=None,
)
FOLDERS = {"non_person": 0, "person": 1}


def unit_pixels(x: Tensor) -> Tensor:
    """0..255 -> 0..1, as the reference does."""
    return x / 255


def make_data(name: str, parts: list[Split], synthetic: bool) -> TaskData:
    """Images `(N, 3, 96, 96)` uint8 as a task's data, with the reference's augmentation."""
    train, val, test = parts
    jitter = affine_jitter(degrees=10.0, shift=0.05, zoom=0.1, flip=True)
    return TaskData(name, train, val, test, 2, synthetic, jitter, unit_pixels)


def generated_scene(rng: np.random.Generator, person: bool) -> np.ndarray:
    """A picture `(3, 96, 96)` uint8 of a head and a body on clutter.

    A person has the head above the body and touching it; in a look-alike the same two parts stand beside each other
    or upside down. One part is bright and one dark, either way round, which hides the difference from a linear model.
    Place, size, shades and clutter are random.
    """
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    picture = rng.uniform(100, 155, (3, 1, 1)) + rng.uniform(-40, 40, (3, 1, 1)) * (rows / SIDE - 0.5)
    for _ in range(2):  # clutter: rectangles
        top, left = rng.integers(0, SIDE - 10, 2)
        height, width = rng.integers(6, 24, 2)
        picture[:, top : top + height, left : left + width] = rng.uniform(60, 195, (3, 1, 1))
    radius = rng.uniform(8, 12)
    height, width = 3.2 * radius, 1.9 * radius
    total = height + 2 * radius
    top = rng.uniform(2, SIDE - total - 2)
    middle = rng.uniform(24, SIDE - 24)
    if person:
        head, body = (top + radius, middle), (top + 2 * radius + height / 2, middle)
    elif rng.random() < 0.5:  # upside down
        head, body = (top + height + radius, middle), (top + height / 2, middle)
    else:  # side by side
        side = rng.choice([-1, 1]) * (radius + width / 2 + 1)
        head, body = (top + total / 2, middle + side), (top + total / 2, middle)
    shapes = (
        (rows - head[0]) ** 2 + (columns - head[1]) ** 2 < radius**2,
        (abs(rows - body[0]) < height / 2) & (abs(columns - body[1]) < width / 2),
    )
    shades = rng.permutation([[190, 255], [0, 65]])
    for shape, (darkest, brightest) in zip(shapes, shades, strict=True):
        picture = np.where(shape, rng.uniform(darkest, brightest, (3, 1, 1)), picture)
    picture += rng.normal(0, 12, picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


def synthetic_figures(options: DataOptions) -> TaskData:
    """1,600 generated pictures, half with a person: 1,120 train, 160 val, 320 test."""
    rng = np.random.default_rng([options.seed, 96])
    y = np.arange(1600) % 2
    x = np.stack([generated_scene(rng, bool(label)) for label in y])
    parts = [make_split(x, y, part) for part in stratified_parts(y, (0.7, 0.1, 0.2), SPLIT_SEED)]
    return make_data("synthetic", parts, synthetic=True)


def person_crops(options: DataOptions) -> TaskData:
    """Real crops of 64x128, squeezed to 96x96; 70 % train, 10 % val, 20 % test.

    Mirror pairs have one source, and a source lies in one split.
    """
    with np.load(stand_in("person_64x128_jpeg.npz", "person", options)) as arrays:
        files, ends, y, source = (arrays[key] for key in ("jpeg", "end", "y", "source"))
    x = decode_jpegs(files, ends, SIDE)
    sources, first = np.unique(source, return_index=True)
    chosen = stratified_parts(y[first], (0.7, 0.1, 0.2), SPLIT_SEED)
    parts = [make_split(x, y, np.flatnonzero(np.isin(source, sources[part]))) for part in chosen]
    return make_data("person", parts, synthetic=False)


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
                x[place] = torch.tensor(decode_jpeg(files.pop(names[index]), SIDE))
            splits.append(Split(x, torch.tensor(y[part])))
    return splits


def visual_wake_words(options: DataOptions) -> TaskData:
    """Visual Wake Words, 109,619 pictures; needs 3 GB of memory for the pixels and 0.5 GB while it reads.

    Raises:
        DataError: no network, or a damaged archive.
    """
    return make_data("visual_wake_words", read_archive(find_archive(VWW, options)), synthetic=False)
