"""Text of any length -> pieces of IPA, one after the other, and the pauses between them."""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from text.errors import Unspeakable
from text.passages import split_passages
from text.sentences import split_sentences
from text.symbols import MARKS, normalize_ipa

log = logging.getLogger(__name__)

PAUSES = dict.fromkeys(MARKS, 0.15) | dict.fromkeys(".!?…", 0.25)
"""Seconds after a piece that ends in a mark."""
NO_MARK_PAUSE = 0.05
SENTENCE_PAUSE = 0.25
PARAGRAPH_PAUSE = 0.6
CLOSING = '")'


class Speller(Protocol):
    """What is asked of a `text.Frontend` here."""

    def phonemize(self, text: str, language: str) -> str:
        """The IPA of one sentence."""

    def encode(self, ipa: str) -> list[int]:
        """Ids of its symbols."""


@dataclass(frozen=True)
class Piece:
    """What is spoken in one go."""

    ipa: str
    language: str
    text: str
    """As written; of a sentence in several pieces, all of it is at the first."""
    pause: float
    """Seconds of silence before it."""


def split_text(
    text: str, language: str, input_type: str, frontend: Speller, cut: Callable[[str], list[str]]
) -> Iterator[Piece]:
    """The pieces of a text ("text" or "ipa"), made as they are asked for; `cut`: a sentence's IPA in as many pieces as
    are needed. Blank lines part paragraphs.

    A sentence that cannot be spoken is left out, with a warning. ValueError if there is no other.
    """
    is_ipa = input_type == "ipa"
    pause, spoken, reason = 0.0, False, Unspeakable("there is nothing to say in the text")
    for passage, language_of_it in split_passages(text, language):
        for paragraph in re.split(r"\n\s*\n", passage):
            for sentence in [paragraph] if is_ipa else split_sentences(paragraph, language_of_it):
                try:
                    ipa = normalize_ipa(sentence) if is_ipa else frontend.phonemize(sentence, language_of_it)
                    pieces = cut(ipa) if ipa else []
                except Unspeakable as error:
                    log.warning("left out: %s", error)
                    reason = error
                    continue
                for i, piece in enumerate(pieces):
                    yield Piece(piece, language_of_it, "" if i else sentence, pause)
                    pause, spoken = PAUSES.get(piece.rstrip(CLOSING)[-1:], NO_MARK_PAUSE), True
                pause = max(pause, SENTENCE_PAUSE)
            pause = PARAGRAPH_PAUSE
        pause = SENTENCE_PAUSE
    if not spoken:
        raise reason


def cut_to_fit(ipa: str, fits: Callable[[str], bool], frontend: Speller, marks: str) -> list[str]:
    """The IPA in pieces that fit, cut in the middle, behind one of the marks if possible, else at a space. Unspeakable
    for a word that does not fit."""
    if fits(ipa):
        return [ipa]
    words = ipa.split(" ")
    if len(words) == 1:
        raise Unspeakable(f"a word of {len(frontend.encode(ipa))} symbols is too long to speak: {ipa[:40]}...")
    after_mark = [i for i, word in enumerate(words[:-1], 1) if word and word[-1] in marks]
    cut = min(after_mark or range(1, len(words)), key=lambda i: abs(i - len(words) / 2))
    return [piece for part in (words[:cut], words[cut:]) for piece in cut_to_fit(" ".join(part), fits, frontend, marks)]
