"""One recording -> clean clips: checked, trimmed, split, levelled."""

import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyloudnorm
import soundfile
import torch

from config import AudioConfig
from mel_processing import TruncatedAudio, load_audio, save_audio
from preprocessing.recordings import Recording
from preprocessing.speech import find_speech, split_at_pauses, with_margins

SPLIT_MIN_SECONDS = 3.0
PEAK_LIMIT = 0.95
"""Loudness is raised no further than this peak."""
CLIPPED_LEVEL = 0.99
CLIPPED_SHARE = 1e-4
"""A clip with more than this share of samples at full scale is reported as clipped."""
MAX_CLIPPED_SHARE = 0.01
"""With more than this share it is rejected."""


@dataclass(frozen=True)
class Options:
    """What decides how a clip sounds; a change of any of them does every clip again."""

    sample_rate: int = AudioConfig().sample_rate
    loudness: float = -23.0
    """LUFS."""
    min_seconds: float = 0.4
    max_seconds: float = 12.0
    min_sample_rate: int = 16000

    def __post_init__(self):
        if not 0 < self.min_seconds < self.max_seconds:
            raise ValueError(f"--min-seconds {self.min_seconds:g} and --max-seconds {self.max_seconds:g}: "
                             "the first must be over 0 and under the second")


@dataclass
class Outcome:
    """What became of one recording: clips as in the report, and (reason, detail) of everything rejected."""

    key: str = ""
    sample_rate: int | None = None
    channels: int | None = None
    seconds: float = 0.0
    clips: list[dict] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)


def process(recording: Recording, key: str, options: Options, clips_folder: Path) -> Outcome:
    """Cleans one recording and writes its clips; what is wrong with it is in the outcome, not raised."""
    outcome = Outcome(key)
    if recording.path is None:
        return _reject(outcome, "missing", "no audio file of this name in audio/, wavs/ or beside metadata.csv")
    if recording.needs_text and not recording.text:
        return _reject(outcome, "no text", "metadata.csv has an empty text for it")
    try:
        samples = load_audio(recording.path, options.sample_rate).numpy()
    except ValueError as error:
        reason = "unreadable" if recording.path.is_file() else "missing"
        reason = "truncated" if isinstance(error, TruncatedAudio) else reason
        return _reject(outcome, reason, str(error).removeprefix(f"{recording.path}: "))
    info = soundfile.info(str(recording.path))
    seconds = len(samples) / options.sample_rate
    outcome.sample_rate, outcome.channels, outcome.seconds = info.samplerate, info.channels, seconds
    if info.samplerate < options.min_sample_rate:
        return _reject(outcome, "low sample rate", f"{info.samplerate} Hz, under --min-sample-rate "
                                                   f"{options.min_sample_rate}")
    speech = find_speech(samples, options.sample_rate)
    if not speech:
        return _reject(outcome, "silent", "nothing in it is louder than -60 dBFS")

    whole = [(speech[0][0], speech[-1][1])]
    (start, end), = with_margins(whole, speech, seconds)
    if end - start <= options.max_seconds:
        spans = [(start, end)]
    elif recording.text:
        return _reject(outcome, "too long", f"{end - start:.2f} s, over --max-seconds {options.max_seconds:g}")
    else:
        shortest = min(SPLIT_MIN_SECONDS, options.max_seconds / 2)
        pieces, left_over = split_at_pauses(speech, shortest, options.max_seconds)
        spans = with_margins(pieces, speech, seconds)
        for a, b in left_over:
            if b - a >= shortest:
                _reject(outcome, "no pause", f"{a:.2f} to {b:.2f} s: no silence to split it at")
            else:
                _reject(outcome, "too short", f"{a:.2f} to {b:.2f} s: cannot be joined to a piece of "
                                              f"{shortest:g} to {options.max_seconds:g} s")
    for number, (start, end) in enumerate(spans):
        _write_clip(recording, samples, start, end, number if len(spans) > 1 else None, options, clips_folder, outcome)
    return outcome


def _reject(outcome: Outcome, reason: str, detail: str) -> Outcome:
    outcome.rejected.append((reason, detail))
    return outcome


@lru_cache
def _meter(sample_rate: int, samples: int | None) -> pyloudnorm.Meter:
    # BS.1770 measures blocks of 0.4 s; a shorter clip is one block
    return pyloudnorm.Meter(sample_rate, block_size=0.4 if samples is None else (samples - 1) / sample_rate)


def measure_loudness(samples: np.ndarray, sample_rate: int) -> float:
    """Integrated loudness in LUFS (ITU-R BS.1770-4) of (samples,); -inf for silence."""
    short = len(samples) < 0.4 * sample_rate + 1
    return float(_meter(sample_rate, len(samples) if short else None).integrated_loudness(samples))


def _write_clip(
    recording: Recording, samples: np.ndarray, start: float, end: float, number: int | None, options: Options,
    clips_folder: Path, outcome: Outcome,
) -> None:
    rate = options.sample_rate
    clip = samples[round(start * rate): round(end * rate)]
    where = "" if number is None else f"{start:.2f} to {end:.2f} s: "
    seconds = len(clip) / rate
    if seconds < options.min_seconds:
        _reject(outcome, "too short", f"{where}{seconds:.2f} s, under --min-seconds {options.min_seconds:g}")
        return
    clipped = float(np.mean(np.abs(clip) >= CLIPPED_LEVEL))
    if clipped > MAX_CLIPPED_SHARE:
        _reject(outcome, "clipped", f"{where}{clipped:.1%} of its samples are at full scale")
        return
    before = measure_loudness(clip, rate)
    if not math.isfinite(before):
        _reject(outcome, "silent", f"{where}no loudness can be measured")
        return
    wanted = 10 ** ((options.loudness - before) / 20)
    gain = min(wanted, PEAK_LIMIT / float(np.abs(clip).max()))
    name = recording.name + ("" if number is None else f"_{number:04d}") + ".flac"
    save_audio(clips_folder / name, torch.from_numpy(clip * gain), rate)
    outcome.clips.append({
        "name": name, "seconds": round(seconds, 3), "loudness_before": round(before, 2),
        "loudness_after": round(before + 20 * math.log10(gain), 2), "peak_limited": gain < wanted,
        "clipped": clipped > CLIPPED_SHARE,
    })
