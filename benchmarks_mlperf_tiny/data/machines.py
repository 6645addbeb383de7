"""Sounds of a generated machine, healthy or broken: what a generated data set for anomaly detection must be like."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks_mlperf_tiny.audio import machine_features
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.data.splits import Split, TaskData

RATE = 16000  # Hz
SAMPLES = 250 * 512  # up to the last frame that is used
GEAR = 17.0  # teeth: mesh frequency over shaft frequency
SHAFT = (np.log(60.0), np.log(160.0))  # Hz


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
