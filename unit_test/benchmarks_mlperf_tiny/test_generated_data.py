"""Generated data: seeded, balanced, and beyond what a linear model can do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from benchmarks_mlperf_tiny.audio import keyword_features
from benchmarks_mlperf_tiny.data.keywords import background_noise, generated_word, place_in_second, synthetic_words
from benchmarks_mlperf_tiny.data.machines import machine_sound, recordings
from benchmarks_mlperf_tiny.data.people import generated_scene, synthetic_figures
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.data.splits import Split
from benchmarks_mlperf_tiny.tasks import area_under_curve, auc_of_recordings


def linear_accuracy(train: torch.Tensor, y_train: torch.Tensor, test: torch.Tensor, y_test: torch.Tensor) -> float:
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    model = LogisticRegression(C=0.01, max_iter=2000)
    model.fit(((train - mean) / deviation).numpy(), y_train.numpy())
    return float(model.score(((test - mean) / deviation).numpy(), y_test.numpy()))


def test_words_defeat_a_linear_model() -> None:
    # DS-CNN reaches all of them: see the results table of the README.
    data = synthetic_words(DataOptions())
    assert data.synthetic
    assert torch.bincount(data.train.y).tolist() == [100] * 12
    train, test = (keyword_features(split.x.float()).flatten(1) for split in (data.train, data.test))
    assert linear_accuracy(train, data.train.y, test, data.test.y) < 0.5


def test_figures_defeat_a_linear_model() -> None:
    data = synthetic_figures(DataOptions())
    train, test = (
        torch.nn.functional.avg_pool2d(split.x.float(), 8).flatten(1) / 255 for split in (data.train, data.test)
    )
    assert linear_accuracy(train, data.train.y, test, data.test.y) < 0.7


def test_machines_defeat_a_linear_code() -> None:
    # A linear auto-encoder with the same code of 8 numbers, that is principal components.
    rng = np.random.default_rng(0)
    train = recordings(rng, np.zeros(60, bool)).x[::4]
    test = recordings(rng, np.arange(60) % 2 == 1)
    mean = train.mean(0)
    components = torch.linalg.eigh((train - mean).T @ (train - mean)).eigenvectors[:, -8:]
    rebuilt = (test.x - mean) @ components @ components.T + mean
    assert auc_of_recordings(rebuilt, test) < 0.8


@pytest.mark.parametrize("label", [0, 5, 11])
def test_words_are_seeded(label: int) -> None:
    first, second = (generated_word(np.random.default_rng(3), label) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.abs(first).max() == 1


def test_scenes_and_machines_are_seeded() -> None:
    for make in (generated_scene, machine_sound):
        first, second = (make(np.random.default_rng(3), True) for _ in range(2))
        assert np.array_equal(first, second)


def test_background_noise_follows_its_generator() -> None:
    x = torch.zeros(50, 16000)
    x[:, 8000] = 20000
    first = background_noise(x, torch.Generator().manual_seed(0))
    assert torch.equal(first, background_noise(x, torch.Generator().manual_seed(0)))
    quiet = (first.abs() > 1e-9).sum(1) == 1
    assert 3 <= int(quiet.sum()) <= 20, "about a fifth stays without noise"
    clicks = first[quiet].argmax(1)
    assert int(clicks.min()) >= 8000 - 1600
    assert int(clicks.max()) <= 8000 + 1600


@pytest.mark.parametrize("length", [1, 7999, 16000, 20001])
def test_recordings_of_any_length_fit_a_second(length: int) -> None:
    wave = place_in_second(np.ones(length, np.int16))
    assert wave.shape == (16000,)
    assert wave.sum() == min(length, 16000)


def test_area_under_curve_by_hand() -> None:
    # Pairs (anomaly, normal): (3, 1) wins, (3, 2) wins, (2, 1) wins, (2, 2) ties: 3.5 of 4.
    scores, labels = torch.tensor([1.0, 2.0, 3.0, 2.0]), torch.tensor([0, 0, 1, 1])
    assert area_under_curve(scores, labels) == 0.875
    assert area_under_curve(scores, torch.zeros(4, dtype=torch.int64)) == 0.5


def test_auc_averages_over_a_recording() -> None:
    # Errors 0, 4 | 3, 3 | 5, 5: means 2, 3, 5; recordings 1 and 2 are anomalies.
    x = torch.tensor([[0.0], [2.0], [3**0.5], [3**0.5], [5**0.5], [5**0.5]])
    split = Split(x, torch.tensor([0, 0, 1, 1, 1, 1]), torch.tensor([0, 0, 1, 1, 2, 2]))
    assert auc_of_recordings(torch.zeros(6, 1), split) == 1.0
