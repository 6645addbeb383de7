"""ToyADMOS as DCASE 2020 cut it: toy cars, healthy and broken."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import torch

from benchmarks_mlperf_tiny.audio import machine_features
from benchmarks_mlperf_tiny.data.archives import decode_wav, find_archive, naming
from benchmarks_mlperf_tiny.data.cache import RemoteFile
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.data.splits import Split, TaskData, stratified_parts

RATE = 16000  # Hz
SPLIT_SEED = 2024
# The publisher gives no SHA-256: the first download records it.
TOYCAR = RemoteFile(
    "https://zenodo.org/record/3678171/files/dev_data_ToyCar.zip?download=1", "dev_data_ToyCar.zip", sha256=None
)
NAME = re.compile(r"(?:.*/)?(train|test)/(normal|anomaly)_(id_\d+)_\d+\.wav")


def read_split(archive: zipfile.ZipFile, names: list[str]) -> Split:
    """Vectors `(196 N, 640)` of N recordings, each recording one group."""
    vectors: torch.Tensor | None = None
    for place, name in enumerate(names):
        samples = torch.from_numpy(decode_wav(archive.read(name), RATE).astype(np.float32) / 32768)
        features = machine_features(samples[None])[0]  # (196, 640)
        if vectors is None:  # filled in place: the train split alone takes 2 GB
            vectors = torch.empty(len(names), *features.shape)
        vectors[place] = features
    if vectors is None:
        raise ValueError("a split has no recordings")
    broken = torch.tensor(["/anomaly_" in f"/{name.rpartition('/')[2]}" for name in names]).long()
    group = torch.arange(len(names)).repeat_interleave(vectors.shape[1])
    return Split(vectors.flatten(0, 1), broken[group], group)


def read_archive(path: Path) -> tuple[Split, Split, Split]:
    """Train: all healthy recordings of the `train` folder; a quarter of `test` is val, by machine and condition.

    Raises:
        DataError: the archive is damaged, or holds something else.
    """
    with naming(path, "ToyCar"), zipfile.ZipFile(path) as archive:
        found = {name: match for name in sorted(archive.namelist()) if (match := NAME.fullmatch(name))}
        test = [name for name, match in found.items() if match[1] == "test"]
        kinds = np.array([f"{found[name][2]} {found[name][3]}" for name in test])
        val, rest = (
            sorted(test[index] for index in part) for part in stratified_parts(kinds, (0.25, 0.75), SPLIT_SEED)
        )
        train = [name for name, match in found.items() if match[1] == "train"]
        return read_split(archive, train), read_split(archive, val), read_split(archive, rest)


def toycar(options: DataOptions) -> TaskData:
    """ToyCar: 4,000 healthy recordings to train on, four machines; the AUC is taken over all machines together.

    Raises:
        DataError: no network, or a damaged archive.
    """
    train, val, test = read_archive(find_archive(TOYCAR, options))
    return TaskData("toycar", train, val, test, 640)
