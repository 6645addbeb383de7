"""Speech Commands v2: the 12 classes of the MLPerf Tiny keyword task, its official test set and its 1,000 features."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from benchmarks_mlperf_tiny.data.archives import decode_wav, find_archive, naming, tar_files
from benchmarks_mlperf_tiny.data.cache import RemoteFile
from benchmarks_mlperf_tiny.data.keywords import RATE, background_noise, make_data, place_in_second
from benchmarks_mlperf_tiny.data.sources import DataOptions, stand_in
from benchmarks_mlperf_tiny.data.splits import Split, TaskData, make_split
from benchmarks_mlperf_tiny.errors import DataError

CLASSES = ("Down", "Go", "Left", "No", "Off", "On", "Right", "Stop", "Up", "Yes", "Silence", "Unknown")
HOME = "http://download.tensorflow.org/data/"
RECORDINGS = RemoteFile(
    HOME + "speech_commands_v0.02.tar.gz",
    "speech_commands_v0.02.tar.gz",
    "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
)
TEST_SET = RemoteFile(
    HOME + "speech_commands_test_set_v0.02.tar.gz",
    "speech_commands_test_set_v0.02.tar.gz",
    "cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df",
)
NOISE = "_background_noise_"
SILENCE, UNKNOWN = CLASSES.index("Silence"), CLASSES.index("Unknown")
LABELS = {word.lower(): label for label, word in enumerate(CLASSES)} | {"_silence_": SILENCE, "_unknown_": UNKNOWN}
UNKNOWN_SHARE = 0.057  # of the 67,283 recordings of other words: about as many as of each keyword


def is_kept(name: str, share: float) -> bool:
    """Whether a recording of another word is among those used: a fixed choice by the name's hash."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") < share * 2**32


def read_recordings(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, set[str]]]:
    """What the main archive holds.

    Returns:
        Recordings `(16000,)` int16 by `word/file.wav`; noises `(samples,)` by name; the names in the two lists,
        `"validation"` and `"testing"`.

    Raises:
        DataError: the archive is damaged, or lacks a list, the noises or a word.
    """
    words: dict[str, np.ndarray] = {}
    noises: dict[str, np.ndarray] = {}
    lists: dict[str, set[str]] = {}
    with naming(path, "Speech Commands"):
        for name, content in tar_files(path):
            folder, file = PurePosixPath(name).parts[-2:] if "/" in name else ("", name)
            if file in ("validation_list.txt", "testing_list.txt"):
                lists[file.removesuffix("_list.txt")] = set(content.decode("ascii").split())
            elif not file.endswith(".wav"):
                continue
            elif folder == NOISE:
                noises[file] = decode_wav(content, RATE)
            elif folder in LABELS or is_kept(f"{folder}/{file}", UNKNOWN_SHARE):
                words[f"{folder}/{file}"] = place_in_second(decode_wav(content, RATE))
        missing = {"validation", "testing"} - lists.keys() or ({NOISE} if not noises else set())
        missing = missing or {word.lower() for word in CLASSES[:10]} - {name.split("/")[0] for name in words}
        if missing:
            raise ValueError(f"{', '.join(sorted(missing))} missing")
    return words, noises, lists


def silences(noises: list[np.ndarray], count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Seconds of noise at random places, of random loudness: `(16000,)` int16 each."""
    out = []
    for _ in range(count):
        noise = noises[rng.integers(len(noises))]
        start = rng.integers(max(1, len(noise) - RATE))
        out.append((rng.uniform(0, 1) * place_in_second(noise[start : start + RATE])).astype(np.int16))
    return out


def read_test_set(path: Path) -> Split:
    """The official test set: 4,890 recordings of the 12 classes.

    Raises:
        DataError: the archive is damaged, or holds something else.
    """
    waves, labels = [], []
    with naming(path, "Speech Commands test set"):
        for name, content in tar_files(path):
            parts = PurePosixPath(name).parts
            if name.endswith(".wav"):
                labels.append(LABELS[parts[-2]])
                waves.append(place_in_second(decode_wav(content, RATE)))
        return make_split(np.stack(waves), np.array(labels))


def speech_commands(options: DataOptions) -> TaskData:
    """Speech Commands v2: about 37,000 train and 4,500 val recordings of the 12 classes, and the official test set.

    Train and val are cut by the archive's lists. Of the other words a fixed twentieth is used, and silence is made of
    the background noises, both about as often as a keyword. The noises are also the augmentation's. The label order
    is that of the official features, so that `evaluate` accepts the networks. Reading takes about 1.5 GB of memory.

    Raises:
        DataError: no network, or a damaged archive.
    """
    words, noises, lists = read_recordings(find_archive(RECORDINGS, options))
    test = read_test_set(find_archive(TEST_SET, options))
    tail = sorted(noises)[-1:] if len(noises) > 1 else []  # one noise for val alone, as the data set's authors do
    splits = []
    for place, split in enumerate(("train", "val")):
        names = sorted(
            name for name in words if name not in lists["testing"] and (name in lists["validation"]) == place
        )
        labels = [LABELS.get(name.split("/")[0], UNKNOWN) for name in names]
        common = sorted(Counter(labels).values())[len(set(labels)) // 2] if labels else 0
        heard = [noises[name] for name in sorted(noises) if not tail or (name in tail) == place]
        waves = [words[name] for name in names] + silences(heard, common, np.random.default_rng([2024, place]))
        if not labels:
            raise DataError(f"the Speech Commands archive has no recordings for {split}: get {RECORDINGS.name} again")
        splits.append(make_split(np.stack(waves), np.array(labels + [SILENCE] * common)))
    noise = torch.from_numpy(
        np.concatenate([noises[name] for name in sorted(noises) if name not in tail]) / 32768
    ).float()
    augment = partial(background_noise, noise=noise)
    return make_data("speech_commands", [*splits, test], len(CLASSES), synthetic=False, augment=augment)


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
