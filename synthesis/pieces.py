"""Text of any length -> pieces of IPA, one after the other, and the pauses between them."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from text import Frontend, Unspeakable, normalize_ipa, split_passages, split_sentences
from text.symbols import MARKS

log = logging.getLogger(__name__)

PAUSES = dict.fromkeys(MARKS, 0.15) | dict.fromkeys(".!?…", 0.25)
"""Seconds after a piece that ends in a mark."""
NO_MARK_PAUSE = 0.05
SENTENCE_PAUSE = 0.25
PARAGRAPH_PAUSE = 0.6
CLOSING = '")'


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
    text: str, language: str, input_type: str, frontend: Frontend, cut: Callable[[str], list[str]]
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


def batched(pieces: Iterable[Piece], size: int) -> Iterator[list[Piece]]:
    """The pieces in lists of at most `size`, each in one language."""
    batch: list[Piece] = []
    for piece in pieces:
        if batch and (len(batch) == size or piece.language != batch[0].language):
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch
