"""Sounds of machines, healthy or broken: a generated one (embedded) and ToyADMOS toy cars as DCASE 2020 cut them."""

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
SAMPLES = 250 * 512  # up to the last frame that is used
GEAR = 17.0  # teeth: mesh frequency over shaft frequency
SHAFT = (np.log(60.0), np.log(160.0))  # Hz
SPLIT_SEED = 2024
# The publisher gives no SHA-256: the first download records it.
TOYCAR = RemoteFile(
    "https://zenodo.org/record/3678171/files/dev_data_ToyCar.zip?download=1", "dev_data_ToyCar.zip", sha256=None
)
NAME = re.compile(r"(?:.*/)?(train|test)/(normal|anomaly)_(id_\d+)_\d+\.wav")


def swinging_time(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Time [s] by the clock of a motor whose speed swings slowly by up to 10 %."""
    pace = 2 * np.pi * rng.uniform(0.1, 0.3)  # rad/s
    swing = np.sin(np.float32(pace) * time + np.float32(rng.uniform(0, 6)))
    return time + np.float32(rng.uniform(0, 0.1) / pace) * swing


def machine_sound(rng: np.random.Generator, broken: bool) -> np.ndarray:
    """One recording `(samples,)` float32 of shaft, gear, pump and fan at speeds of its own.

    In a healthy machine the gear's whine is bound to the shaft: 17 times its speed. In a broken one the gear runs at
    the speed of some other shaft (a slipping coupling). Shaft and whine have the same distribution in both, each on
    its own; only their relation differs. Pump and fan turn independently.
    """
    time = np.arange(SAMPLES, dtype=np.float32) / RATE
    main, fan, pump = (swinging_time(rng, time) for _ in range(3))
    shaft = gear = rng.uniform(*SHAFT)
    while broken and abs(gear - shaft) < 0.12:
        gear = rng.uniform(*SHAFT)

    def tone(hertz: float, phase: float = 0.0, clock: np.ndarray = main) -> np.ndarray:
        return np.cos(np.float32(2 * np.pi * hertz) * clock + np.float32(phase))

    sound = np.zeros(SAMPLES, np.float32)
    for harmonic in range(1, 7):
        sound += tone(harmonic * np.exp(shaft), rng.uniform(0, 6)) / harmonic
    sound += 0.3 * (1 + 0.3 * tone(np.exp(shaft))) * tone(GEAR * np.exp(gear))
    sound += tone(np.exp(rng.uniform(np.log(3000), np.log(7000))), clock=fan)
    sound += tone(np.exp(rng.uniform(np.log(300), np.log(900))), clock=pump)
    sound /= np.sqrt(np.mean(sound**2))
    sound += 0.3 * rng.standard_normal(SAMPLES, dtype=np.float32)
    return np.float32(rng.uniform(0.5, 1.0)) * sound


def recordings(rng: np.random.Generator, broken: np.ndarray) -> Split:
    """A split of recordings, 196 vectors of 640 each.

    Args:
        rng: of everything random.
        broken: which recordings are anomalies, `(N,)`.
    """
    vectors = []
    for label in broken:
        wave = torch.from_numpy(machine_sound(rng, bool(label)))[None]
        vectors.append(machine_features(wave)[0])  # (196, 640)
    count = len(vectors[0])
    y = torch.from_numpy(broken.astype(np.int64)).repeat_interleave(count)
    group = torch.arange(len(broken)).repeat_interleave(count)
    return Split(torch.cat(vectors), y, group)


def generated_machines(options: DataOptions) -> TaskData:
    """300 healthy recordings for training; val 30 healthy and 30 broken; test 60 and 60."""
    rng = np.random.default_rng([options.seed, 640])
    train = recordings(rng, np.zeros(300, bool))
    val, test = (recordings(rng, np.arange(count) % 2 == 1) for count in (60, 120))
    return TaskData("synthetic", train, val, test, 640, synthetic=True)


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
