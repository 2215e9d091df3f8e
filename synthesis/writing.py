"""Speech written while it is being spoken, in memory that does not grow with it."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from mel_processing import audio_writer
from synthesis.speech import Part, Speech

PCM_PEAK = 32767


@dataclass
class Written:
    """What is left of speech that was written."""

    parts: list[Part] = field(default_factory=list)
    """Without their samples, and without times unless these are wanted."""
    seconds: float = 0.0
    """Of audio."""
    first_sound: float = 0.0
    """Wall seconds until the first samples were there."""


def write_file(path: str | Path, chunks: Iterable[Speech], sample_rate: int, with_times: bool = False) -> Written:
    """Writes chunks of speech to an audio file (see `audio_writer`)."""
    written = Written()
    with audio_writer(path, sample_rate) as write:
        for samples in _passed_on(chunks, written, with_times):
            write(samples)
    return written


def write_pcm(file: BinaryIO, chunks: Iterable[Speech], with_times: bool = False) -> Written:
    """Writes chunks of speech as `pcm16`, without a header, each at once."""
    written = Written()
    for samples in _passed_on(chunks, written, with_times):
        file.write(pcm16(samples))
        file.flush()
    return written


def pcm16(samples: Tensor) -> bytes:
    """Samples (n,) as 16-bit little-endian integers; peaks over 1 are clipped."""
    return (samples.clamp(-1, 1) * PCM_PEAK).round().numpy().astype("<i2").tobytes()


def _passed_on(chunks: Iterable[Speech], written: Written, with_times: bool) -> Iterator[Tensor]:
    """The samples of each chunk, which `written` then knows of."""
    started = time.perf_counter()
    for chunk in chunks:
        written.first_sound = written.first_sound or time.perf_counter() - started
        written.seconds += chunk.seconds
        forgotten = {} if with_times else {"words": None, "phones": None}
        written.parts += [replace(part, samples=part.samples[:0].clone(), **forgotten) for part in chunk.parts]
        yield chunk.samples
