"""An exported voice that speaks with its ONNX files.

    from onnx_runner.voice import OnnxVoice
    voice = OnnxVoice("voices/my_voice")
    for part in voice.stream("həlˈoʊ wˈɜːld", input_type="ipa"):
        play(part.samples, voice.sample_rate)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from names import index_of, speaker_for
from onnx_runner.folder import read_networks, read_settings
from onnx_runner.random_numbers import TorchRandom
from onnx_runner.sampling import Sampling
from onnx_runner.systems import Aligned, Manner, Token
from text.passages import split_passages
from text.pieces import Piece, cut_to_fit, split_text
from text.symbols import encode_bytes, encode_ipa

SYSTEMS = {"aligned": Aligned, "token": Token}


@dataclass
class SpokenPiece:
    """A piece of a text, spoken."""

    piece: Piece
    samples: np.ndarray
    """(samples,) float32, behind the pause before it"""
    finish_reason: str
    """"stop": it ended by itself; "length": it was cut off at its bound; "stuck": when it only repeated itself."""


class OnnxVoice:
    """What `Synthesizer.stream` says piece by piece, with the same samples but for rounding: of a speaker's voice,
    without retries. Nothing of PyTorch is imported."""

    def __init__(self, folder: str | Path, threads: int = 0):
        """`threads` of the CPU, 0 for as many as it has. ValueError for a folder without ONNX files, or damaged."""
        folder = Path(folder)
        self.settings = read_settings(folder)
        self.sample_rate, self.speakers = self.settings["sample_rate"], self.settings["speakers"]
        self.languages = self.settings["languages"]
        self.system = SYSTEMS[self.settings["system"]](self.settings, read_networks(folder, self.settings, threads))
        self.speller = VoiceSpeller(folder, self.settings["text"])

    def stream(
        self, text: str, language: str = "en-us", speaker: str | None = None, *, input_type: str = "text",
        seed: int | None = None, sampling: dict[str, float] | None = None, prosody: dict[str, float] | None = None,
    ) -> Iterator[SpokenPiece]:
        """Speaks text, or IPA with the `input_type` "ipa", of any length, piece by piece as they are made.

        `sampling` (temperature, top_k, ...) and `prosody` (rate, pitch, energy) change what is not to be as usual.
        ValueError, at once, for a language or speaker that the voice has not learned, for options that it does not
        follow, and for text with nothing to say.
        """
        for _, name in [("", language), *split_passages(text, language)]:
            index_of(self.languages, name, "language")
        speaker = speaker or speaker_for(language, self.speakers, self.settings["speaker_languages"])
        speaker_id = index_of(self.speakers, speaker, "speaker")
        how = self._sampling(sampling or {}), self._prosody(prosody or {})
        if input_type == "text":
            self.speller.load_frontend()
        pieces = split_text(text, language, input_type, self.speller, self._cut)
        pieces = chain([next(pieces)], pieces)  # the first one says what is wrong
        return self._spoken(pieces, speaker_id, *how, seed)

    def _spoken(
        self, pieces: Iterator[Piece], speaker: int, sampling: Sampling | None, prosody: dict[str, float],
        seed: int | None,
    ) -> Iterator[SpokenPiece]:
        for i, piece in enumerate(pieces):
            manner = Manner(speaker, self.languages.index(piece.language), sampling, prosody)
            random = TorchRandom(None if seed is None else (seed + i * self.settings["seed_step"]) % 2**63)
            samples, reason = self.system.speak(self.speller.encode(piece.ipa), manner, random)
            pause = np.zeros(round(piece.pause * self.sample_rate) if i else 0, np.float32)
            yield SpokenPiece(piece, np.concatenate([pause, samples]), reason)

    def _cut(self, ipa: str) -> list[str]:
        return cut_to_fit(ipa, lambda piece: self.system.fits(len(self.speller.encode(piece))), self.speller,
                          self.system.marks)

    def _sampling(self, changes: dict[str, float]) -> Sampling | None:
        defaults = self.settings["sampling"]
        if defaults is None and changes:
            raise ValueError(f"this voice draws nothing at random: {', '.join(changes)} would change nothing")
        return None if defaults is None else Sampling(**(defaults | changes))

    def _prosody(self, changes: dict[str, float]) -> dict[str, float]:
        limits = self.settings["prosody"]
        if limits is None:
            if changes:
                raise ValueError(f"a language model decides for itself: {', '.join(changes)} would change nothing")
            return {}
        for name, value in changes.items():
            least, most = limits[name]
            if not least <= value <= most:
                raise ValueError(f"{name} must be {least:g} to {most:g}, not {value:g}")
        return {"rate": 1.0, "pitch": 0.0, "energy": 0.0} | changes


class VoiceSpeller:
    """The symbols of a voice; its whole text frontend only when there is text."""

    def __init__(self, folder: Path, text: dict):
        """`text`: the frontend's `settings` and `state`."""
        self.folder, self.text = folder, text
        self.ids = {symbol: i for i, symbol in enumerate(text["state"]["symbols"])}
        self.frontend = None

    def encode(self, ipa: str) -> list[int]:
        """Ids of the symbols of IPA, or of bytes if those are the voice's symbols."""
        return encode_bytes(ipa) if self.text["settings"]["frontend"] == "bytes" else encode_ipa(ipa, self.ids)

    def phonemize(self, text: str, language: str) -> str:
        """The IPA of a sentence."""
        return self.frontend.phonemize(text, language)

    def load_frontend(self) -> None:
        """To be called before `phonemize`. ValueError if the libraries that it takes are not installed, or others than
        the voice was trained with."""
        if self.frontend is not None:
            return
        try:
            from config import TextConfig
            from text.tokenizer import build_frontend
        except ModuleNotFoundError as error:
            raise ValueError(f"text needs {error.name}, which is not installed: pip install -r requirements-onnx.txt, "
                             "or give IPA (--ipa)") from error
        settings = self.text["settings"]
        if settings["lexicon"]:
            settings = settings | {"lexicon": str(self.folder / settings["lexicon"])}
        self.frontend = build_frontend(TextConfig(**settings))
        self.frontend.check_state(self.text["state"], str(self.folder))
