"""Splits, augmentation and the embedded digits."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks_mlperf_tiny.augment import affine_jitter
from benchmarks_mlperf_tiny.data import images
from benchmarks_mlperf_tiny.data.images import CIFAR10, digits, find_cifar10
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.data.splits import make_split, stratified_parts
from benchmarks_mlperf_tiny.errors import BenchmarkError, DataError
from benchmarks_mlperf_tiny.tasks import get_task


def test_stratified_parts_are_disjoint_complete_and_even() -> None:
    y = np.repeat([0, 1, 2], [100, 50, 10])
    parts = stratified_parts(y, (0.7, 0.1, 0.2))
    assert sorted(np.concatenate(parts)) == list(range(160))
    assert [np.bincount(y[part]).tolist() for part in parts] == [[70, 35, 7], [10, 5, 1], [20, 10, 2]]
    again = stratified_parts(y, (0.7, 0.1, 0.2))
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_shuffled_covers_whole_batches_once() -> None:
    split = make_split(np.arange(10.0), np.arange(10))
    seen = torch.cat([y for _, y in split.shuffled(3, torch.Generator().manual_seed(0))])
    assert len(seen) == 9
    assert len(seen.unique()) == 9
    assert split.steps(3) == 3
    assert split.steps(100) == 1
    assert sum(len(y) for _, y in split.shuffled(100, torch.Generator())) == 10


def test_digits_are_the_fixed_split() -> None:
    data = digits(DataOptions())
    assert [len(split) for split in (data.train, data.val, data.test)] == [1258, 180, 359]
    assert data.train.x.shape[1:] == (3, 32, 32)
    assert data.train.x.dtype == torch.uint8
    assert int(data.train.x.max()) == 255
    assert not data.synthetic
    counts = torch.bincount(data.test.y)
    assert int(counts.max() - counts.min()) <= 2


def test_no_jitter_is_identity() -> None:
    x = torch.rand(4, 3, 8, 8)
    assert torch.allclose(affine_jitter()(x, torch.Generator()), x, atol=1e-5)


def test_jitter_follows_its_generator() -> None:
    x = torch.rand(4, 3, 8, 8)
    jitter = affine_jitter(15.0, 0.1, 0.1, flip=True)
    first = jitter(x, torch.Generator().manual_seed(1))
    assert torch.equal(first, jitter(x, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, jitter(x, torch.Generator().manual_seed(2)))


def test_flip_mirrors_about_half() -> None:
    x = torch.arange(4.0).expand(200, 1, 4, 4).contiguous()
    y = affine_jitter(flip=True)(x, torch.Generator().manual_seed(0))
    mirrored = (y[:, 0, 0, 0] > 2.5).sum()
    assert 70 < int(mirrored) < 130
    assert torch.allclose(y.sort(dim=-1).values, x, atol=1e-5)


def test_missing_data_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NASOPT_DATA", raising=False)
    with pytest.raises(DataError, match=r"fsdd_8k\.npz was not found.*Set NASOPT_DATA"):
        get_task("kws").dataset("fsdd").load(DataOptions())


def write_archive(path: Path, names: list[str], records: int = 2) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for place, name in enumerate(names):
            content = np.full((records, 3073), place, np.uint8).tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


NAMES = [*(f"data_batch_{index}.bin" for index in range(1, 6)), "test_batch.bin", "readme.html"]


def test_cifar10_archive(tmp_path: Path) -> None:
    path = tmp_path / CIFAR10.name
    write_archive(path, NAMES)
    x_train, y_train, x_test, y_test = find_cifar10(DataOptions(data_dir=tmp_path))
    assert x_train.shape == (10, 3, 32, 32)
    assert y_train.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert x_test.shape == (2, 3, 32, 32)
    assert y_test.tolist() == [5, 5]


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    path = tmp_path / CIFAR10.name
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match="no usable CIFAR-10 archive"):
        find_cifar10(DataOptions(data_dir=tmp_path))
    write_archive(path, NAMES[:3])
    with pytest.raises(DataError, match=r"data_batch_4\.bin"):
        find_cifar10(DataOptions(data_dir=tmp_path))


def test_no_network_and_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NASOPT_DATA", raising=False)
    monkeypatch.setenv("NASOPT_CACHE", str(tmp_path))
    monkeypatch.setattr(images, "CIFAR10", dataclasses.replace(CIFAR10, url="http://127.0.0.1:9/none"))
    with pytest.raises(DataError, match=r"could not be downloaded.*Without a network"):
        get_task("ic").dataset("cifar10").load(DataOptions())


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(BenchmarkError, match="known are ic"):
        get_task("icc")
    with pytest.raises(BenchmarkError, match="Did you mean 'cifar10'"):
        get_task("ic").dataset("cifar")
