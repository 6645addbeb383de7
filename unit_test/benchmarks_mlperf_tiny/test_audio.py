"""Audio features against values derived by hand and against published examples."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks_mlperf_tiny import audio


def tone(hertz: float, samples: int = 16000, rate: int = 16000) -> torch.Tensor:
    return torch.cos(2 * math.pi * hertz / rate * torch.arange(samples, dtype=torch.float64))[None]


def test_htk_scale() -> None:
    # 2595 log10(1 + 1000 / 700) = 2595 * 0.385351... = 999.9855
    assert float(audio.hertz_to_mel(torch.tensor(1000.0, dtype=torch.float64), "htk")) == pytest.approx(
        999.9855, abs=1e-3
    )
    assert float(audio.hertz_to_mel(torch.tensor(0.0), "htk")) == 0


def test_slaney_scale() -> None:
    # librosa's documentation: hz_to_mel([110, 220, 440]) = [1.65, 3.3, 6.6], mel_to_hz(5) = 333.333;
    # above 1 kHz 27 mel per factor 6.4.
    hertz = torch.tensor([110.0, 220.0, 440.0, 1000.0, 6400.0])
    mel = torch.tensor([1.65, 3.3, 6.6, 15.0, 42.0])
    assert torch.allclose(audio.hertz_to_mel(hertz, "slaney"), mel)
    assert torch.allclose(audio.mel_to_hertz(mel, "slaney"), hertz)
    assert float(audio.mel_to_hertz(torch.tensor(5.0), "slaney")) == pytest.approx(333.333, abs=1e-3)


@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_scales_invert(scale: str) -> None:
    hertz = torch.linspace(20, 8000, 50, dtype=torch.float64)
    assert torch.allclose(audio.mel_to_hertz(audio.hertz_to_mel(hertz, scale), scale), hertz)


def test_slaney_filters_as_published() -> None:
    # librosa's documentation of filters.mel(sr=22050, n_fft=2048): the first row starts with 0, 0.016.
    weights = audio.mel_weights(128, 2048, 22050, 0.0, 11025.0, "slaney")
    assert weights.shape == (1025, 128)
    assert float(weights[0, 0]) == 0
    assert float(weights[1, 0]) == pytest.approx(0.016, abs=5e-4)
    # Area 1: bins are 22050 / 2048 Hz wide, triangles of the high bands are many bins wide.
    assert torch.allclose(weights[:, 60:].sum(0) * 22050 / 2048, torch.ones(68), atol=0.03)


def test_htk_filters_by_hand() -> None:
    # One band from 0 to 8000 Hz: its centre lies at half of mel(8000) = 2840.0230, that is 1420.0115 mel.
    weights = audio.mel_weights(1, 16, 16000, 0.0, 8000.0, "htk")  # bins every 1000 Hz
    assert float(weights[0, 0]) == 0
    assert float(weights[8, 0]) == pytest.approx(0, abs=1e-6)
    # bin 1: 999.9855 / 1420.0115 = 0.70421
    # bin 4 (4000 Hz, 2146.0645 mel): (2840.0230 - 2146.0645) / 1420.0115 = 0.48870
    assert float(weights[1, 0]) == pytest.approx(0.70421, abs=1e-4)
    assert float(weights[4, 0]) == pytest.approx(0.48870, abs=1e-4)


def test_htk_triangles_fill_the_range() -> None:
    # Between the first and the last centre the triangles of neighbours add up to 1.
    weights = audio.mel_weights(40, 512, 16000, 20.0, 4000.0, "htk")
    assert torch.allclose(weights[5:110].sum(1), torch.ones(105), atol=1e-5)
    assert float(weights[129:].abs().sum()) == 0  # above 4000 Hz


def test_spectrum_of_a_tone() -> None:
    # A tone of amplitude 1 in the middle of bin 32: half of the window's sum, 480 / 2 / 2 = 120.
    magnitudes = audio.spectrum(tone(32 * 16000 / 512), 480, 320, 512)
    assert magnitudes.shape == (1, 49, 257)
    assert magnitudes[0, :, 32] == pytest.approx(120, abs=0.05)
    assert int(magnitudes[0, 10].argmax()) == 32


def test_centred_frames() -> None:
    # A click at sample 5 * 512 meets the middle of frame 5's window, where it is 1: a flat spectrum of magnitude 1.
    wave = torch.zeros(1, 16000)
    wave[0, 5 * 512] = 1
    magnitudes = audio.spectrum(wave, 1024, 512, 1024, centred=True)
    assert magnitudes.shape == (1, 32, 513)  # 1 + 16000 // 512
    assert torch.allclose(magnitudes[0, 5], torch.ones(513), atol=1e-5)
    assert float(magnitudes[0, 7:].abs().max()) == 0


def test_cosine_transform_of_a_constant_and_of_a_cosine() -> None:
    # constant c: coefficient 0 is sqrt(2 / N) N c = sqrt(2 N) c, all others 0
    x = torch.full((40,), 3.0, dtype=torch.float64)
    expected = torch.zeros(10, dtype=torch.float64)
    expected[0] = math.sqrt(80) * 3
    assert torch.allclose(audio.cosine_transform(x, 10), expected, atol=1e-12)
    # cos(pi / N (n + 1/2) 4): N / 2 sqrt(2 / N) = sqrt(N / 2) in coefficient 4
    x = torch.cos(math.pi / 40 * (torch.arange(40, dtype=torch.float64) + 0.5) * 4)
    expected = torch.zeros(10, dtype=torch.float64)
    expected[4] = math.sqrt(20)
    assert torch.allclose(audio.cosine_transform(x, 10), expected, atol=1e-12)


def test_keyword_features() -> None:
    wave = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    features = audio.keyword_features(wave)
    assert features.shape == (2, 1, 49, 10)
    assert torch.allclose(audio.keyword_features(5 * wave), features, atol=1e-3), "loudness is divided out"
    # Silence: ln(1e-6) in all 40 bands, so the first coefficient is sqrt(80) ln(1e-6), the others 0.
    silence = audio.keyword_features(torch.zeros(1, 16000))
    assert silence[0, 0, :, 0] == pytest.approx(math.sqrt(80) * math.log(1e-6), rel=1e-5)
    assert silence[0, 0, :, 1:] == pytest.approx(0, abs=1e-3)


def test_machine_features() -> None:
    wave = torch.randn(1, 160000, generator=torch.Generator().manual_seed(0))
    features = audio.machine_features(wave)
    assert features.shape == (1, 196, 640)
    assert torch.equal(features[0, 1, :512], features[0, 0, 128:]), "frames slide by one"
    assert torch.allclose(audio.machine_features(10 * wave), features + 20, atol=1e-3), "ten times louder: 20 dB"


def test_resampling_keeps_tones() -> None:
    slow, fast = tone(440, 4000, 8000), tone(440, 8000, 16000)
    assert torch.allclose(audio.resample_double(slow), fast, atol=1e-9)
    odd = torch.randn(1, 101, dtype=torch.float64)
    assert torch.allclose(audio.resample_double(odd)[:, ::2], odd)
