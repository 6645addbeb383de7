"""Images for classification: scikit-learn's digits (embedded) and CIFAR-10."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks_mlperf_tiny.augment import affine_jitter
from benchmarks_mlperf_tiny.data.archives import naming, tar_files
from benchmarks_mlperf_tiny.data.cache import RemoteFile, fetch
from benchmarks_mlperf_tiny.data.sources import DataOptions, has_stand_in, stand_in
from benchmarks_mlperf_tiny.data.splits import TaskData, make_split, stratified_parts

SPLIT_SEED = 2024
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # train images and labels, test images and labels
CIFAR10 = RemoteFile(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)


def digits(_options: DataOptions) -> TaskData:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey scaled to 3x32x32 in 0..255.

    A fixed stratified split: 70 % train, 10 % val, 20 % test. Real images, no download.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = torch.from_numpy(bunch.images.astype(np.float32))[:, None] * (255 / 16)  # (N, 1, 8, 8)
    x = F.interpolate(grey, size=(32, 32), mode="bilinear", align_corners=False)
    images = x.round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1).numpy()
    parts = stratified_parts(bunch.target, (0.7, 0.1, 0.2), SPLIT_SEED)
    train, val, test = (make_split(images, bunch.target, part) for part in parts)
    return TaskData("digits", train, val, test, 10, augment=affine_jitter(degrees=10.0, shift=0.05))


def decode_jpeg(content: bytes, side: int) -> np.ndarray:
    """A JPEG file as `(3, side, side)` uint8, scaled where it has another size."""
    from PIL import Image

    image = Image.open(io.BytesIO(content)).convert("RGB")
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def decode_jpegs(files: np.ndarray, ends: np.ndarray, side: int) -> np.ndarray:
    """Decode concatenated JPEG files.

    Args:
        files: bytes of all files, `(total,)` uint8.
        ends: offset after each file, `(N,)`.
        side: of the pictures [pixels].

    Returns:
        `(N, 3, side, side)` uint8.
    """
    starts = np.concatenate([[0], ends[:-1]])
    return np.stack([decode_jpeg(files[a:b].tobytes(), side) for a, b in zip(starts, ends, strict=True)])


def cifar10_jpeg(path: Path) -> Arrays:
    """CIFAR-10 after JPEG compression: a stand-in, to compare methods with each other, not with published figures."""
    with np.load(path) as arrays:
        x_train = decode_jpegs(arrays["train_jpeg"], arrays["train_end"], 32)
        x_test = decode_jpegs(arrays["test_jpeg"], arrays["test_end"], 32)
        return x_train, arrays["train_y"], x_test, arrays["test_y"]


def cifar10_archive(path: Path) -> Arrays:
    """CIFAR-10 as its authors publish it, the binary version.

    Raises:
        DataError: the archive is damaged or holds something else.
    """
    with naming(path, "CIFAR-10"):
        files = {Path(name).name: content for name, content in tar_files(path) if name.endswith(".bin")}
        parts = [[f"data_batch_{index}.bin" for index in range(1, 6)], ["test_batch.bin"]]
        train, test = (
            np.concatenate([np.frombuffer(files[name], np.uint8).reshape(-1, 3073) for name in names])
            for names in parts
        )
    shape = (-1, 3, 32, 32)
    return train[:, 1:].reshape(shape), train[:, 0], test[:, 1:].reshape(shape), test[:, 0]


def cifar10_subset(options: DataOptions) -> TaskData:
    """The part of CIFAR-10 in `cifar10_lossless_subset.npz`, not compressed: 3,600 train, 400 val, 1,452 test images."""
    with np.load(stand_in("cifar10_lossless_subset.npz", "cifar10_subset", options)) as arrays:
        x_train, x_test = (arrays[key].transpose(0, 3, 1, 2) for key in ("x_train", "x_test"))
        y_train, y_test = arrays["y_train"], arrays["y_test"]
    train, val = stratified_parts(y_train, (0.9, 0.1), SPLIT_SEED)
    return TaskData(
        "cifar10_subset",
        make_split(x_train, y_train, train),
        make_split(x_train, y_train, val),
        make_split(x_test, y_test),
        num_classes=10,
        augment=affine_jitter(degrees=10.0, shift=0.1, flip=True),
    )


def find_cifar10(options: DataOptions) -> Arrays:
    """CIFAR-10 from `--data-dir`, else the stand-in of NASOPT_DATA, else the cache, else the internet.

    Raises:
        DataError: none of them has it.
    """
    name = "cifar10_jpeg.npz"
    folder = options.data_dir
    if folder is not None and (folder / CIFAR10.name).is_file():
        return cifar10_archive(folder / CIFAR10.name)
    if folder is not None or has_stand_in(name):
        return cifar10_jpeg(stand_in(name, "cifar10", options))
    return cifar10_archive(fetch(CIFAR10))


def cifar10(options: DataOptions) -> TaskData:
    """CIFAR-10, 45,000 train, 5,000 val, 10,000 test images of 3x32x32 in 0..255."""
    return _cifar10("cifar10", options, (0.9, 0.1))


def cifar10_12k(options: DataOptions) -> TaskData:
    """A part of CIFAR-10 that one core can search on: 12,000 train, 2,000 val, all 10,000 test images."""
    return _cifar10("cifar10_12k", options, (0.24, 0.04, 0.72))


def _cifar10(name: str, options: DataOptions, shares: tuple[float, ...]) -> TaskData:
    """CIFAR-10 whose training images are divided in these shares: train, val, and what is left out."""
    x_train, y_train, x_test, y_test = find_cifar10(options)
    train, val, *_ = stratified_parts(y_train, shares, SPLIT_SEED)
    return TaskData(
        name,
        make_split(x_train, y_train, train),
        make_split(x_train, y_train, val),
        make_split(x_test, y_test),
        num_classes=10,
        augment=affine_jitter(degrees=15.0, shift=0.1, flip=True),
    )
