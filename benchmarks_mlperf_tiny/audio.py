"""From a waveform to what a network hears: spectra, mel bands, cepstra. On torch, a batch at a time.

Two published conventions are followed, because the reference tasks use both. Keyword spotting: TensorFlow's
`tf.signal` (frames without padding, HTK mel scale, triangles drawn on the mel axis). Anomaly detection: librosa
(centred frames, Slaney mel scale, triangles drawn on the frequency axis and scaled to equal area).
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor


def hertz_to_mel(hertz: Tensor, scale: str) -> Tensor:
    """Pitch [mel] of a frequency [Hz], `scale` "htk" (2595 log10(1 + f / 700)) or "slaney" (linear below 1 kHz)."""
    if scale == "htk":
        return 2595 * torch.log10(1 + hertz / 700)
    linear = hertz * 3 / 200  # 15 mel at 1 kHz
    return torch.where(hertz < 1000, linear, 15 + 27 * torch.log(hertz.clamp(min=1.0) / 1000) / math.log(6.4))


def mel_to_hertz(mel: Tensor, scale: str) -> Tensor:
    """Inverse of `hertz_to_mel`."""
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))


@functools.lru_cache(maxsize=8)
def mel_weights(bands: int, fft: int, rate: int, low: float, high: float, scale: str) -> Tensor:
    """Triangular filters that gather the bins of a spectrum into mel bands.

    Args:
        bands: number of mel bands.
        fft: length of the Fourier transform.
        rate: sampling rate [Hz].
        low, high: range covered [Hz].
        scale: `"htk"` (triangles on the mel axis, peak 1, no constant part) or `"slaney"` (triangles on the frequency
            axis, area 1 Hz·bin).

    Returns:
        `(fft // 2 + 1, bands)` float32.
    """
    hertz = torch.arange(fft // 2 + 1, dtype=torch.float64) * rate / fft
    limits = hertz_to_mel(torch.tensor([low, high], dtype=torch.float64), scale)
    edges = torch.linspace(float(limits[0]), float(limits[1]), bands + 2, dtype=torch.float64)
    axis = hertz_to_mel(hertz, scale)
    if scale == "slaney":
        edges, axis = mel_to_hertz(edges, scale), hertz
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rise = (axis[:, None] - lower) / (centre - lower)
    fall = (upper - axis[:, None]) / (upper - centre)
    weights = torch.minimum(rise, fall).clamp(min=0)
    if scale == "slaney":
        weights = weights * 2 / (upper - lower)
    else:
        weights[0] = 0
    return weights.float()


def spectrum(wave: Tensor, window: int, step: int, fft: int, centred: bool = False) -> Tensor:
    """Magnitudes of a short-time Fourier transform with a periodic Hann window.

    Args:
        wave: `(B, samples)`.
        window: samples per frame; zeros follow up to `fft`.
        step: samples between frames.
        fft: length of the transform.
        centred: put the centre of frame `t` at sample `t * step`, the ends padded by reflection; otherwise frame `t`
            starts there and nothing is padded.

    Returns:
        `(B, frames, fft // 2 + 1)`.
    """
    if centred:
        wave = torch.nn.functional.pad(wave[:, None], (fft // 2, fft // 2), mode="reflect")[:, 0]
    frames = wave.unfold(1, window, step) * torch.hann_window(window, dtype=wave.dtype, device=wave.device)
    return torch.fft.rfft(frames, fft).abs()


def cosine_transform(x: Tensor, count: int) -> Tensor:
    """First `count` coefficients of the DCT-II along the last axis, times sqrt(2 / N) as `tf.signal` does for MFCC."""
    size = x.shape[-1]
    n = torch.arange(size, dtype=torch.float64) + 0.5
    k = torch.arange(count, dtype=torch.float64)
    basis = torch.cos(math.pi / size * n[:, None] * k) * math.sqrt(2 / size)
    return x @ basis.to(x)


def keyword_features(wave: Tensor) -> Tensor:
    """MFCC of one-second recordings as the keyword-spotting reference computes them.

    Args:
        wave: `(B, 16000)` at 16 kHz, any amplitude: every recording is divided by its maximum.

    Returns:
        `(B, 1, 49, 10)`.
    """
    wave = wave / wave.abs().amax(1, keepdim=True).clamp(min=1e-9)
    bands = spectrum(wave, 480, 320, 512) @ mel_weights(40, 512, 16000, 20.0, 4000.0, "htk").to(wave)
    return cosine_transform(torch.log(bands + 1e-6), 10)[:, None]


def machine_features(wave: Tensor, first: int = 50, last: int = 250, joined: int = 5) -> Tensor:
    """Log-mel vectors of machine recordings as the anomaly-detection reference computes them.

    Args:
        wave: `(B, samples)` at 16 kHz, at least `last` frames of 512 samples.
        first, last: frames used, `last` excluded.
        joined: neighbouring frames in one vector.

    Returns:
        `(B, last - first - joined + 1, 128 * joined)` [dB], oldest frame first: `(B, 196, 640)`.
    """
    power = spectrum(wave, 1024, 512, 1024, centred=True) ** 2
    bands = power @ mel_weights(128, 1024, 16000, 0.0, 8000.0, "slaney").to(wave)
    decibel = 10 * torch.log10(bands + torch.finfo(torch.float32).eps)
    frames = decibel[:, first:last].unfold(1, joined, 1)  # (B, 196, 128, joined)
    return frames.transpose(2, 3).flatten(2)


def resample_double(wave: Tensor) -> Tensor:
    """Twice the sampling rate without new frequencies: `(B, samples) -> (B, 2 * samples)`, by padding the spectrum."""
    size = wave.shape[1]
    bins = torch.fft.rfft(wave)
    if size % 2 == 0:  # the highest bin of an even length stands for two
        bins = torch.cat([bins[:, :-1], bins[:, -1:] / 2], 1)
    return torch.fft.irfft(bins * 2, 2 * size)
