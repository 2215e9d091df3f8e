"""A synthesizer whose networks take as long as a test wants: every word of a text is a piece of a second."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from config import AudioConfig
from synthesis.speech import Part, Utterance
from text.pieces import Piece

RATE = 22050


class SlowVoice:
    """Stands for `Synthesizer` and its system; `open` lets it speak, `seconds` it takes for each piece, `log` holds
    every turn of its networks."""

    controls = {"retries"}
    languages, speakers, speaker_languages, folder = ["en-us"], ["ann"], {"ann": "en-us"}, Path(".")

    def __init__(self, together: bool = True):
        self.system, self.together, self.audio = self, together, AudioConfig()
        self.frontend = SimpleNamespace(phonemize=lambda text, language: text)
        self.open, self.seconds, self.log = threading.Event(), 0.0, []

    def script(self, text: str, language: str = "en-us", speaker: str | None = None, **_) -> Iterator:
        """A piece a word; "bad" cannot be spoken."""
        if text == "bad":
            raise ValueError("nothing to speak in 'bad'")
        return ((Piece(word, language, word, 0.0), Utterance(word, language, speaker)) for word in text.split())

    def speak_parts(self, utterances: list[Utterance], **_) -> list[Part]:
        """A second each."""
        turn = [one.ipa for one in utterances]
        return [self._spoken(turn, one.ipa, RATE) for one in utterances]

    def stream_part(self, utterance: Utterance, **_) -> Iterator[tuple[Tensor, Part | None]]:
        """A second in two chunks."""
        for last in (False, True):
            part = self._spoken(f"{utterance.ipa}{'.' if last else '-'}", utterance.ipa, RATE // 2)
            yield part.samples, part if last else None

    def _spoken(self, turn: object, ipa: str, n: int) -> Part:
        warming = ipa[0].isdigit()
        if not warming:
            assert self.open.wait(60)
            time.sleep(self.seconds)
            if not self.log or self.log[-1] is not turn:
                self.log.append(turn)
        if ipa == "crash":
            raise RuntimeError("crashed")
        return Part(ipa, torch.full((n,), 0.25), n / RATE, "stop")
