"""Word and character errors, of texts that are written in one way first."""

import re
import unicodedata
from dataclasses import dataclass

import jiwer
from num2words import CONVERTER_CLASSES, num2words

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NOT_IN_WORDS = re.compile(r"[^\w' ]|_")


@dataclass(frozen=True)
class Errors:
    """Substitutions, deletions and insertions, and what the reference holds."""

    word_errors: int
    words: int
    character_errors: int
    characters: int


def comparable(text: str, language: str) -> str:
    """Words alone: lower case, numbers spelled out, no marks other than apostrophes inside words, single spaces.

    Numbers stay digits in languages that num2words does not know, and are then the recogniser's to write the same.
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    text = _NUMBER.sub(lambda match: f" {_spelled(match[0], language)} ", text)
    text = _NOT_IN_WORDS.sub(" ", text.replace("-", " "))
    return " ".join(word for word in (word.strip("'") for word in text.split()) if word)


def _spelled(number: str, language: str) -> str:
    code = language.split("-")[0]
    if code not in CONVERTER_CLASSES:
        return number
    # a mark before exactly three digits parts thousands; a single other one is the decimal mark
    parts = re.split(r"[.,]", re.sub(r"[.,](?=\d{3}(?:\D|$))", "", number))
    values = [float(".".join(parts))] if len(parts) == 2 else [int(part) for part in parts]
    return " ".join(num2words(value, lang=code) for value in values).lower()


def count_errors(said: str, heard: str) -> Errors:
    """The fewest edits from `said` to `heard`, both `comparable`, in words and in characters, spaces included.

    ValueError if nothing was said, as there is no rate then.
    """
    if not said:
        raise ValueError("no word is in the text: no error rate can be had")
    words, characters = jiwer.process_words(said, heard), jiwer.process_characters(said, heard)
    return Errors(_edits(words), len(said.split()), _edits(characters), len(said))


def _edits(output: jiwer.WordOutput | jiwer.CharacterOutput) -> int:
    return output.substitutions + output.deletions + output.insertions
