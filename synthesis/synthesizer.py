"""Text -> pieces of IPA -> a system that speaks them -> one wave, whole or in chunks."""

import logging
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import torch
from torch import Tensor

from models.aligned_tts import Prosody
from models.layers.sampling import Sampling
from synthesis import load_system
from synthesis.speech import Part, Speech, Utterance
from text import split_passages
from text.pieces import Piece, split_text
from voice_folder import read_model

log = logging.getLogger(__name__)

BATCH_SIZE = 8  # pieces spoken together
RETRIES = 2
MAX_RETRIES = 100
SEED_STEP = 0x9E3779B97F4A7C15  # SplitMix64's, so that neighbouring seeds and parts have nothing in common
ODD = {"length": "cut off at its length bound", "stuck": "repeats itself, and was cut off", "silent": "falls silent"}


class Synthesizer:
    """Speaks text of any length with the system that a model's stages are of."""

    def __init__(
        self, model: str, checkpoints: str | Path = "checkpoints", device: str | None = None,
        precision: str | None = None,
    ):
        """`model`: a name under `checkpoints`, or the folder of an exported voice; `precision` of a language model's
        matrices: "fp32" or, on a CPU, "int8", which is faster; None: int8 for voices that were exported so.

        ValueError if a stage is not trained yet, if two stages do not fit each other, saying which, or for int8 where
        it cannot be.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.system = load_system(model_folder(model, checkpoints), torch.device(device), precision)
        self.audio, self.frontend = self.system.audio, self.system.frontend
        self.languages, self.speakers = self.system.languages, self.system.speakers

    def speak(self, text: str, language: str = "en-us", speaker: str | None = None, **options) -> Speech:
        """Text (or, with input_type "ipa", IPA) as one wave; pieces are spoken in batches.

        The options, and what is refused, are those of `stream`.
        """
        chunks = list(self.stream(text, language, speaker, **{"batch_size": BATCH_SIZE} | options))
        return Speech(torch.cat([chunk.samples for chunk in chunks]), self.audio.sample_rate,
                      [part for chunk in chunks for part in chunk.parts])

    def stream(
        self, text: str, language: str = "en-us", speaker: str | None = None, *, input_type: str = "text",
        sampling: Sampling = Sampling(), seed: int | None = None,  # noqa: B008 (frozen)
        reference: str | Path | None = None, reference_text: str | None = None, prosody: Prosody | None = None,
        batch_size: int | None = None, retries: int = RETRIES,
    ) -> Iterator[Speech]:
        """Speaks text of any length in chunks, which joined are the whole speech.

        Without a `batch_size`, each comes as soon as it is made, as early as the networks after the language model or
        the aligned durations allow (see `WaveStream`). With one, so many pieces (sentences, and parts of long ones) are
        spoken together, each is a chunk, and a part that did not end well is spoken up to `retries` times more; but
        for these, the samples are the same, where no part depends on the others of its batch. (The autoregressive
        decoder's do.) A chunk begins with the pause, if any, after the one before.

        `reference`: a recording in whose voice to speak, and what is said in it, in the same language; `prosody`: how
        to speak. Passages in other languages are marked (see `split_passages`).

        ValueError, at once, for a language or speaker that the model has not learned, a reference or prosody that its
        system cannot use, and for text with nothing to say.
        """
        check_retries(retries)
        script = self.script(text, language, speaker, input_type=input_type, seed=seed, reference=reference,
                             reference_text=reference_text, prosody=prosody)
        if batch_size is None:
            chunks = self._one_by_one(script, sampling)
        else:
            chunks = self._together(script, batch_size, sampling, retries)
        joined = Joined(self.audio.sample_rate)
        return (joined.chunk(*chunk) for chunk in chunks)

    def script(
        self, text: str, language: str = "en-us", speaker: str | None = None, *, input_type: str = "text",
        seed: int | None = None, reference: str | Path | None = None, reference_text: str | None = None,
        prosody: Prosody | None = None,
    ) -> Iterator[tuple[Piece, Utterance]]:
        """The pieces of a text and how each is to be spoken, made as they are asked for, for `System.speak_parts` or
        `stream_part` and then `Joined`. The options, and what is refused at once, are those of `stream`."""
        for _, name in [("", language), *split_passages(text, language)]:
            self.system.check(name, speaker)
        if reference is None and reference_text is not None:
            raise ValueError("a reference's text is of use only with the reference itself")
        said = ""
        if reference_text:
            said = " ".join(piece.ipa for piece in split_text(
                reference_text, language, input_type, self.frontend, lambda ipa: [ipa]))
        voice = self.system.voice(speaker, language, reference, said)
        if prosody is not None:
            voice = self.system.with_prosody(voice, prosody)
        pieces = split_text(text, language, input_type, self.frontend, lambda ipa: self.system.pieces(ipa, voice))
        pieces = chain([next(pieces)], pieces)  # the first one says what is wrong
        return ((piece, Utterance(piece.ipa, piece.language, voice, part_generator(seed, i, self.system.device)))
                for i, piece in enumerate(pieces))

    def _one_by_one(
        self, script: Iterator[tuple[Piece, Utterance]], sampling: Sampling
    ) -> Iterator[tuple[Piece, Tensor, Part | None]]:
        for piece, utterance in script:
            for samples, part in self.system.stream_part(utterance, sampling=sampling):
                yield piece, samples, part

    def _together(
        self, script: Iterator[tuple[Piece, Utterance]], batch_size: int, sampling: Sampling, retries: int
    ) -> Iterator[tuple[Piece, Tensor, Part]]:
        while batch := list(islice(script, batch_size)):
            parts = self.system.speak_parts([utterance for _, utterance in batch], sampling=sampling, retries=retries)
            for (piece, _), part in zip(batch, parts, strict=True):
                yield piece, part.samples, part


class Joined:
    """The pieces of one text behind one another, with the pauses between them."""

    def __init__(self, sample_rate: int):
        self.sample_rate = sample_rate
        self.spoken, self.begun, self.start = 0, None, 0.0  # samples, the piece that is being spoken, when it began

    def chunk(self, piece: Piece, samples: Tensor, part: Part | None) -> Speech:
        """The next samples (n,) of a piece, behind the pause if they are its first, and the part if they are its
        last."""
        if piece is not self.begun:
            pause = round(piece.pause * self.sample_rate) if self.begun else 0
            self.begun, self.start = piece, (self.spoken + pause) / self.sample_rate
            samples = torch.cat([torch.zeros(pause), samples])
        self.spoken += len(samples)
        if part is not None:
            part.text, part.start = piece.text, self.start
            report_odd(part)
        return Speech(samples, self.sample_rate, [part] if part else [])


def check_retries(retries: int) -> None:
    """ValueError for so many retries as nobody can wait for."""
    if not 0 <= retries <= MAX_RETRIES:
        raise ValueError(f"retries {retries}: must be 0 to {MAX_RETRIES}")


def report_odd(part: Part) -> None:
    """Logs a part that did not end well at once."""
    if part.finish_reason in ODD:
        log.warning("%s (after %d more attempts): %s", ODD[part.finish_reason], part.retries, part.ipa)
    elif part.retries:
        log.info("spoken %d times until it ended well: %s", part.retries + 1, part.ipa)


def model_folder(model: str, checkpoints: str | Path) -> Path:
    """Where a model is: its checkpoints if there are any, else the exported voice of that path."""
    trained, exported = Path(checkpoints) / model, Path(model)
    if trained.is_dir() or not exported.is_dir():
        return trained
    read_model(exported)  # says what is missing
    return exported


def part_generator(seed: int | None, index: int, device: torch.device) -> torch.Generator | None:
    """Random numbers of a part, whatever its neighbours are; those of the first are the seed's own."""
    return None if seed is None else torch.Generator(device).manual_seed((seed + index * SEED_STEP) % 2**63)
