"""Text -> IPA with punctuation kept: marks are cut out, what lies between is spoken, marks go back in."""

import re

from text.english import VARIETIES, Misaki
from text.errors import Unspeakable, quoted
from text.espeak import Espeak, espeak_language
from text.japanese import kana
from text.lexicon import Lexicon, take_inline
from text.normalize import OVERRIDE, normalize
from text.sentences import segment
from text.symbols import MARKS, TONES

_ABBREVIATION_DOT = "․"  # U+2024: a dot that ends no sentence
# not a mark: the dot in 3.5 and U.S., the comma in 1,000, the colon in 10:30
_PIECE = re.compile(rf"({OVERRIDE}|[!?;…—\"()¡¿]|\.(?!\w)|(?<!\d),|,(?!\d)|(?<!\w):|:(?!\w))")


class Phonemizer:
    """IPA of texts in any language of espeak-ng, with the pronunciations of a lexicon.

    `english`: who speaks American and British English, "espeak" or "misaki".
    """

    def __init__(self, lexicon: Lexicon, english: str = "espeak"):
        self._lexicon, self._english = lexicon, english
        self._voices: dict[str, Espeak | Misaki] = {}

    def __call__(self, text: str, language: str) -> str:
        """The IPA of one text. ValueError for an unknown language, or if there is nothing to speak."""
        language = espeak_language(language)
        text, inline = take_inline(text)
        normalized = _keep_abbreviations(normalize(text, language), language)
        replaced, overrides = self._lexicon.replace(normalized, inline)
        given = iter(overrides)
        pieces = _PIECE.split(replaced)
        ipa = "".join(
            next(given) if piece == OVERRIDE else piece if piece in MARKS else self._speak(piece, language)
            for piece in pieces
        )
        ipa = re.sub(r"\s+", " ", ipa).strip()
        if not any(c.isalpha() and c not in TONES for c in ipa):
            raise Unspeakable(f"nothing to speak in {quoted(text.replace(OVERRIDE, '[[...]]'))}")
        return ipa

    def _speak(self, text: str, language: str) -> str:
        """IPA of a text without marks, with a space at each end that has one in the text."""
        core = text.replace(_ABBREVIATION_DOT, ".").strip()
        core = re.sub(r"^[.-]+(?!\d)|-+$", "", core)  # what a cut beside a given pronunciation leaves
        if core and language == "ja":
            core = kana(core)
        ipa = self._voice(language).ipa(core) if core else ""
        before = " " if text[:1].isspace() else ""
        after = " " if text[-1:].isspace() else ""
        return before + ipa + after

    def _voice(self, language: str) -> Espeak | Misaki:
        if language not in self._voices:
            by_misaki = self._english == "misaki" and language in VARIETIES
            self._voices[language] = Misaki(language) if by_misaki else Espeak(language)
        return self._voices[language]


def _keep_abbreviations(text: str, language: str) -> str:
    """Marks the dots after which no sentence ends (Dr. Smith, am 3. Mai, e.g.), so that espeak-ng reads them."""
    text = re.sub(r"(?<=\b\w\.\w)\.(?!\w)", f"{_ABBREVIATION_DOT}.", text)
    if not re.search(r"\.\s+\S", text):
        return text
    sentences = segment(text, language)
    if "".join(sentences) != text:
        return text
    dot = re.compile(rf"(?<=\w)\.(?=\s+\w)|(?<={_ABBREVIATION_DOT})\.(?=\s+\w)")
    return "".join(dot.sub(_ABBREVIATION_DOT, sentence) for sentence in sentences)
