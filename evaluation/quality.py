"""All figures of one utterance, and their means over a few."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from config import AudioConfig
from evaluation.alignment import compare_with_recording
from evaluation.bootstrap import Estimate, estimate
from evaluation.delivery import measure_delivery, speech_only
from evaluation.fidelity import compare_copy, copy_mel_l1
from evaluation.metrics import METRICS
from evaluation.naturalness import predict_opinion
from evaluation.recognition import Recognizer
from evaluation.words import comparable, count_errors
from mel_processing import resample

RATE = 16000  # Hz: recognisers, DNSMOS, PESQ and STOI are made for it
MIN_SECONDS = 0.1
"""Waves with less between the first speech in them and the last are measured as if nothing was heard; a recogniser may
hear words in silence."""

Figures = dict[str, float | str | None]
"""The figures of one utterance by the names of `METRICS`, None where one cannot be had; texts; counts."""


def measure_utterance(
    wave: Tensor, text: str, sample_rate: int, language: str, recognizer: Recognizer,
    recording: Tensor | None = None, *, copy_audio: AudioConfig | None = None,
) -> Figures:
    """Every figure of a wave (samples,) that is to say `text`, also beside a `recording` (samples,) of it.

    With `copy_audio` the wave is a copy of the recording, in time with it, and this the definition of their mels.
    Peaks over 1 are scaled down, as they are where a wave is saved.
    """
    wave = wave.detach().cpu().float()
    wave = wave / max(1.0, wave.abs().max().item() if len(wave) else 0.0)
    narrow = resample(wave, sample_rate, RATE).numpy()
    speech = speech_only(narrow, RATE)
    heard_something = len(speech) >= MIN_SECONDS * RATE
    figures: Figures = _word_errors(narrow if heard_something else None, text, language, recognizer)
    if heard_something:
        figures |= predict_opinion(narrow) | measure_delivery(wave.numpy(), sample_rate)
    if recording is None:
        return figures
    real = resample(recording.cpu(), sample_rate, RATE).numpy()
    figures |= compare_with_recording(speech, speech_only(real, RATE))
    if copy_audio is not None:
        figures |= compare_copy(narrow, real) | {"mel_l1": copy_mel_l1(wave, recording.cpu(), copy_audio)}
    return figures


def _word_errors(narrow: np.ndarray | None, text: str, language: str, recognizer: Recognizer) -> Figures:
    said = comparable(text, language)
    if not said or not recognizer.knows(language):
        return {}
    heard = comparable(recognizer.hear(narrow, language), language) if narrow is not None else ""
    errors = count_errors(said, heard)
    return {
        "said": said, "heard": heard, "cer": errors.character_errors / errors.characters,
        "wer": errors.word_errors / errors.words, "characters": errors.characters, "words": errors.words,
    }


def summarise(utterances: Sequence[Mapping]) -> dict[str, Estimate]:
    """The mean of every metric over the utterances that have it, with its confidence interval."""
    summary = {}
    for name, metric in METRICS.items():
        having = [figures for figures in utterances if figures.get(name) is not None]
        if having:
            weights = [figures[metric.weight] for figures in having] if metric.weight else None
            summary[name] = estimate([figures[name] for figures in having], weights)
    return summary
