"""What every speech system is to `Synthesizer`, and what it gives."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from alignments.textgrids import Interval
from config import AudioConfig
from models.aligned_tts import Prosody
from models.layers.sampling import Sampling
from text import Frontend


@dataclass(frozen=True)
class Utterance:
    """A piece of IPA and how it is to be spoken, whatever is spoken beside it."""

    ipa: str
    language: str
    voice: Any
    """What `System.voice` gives."""
    generator: torch.Generator | None = None
    """Its own random numbers."""


@dataclass
class Part:
    """One piece of IPA, spoken."""

    ipa: str
    samples: Tensor
    """(samples,) float32 on the CPU"""
    seconds: float
    finish_reason: str
    """"stop": it ended by itself; "length": it was cut off at its length bound; "stuck": it was cut off when it only
    repeated itself; "silent": it ended by itself, but a stretch of it is silent for longer than any pause."""
    retries: int = 0
    """How many times more it was spoken because it had not ended well; this is the best attempt."""
    words: list[Interval] | None = None
    """In seconds from its beginning, where the system knows them; labels are IPA."""
    phones: list[Interval] | None = None
    untimed: str = ""
    """Why they are not known."""
    text: str = ""
    """As written; of a sentence in several pieces, all of it is at the first. IPA if that is what was given."""
    start: float = 0.0
    """Seconds from the beginning of the whole speech."""


@dataclass
class Speech:
    """What was made of one text, or a chunk of it."""

    samples: Tensor
    """(samples,) float32"""
    sample_rate: int
    parts: list[Part] = field(default_factory=list)
    """Those that end in it."""

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


class System(Protocol):
    """IPA -> wave, loaded from a model's folder (checkpoints or an exported voice), whose stages it has checked to fit
    together."""

    name: str
    """What kind of system it is."""
    stages: dict[str, str]
    """Stages that it speaks with, that of the text frontend first, and how the names of the weights begin that it needs
    of each."""
    matrices: dict[str, dict[str, int]]
    """Of the stages that have any, the weights that it can read as int8, and which dimension of each is its inputs."""
    audio: AudioConfig
    frontend: Frontend
    languages: list[str]
    speakers: list[str]
    speaker_languages: dict[str, str]
    controls: set[str]
    """What it follows of that which a caller may ask for: fields of `Sampling` and of `Prosody`, "seed", "retries",
    "reference"."""
    folder: Path
    together: bool
    """Whether parts that are spoken as one batch take less time than one after the other."""
    device: torch.device
    """Where the generator of random numbers must be."""

    def check(self, language: str, speaker: str | None) -> tuple[int, int]:
        """Ids of a language and a speaker (the first if None); ValueError for one that the model has not learned."""

    def voice(self, speaker: str | None, language: str, reference: str | Path | None = None, said: str = "") -> Any:
        """In whose voice to speak: a speaker's (the first if None), or that of a reference recording, in which the IPA
        `said` is said. For this system alone to read; ValueError for a voice that it cannot take."""

    def with_prosody(self, voice: Any, prosody: Prosody) -> Any:
        """The voice, speaking in another way; ValueError if the system cannot be told how to."""

    def pieces(self, ipa: str, voice: Any) -> list[str]:
        """The IPA in as many pieces as the system needs; ValueError if it cannot be cut to fit."""

    def speak_parts(self, utterances: list[Utterance], *, sampling: Sampling, retries: int = 0) -> list[Part]:
        """Speaks pieces of IPA together, as one batch. `retries`: how many times more a part may be spoken that did not
        end well, where a system can tell and draws at random."""

    def stream_part(self, utterance: Utterance, *, sampling: Sampling) -> Iterator[tuple[Tensor, Part | None]]:
        """Speaks a piece of IPA in chunks (samples,), with the last of which comes the part."""
