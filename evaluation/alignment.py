"""A reading beside the recording of the same sentence: the spectra and the melody, frame by frame along a DTW path.

All at 16 kHz, so that the figures of models of different sample rates can be compared.
"""

from dataclasses import dataclass

import librosa
import numpy as np
import pyworld
import torch

from config import AudioConfig
from prosody import fundamental_frequency

RATE = 16000
FRAMES = AudioConfig(sample_rate=RATE, hop_length=80, padding="center")
"""Every 5 ms from the first sample on, as WORLD has them."""
ORDER = 24
ALPHA = 0.41  # of the all-pass warping that comes nearest the mel scale at 16 kHz (SPTK)
MIN_SECONDS = 0.1


@dataclass
class Analysis:
    """What is heard in a wave."""

    f0: np.ndarray
    """(frames,) Hz, 0 where unvoiced"""
    mel_cepstra: np.ndarray
    """(frames, ORDER + 1)"""


def analyse(wave: np.ndarray) -> Analysis:
    """F0 (Praat's) and mel-cepstra of the smooth spectrum (WORLD's CheapTrick) of a wave (samples,) at `RATE`, every
    5 ms."""
    f0 = fundamental_frequency(torch.from_numpy(wave), FRAMES).numpy().astype(np.float64)
    times = np.arange(len(f0)) * FRAMES.hop_length / RATE
    return Analysis(f0, mel_cepstra(pyworld.cheaptrick(wave.astype(np.float64), f0, times, RATE)))


def mel_cepstra(power: np.ndarray, order: int = ORDER, alpha: float = ALPHA) -> np.ndarray:
    """Power spectra (frames, n_fft / 2 + 1) -> mel-cepstra (frames, order + 1), c such that on the warped axis v
    ln|H| = sum_m c_m cos(m v) (Imai 1983, as SPTK's)."""
    n = power.shape[1] - 1
    warped = np.linspace(0, np.pi, n + 1)
    # the frequency that the all-pass of alpha puts there: that of -alpha is its inverse
    plain = warped - 2 * np.arctan2(alpha * np.sin(warped), 1 + alpha * np.cos(warped))
    position = plain / np.pi * n
    low = np.minimum(position.astype(int), n - 1)
    share = position - low
    log_magnitude = 0.5 * np.log(np.maximum(power, 1e-16))
    resampled = log_magnitude[:, low] * (1 - share) + log_magnitude[:, low + 1] * share
    cepstra = np.fft.irfft(resampled, axis=1)[:, : order + 1]
    cepstra[:, 1:] *= 2
    return cepstra


def dtw_path(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cheapest monotonous path (steps, 2) from the first frames of a (n, size) and b (m, size) to the last, by
    Euclidean distance."""
    _, path = librosa.sequence.dtw(a.T, b.T, metric="euclidean")
    return path[::-1]


def mel_cepstral_distortion(a: np.ndarray, b: np.ndarray) -> float:
    """dB between mel-cepstra (frames, order + 1) of equal length, without c_0 (Kubichek 1993):
    10 / ln 10 * mean of sqrt(2 * sum_m (a_m - b_m)^2)."""
    distance = np.sqrt(2 * np.square(a[:, 1:] - b[:, 1:]).sum(1))
    return float(10 / np.log(10) * distance.mean())


def compare_with_recording(wave: np.ndarray, recording: np.ndarray) -> dict[str, float | None]:
    """`mcd` (dB), `f0_rmse` (cents, where both are voiced), `voicing_error` (share of the path's frames) and
    `duration_ratio` (wave / recording) of two waves (samples,) at `RATE` that begin and end with their speech.

    None for what cannot be had: waves under 0.1 s, and F0 where nothing is voiced in both.
    """
    names = ("mcd", "f0_rmse", "voicing_error", "duration_ratio")
    if min(len(wave), len(recording)) < MIN_SECONDS * RATE:
        return dict.fromkeys(names)
    made, real = analyse(wave), analyse(recording)
    path = dtw_path(made.mel_cepstra[:, 1:], real.mel_cepstra[:, 1:])
    f0_made, f0_real = made.f0[path[:, 0]], real.f0[path[:, 1]]
    both = (f0_made > 0) & (f0_real > 0)
    cents = 1200 * np.log2(f0_made[both] / f0_real[both])
    distortion = mel_cepstral_distortion(made.mel_cepstra[path[:, 0]], real.mel_cepstra[path[:, 1]])
    values = (
        distortion, float(np.sqrt(np.mean(cents**2))) if both.any() else None,
        float(np.mean((f0_made > 0) != (f0_real > 0))), len(wave) / len(recording),
    )
    return dict(zip(names, values, strict=True))
