"""How loud a wave is, and how much silence stands around its speech."""

import math

import numpy as np

from preprocessing.clips import measure_loudness
from preprocessing.speech import find_speech


def measure_delivery(wave: np.ndarray, sample_rate: int) -> dict[str, float | None]:
    """`seconds`, `loudness` (LUFS; None for silence), `leading_silence` and `trailing_silence` (seconds; None where no
    speech is found) of (samples,)."""
    seconds, speech = len(wave) / sample_rate, find_speech(wave, sample_rate)
    loudness = measure_loudness(wave, sample_rate)
    return {
        "seconds": seconds,
        "loudness": loudness if math.isfinite(loudness) else None,
        "leading_silence": speech[0][0] if speech else None,
        "trailing_silence": max(0.0, seconds - speech[-1][1]) if speech else None,
    }


def speech_only(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """(samples,) without the silence before and after speech; empty if there is no speech."""
    speech = find_speech(wave, sample_rate) if len(wave) else []
    if not speech:
        return wave[:0]
    return wave[round(speech[0][0] * sample_rate) : round(speech[-1][1] * sample_rate)]
