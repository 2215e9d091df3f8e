"""Text to speech as the page asks for it, and what it shows of the result."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from mel_processing import check_upload, log_mel
from models.aligned_tts import Prosody
from models.layers.sampling import Sampling
from plotting import mel_figure, speech_figure
from synthesis.speech import Part
from synthesis.synthesizer import BATCH_SIZE, ODD, Synthesizer
from synthesis.timings import WRITERS, save_timings, spoken_intervals
from webpage.asked import Request
from webpage.clips import Clip, Clips, LiveWav
from webpage.models import Models

MAX_CHARACTERS = 3000  # some minutes of speech
MAX_SHOWN_SECONDS = 60.0  # of a picture
MEDIA_TYPES = {".json": "application/json", ".srt": "application/x-subrip", ".TextGrid": "text/plain"}


@dataclass
class Spoken:
    """What has been spoken so far."""

    synthesizer: Synthesizer
    wav: LiveWav
    first_sound: float = 0.0
    """Wall seconds until the first samples were there."""
    wall_seconds: float = 0.0
    parts: list[Part] = field(default_factory=list)
    chunks: list[Tensor] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(len(chunk) for chunk in self.chunks) / self.wav.sample_rate

    @property
    def samples(self) -> Tensor:
        return torch.cat(self.chunks)


def speak(models: Models, clips: Clips, request: Request) -> Iterator[Spoken]:
    """What is spoken, once before anything is heard, then again with every chunk; its `wav` is among the clips.

    ValueError for text that is empty or too long, a recording that cannot be used, and as of `Synthesizer.stream`.
    """
    text, name = request.text.strip(), request.snapshot.model
    if not text:
        raise ValueError("write a text to speak first")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"a text of {len(text)} characters is too long for this page, which takes {MAX_CHARACTERS}: "
                         f"python3 synthesize.py -m {name} --text-file book.txt -o book.flac speaks any length")
    synthesizer, started = models.load(request.snapshot), time.perf_counter()
    chunks = synthesizer.stream(text, request.language, request.speaker or None, **options(synthesizer, request))
    wav = LiveWav(f"{Path(name).name}.wav", synthesizer.audio.sample_rate)
    clips.add(wav)
    spoken = Spoken(synthesizer, wav, wall_seconds=time.perf_counter() - started)
    try:
        yield spoken
        started = time.perf_counter()
        while (chunk := next(chunks, None)) is not None:
            wav.add(chunk.samples.numpy())
            # what the page does with the chunks between is no time of the model's
            spoken.wall_seconds += time.perf_counter() - started
            spoken.first_sound = spoken.first_sound or spoken.wall_seconds
            spoken.chunks.append(chunk.samples)
            spoken.parts += chunk.parts
            yield spoken
            started = time.perf_counter()
    finally:
        wav.end()


def options(synthesizer: Synthesizer, request: Request) -> dict[str, Any]:
    """The options of `Synthesizer.stream`, of those that its system follows."""
    follows = synthesizer.system.controls
    given = {name: value for name, value in request.controls.items() if name in follows}
    asked: dict[str, Any] = {
        "sampling": Sampling(**{name: given[name] for name in ("temperature", "top_k", "top_p") if name in given})}
    prosody = Prosody(**{name: given[name] for name in ("rate", "pitch", "energy") if name in given})
    if prosody != Prosody():
        asked["prosody"] = prosody
    if "seed" in follows:
        asked["seed"] = request.seed
    if not request.live:
        asked |= {"batch_size": BATCH_SIZE, "retries": int(given.get("retries", 0))}
    if request.reference and "reference" in follows:
        check_upload(request.reference)
        asked |= {"reference": request.reference, "reference_text": request.reference_text.strip() or None}
    return asked


def summary(spoken: Spoken) -> str:
    """A line of Markdown about how long it is and how fast it was made."""
    if not spoken.chunks:
        return "Speaking ..."
    return (f"**{spoken.seconds:.2f} s** of speech in {spoken.wall_seconds:.2f} s, "
            f"{spoken.seconds / spoken.wall_seconds:.1f} times real time; the first of it after "
            f"{spoken.first_sound:.2f} s.")


def complaints(parts: list[Part]) -> list[str]:
    """Which parts went wrong, or did at first, and how."""
    found = []
    for part in parts:
        what = part.text or part.ipa
        if part.finish_reason in ODD:
            found.append(f"{ODD[part.finish_reason]} ({part.finish_reason}, retries {part.retries}): {what}")
        elif part.retries:
            found.append(f"spoken {part.retries + 1} times until it ended well: {what}")
    return found


def word_rows(parts: list[Part]) -> list[list[Any]]:
    """A row of word (IPA), begin and end in seconds for each word whose time is known."""
    timed = [part for part in parts if part.words is not None]
    return [[word.label, round(word.start, 2), round(word.end, 2)] for word in spoken_intervals(timed, "words")]


def untimed(parts: list[Part]) -> str:
    """Why the times of some words are not known; empty if they are."""
    return next((part.untimed for part in parts if part.words is None), "")


def picture(spoken: Spoken) -> Figure:
    """Wave and mel, of no more than MAX_SHOWN_SECONDS."""
    audio, rate = spoken.synthesizer.audio, spoken.wav.sample_rate
    samples = spoken.samples[: round(MAX_SHOWN_SECONDS * rate)]
    words = [(start, end, label) for label, start, end in word_rows(spoken.parts) if end <= MAX_SHOWN_SECONDS]
    return speech_figure(samples, rate, log_mel(samples[None], audio)[0], words)


def mels_picture(waves: dict[str, tuple[Tensor, Synthesizer]]) -> Figure:
    """The mels of several (samples,), each in its model's own definition, under one another."""
    return mel_figure({title: log_mel(samples[None], synthesizer.audio)[0]
                       for title, (samples, synthesizer) in waves.items()})


def files(spoken: Spoken, clips: Clips) -> list[Clip]:
    """The wav and, where all times are known, the times in every format."""
    made: list[Clip] = [spoken.wav]
    if untimed(spoken.parts):
        return made
    with tempfile.TemporaryDirectory() as folder:
        for suffix in WRITERS:
            path = Path(folder) / f"{Path(spoken.wav.name).stem}{suffix}"
            save_timings(path, spoken.parts, spoken.seconds)
            made.append(clips.file(path.name, MEDIA_TYPES[suffix], path.read_bytes()))
    return made
