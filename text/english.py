"""English by misaki, Kokoro's dictionary-based G2P: spaCy tells how a word is used (to record, a record), its lexicon
how it is said; espeak-ng speaks what is in no lexicon."""

from importlib.metadata import PackageNotFoundError, version

from text.espeak import Espeak
from text.symbols import normalize_ipa

VARIETIES = {"en-us": False, "en-gb": True}
"""Languages that misaki speaks, and whether they are British."""
TAGGER = "en_core_web_sm"
INSTALL = f"pip install -r requirements-misaki.txt && python3 -m spacy download {TAGGER}"

# misaki writes a diphthong as one capital, https://github.com/hexgrad/misaki/blob/main/EN_PHONES.md
_CAPITALS = str.maketrans({"A": "eɪ", "I": "aɪ", "O": "oʊ", "Q": "əʊ", "W": "aʊ", "Y": "ɔɪ", "ᵊ": "ə"})


class Misaki:
    """English text -> IPA, with stress. Words are told apart by their neighbours between two marks."""

    def __init__(self, language: str):
        """ValueError if misaki or its tagger is not installed."""
        misaki_versions()
        from misaki.en import G2P  # imports spaCy, which takes seconds

        espeak = Espeak(language)
        # version 2.0 keeps the tap and the glottal stop
        self._g2p = G2P(version="2.0", british=VARIETIES[language], fallback=lambda token: (espeak.ipa(token.text), 1))

    def ipa(self, text: str) -> str:
        """The IPA of a text without marks, in the table's spelling; empty if there is nothing to speak."""
        phonemes, _ = self._g2p(text, preprocess=False)
        return normalize_ipa(phonemes.translate(_CAPITALS))


def misaki_versions() -> dict[str, str]:
    """Versions of what the IPA depends on; ValueError with the command to install what is missing."""
    versions = {}
    for package in ("misaki", "spacy", TAGGER):
        try:
            versions[package] = version(package)
        except PackageNotFoundError as error:
            raise ValueError(f'text.english "misaki" needs {package}, which is not installed: {INSTALL}') from error
    return versions
