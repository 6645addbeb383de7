"""One-second recordings of words: generated ones (embedded) and the Free Spoken Digit Dataset."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmarks_mlperf_tiny.audio import keyword_features, resample_double
from benchmarks_mlperf_tiny.data.sources import DataOptions, stand_in
from benchmarks_mlperf_tiny.data.splits import Augment, Split, TaskData, make_split, stratified_parts

RATE = 16000  # Hz, and samples in a recording
SPLIT_SEED = 2024


def background_noise(x: Tensor, generator: torch.Generator, noise: Tensor | None = None) -> Tensor:
    """Move recordings by up to 0.1 s and, with probability 0.8, add noise of volume 0..0.1, as the reference does.

    Args:
        x: `(B, 16000)` int16 values as float.
        generator: of the draws.
        noise: recorded, `(samples,)` in -1..1; white noise where it is None.

    Returns:
        `(B, 16000)` in -1..1 before the noise.
    """
    x = x / x.abs().amax(1, keepdim=True).clamp(min=1.0)
    moves = torch.randint(-RATE // 10, RATE // 10 + 1, (len(x), 1), generator=generator)
    places = torch.arange(RATE) - moves
    inside = (places >= 0) & (places < RATE)
    x = torch.where(inside, x.gather(1, places.clamp(0, RATE - 1)), torch.zeros(()))
    volume = 0.1 * torch.rand(len(x), 1, generator=generator)
    volume = volume * (torch.rand(len(x), 1, generator=generator) < 0.8)
    if noise is None:
        return x + volume * torch.randn(x.shape, generator=generator)
    starts = torch.randint(0, max(1, len(noise) - RATE), (len(x), 1), generator=generator)
    return x + volume * noise[(starts + torch.arange(RATE)) % len(noise)]


def make_data(
    name: str, parts: list[Split], num_classes: int, synthetic: bool, augment: Augment = background_noise
) -> TaskData:
    """Recordings `(N, 16000)` int16 as a task's data."""
    train, val, test = parts
    return TaskData(name, train, val, test, num_classes, synthetic, augment, keyword_features)


def generated_word(rng: np.random.Generator, label: int) -> np.ndarray:
    """A word of two gliding tones with noise: `(16000,)` in -1..1.

    The label is `4 * gap + 2 * first rises + second rises`: three lengths of the pause, and direction of each glide.
    Pitch, onset, speed and loudness are random, and each tone covers the same range of pitches whether it rises or
    falls. So classes differ in the order of events only: no single time-frequency cell tells them apart.
    """
    gap, first, second = label // 4, label // 2 % 2, label % 2
    length = int(RATE * rng.uniform(0.16, 0.22))
    pause = int(RATE * (0.03, 0.12, 0.24)[gap])
    wave = np.zeros(RATE)
    start = rng.integers(0, RATE - 2 * length - pause)
    for rises, onset in ((first, start), (second, start + length + pause)):
        low = rng.uniform(300, 900)
        pitch = low * np.geomspace(1, 2.5, length)  # Hz
        phase = 2 * np.pi * np.cumsum(pitch if rises else pitch[::-1]) / RATE
        tone = np.sin(phase) + rng.uniform(0.2, 0.6) * np.sin(2 * phase)
        wave[onset : onset + length] = tone * np.hanning(length)
    wave += rng.uniform(0.02, 0.1) * rng.standard_normal(RATE)
    return wave / np.abs(wave).max()


def synthetic_words(options: DataOptions) -> TaskData:
    """1,800 generated words of 12 classes: 1,200 train, 240 val, 360 test."""
    rng = np.random.default_rng([options.seed, 12])
    y = np.arange(1800) % 12
    x = np.stack([(32767 * generated_word(rng, int(label))).astype(np.int16) for label in y])
    parts = [make_split(x, y, part) for part in stratified_parts(y, (2 / 3, 2 / 15, 1 / 5), SPLIT_SEED)]
    return make_data("synthetic", parts, 12, synthetic=True)


def place_in_second(wave: np.ndarray) -> np.ndarray:
    """A recording of any length in the middle of one second: `(16000,)`, its ends cut off or zeros around it."""
    out = np.zeros(RATE, wave.dtype)
    wave = wave[max(0, (len(wave) - RATE) // 2) :][:RATE]
    start = (RATE - len(wave)) // 2
    out[start : start + len(wave)] = wave
    return out


def spoken_digits(options: DataOptions) -> TaskData:
    """Spoken digits of six speakers, resampled from 8 to 16 kHz.

    The usual test split: takes 0 to 4 of every speaker and digit, 300 recordings. Takes 5 to 9 are the val split, the
    other 2,400 train.
    """
    with np.load(stand_in("fsdd_8k.npz", "fsdd", options)) as arrays:
        pcm, ends, y, take = arrays["pcm"], arrays["end"], arrays["y"], arrays["take"]
    starts = np.concatenate([[0], ends[:-1]])
    rows = []
    for start, end in zip(starts, ends, strict=True):
        wave = torch.from_numpy(pcm[start:end].astype(np.float32))[None]
        fast = resample_double(wave)[0].numpy().round().clip(-32768, 32767)
        rows.append(place_in_second(fast.astype(np.int16)))
    x = np.stack(rows)
    chosen = [np.flatnonzero(take >= 10), np.flatnonzero((take >= 5) & (take < 10)), np.flatnonzero(take < 5)]
    return make_data("fsdd", [make_split(x, y, index) for index in chosen], 10, synthetic=False)
