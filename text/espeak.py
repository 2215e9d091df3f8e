"""One language of espeak-ng, through phonemizer, from the library that espeakng-loader carries."""

import difflib
import re
import unicodedata
from functools import cache

import espeakng_loader
from phonemizer.backend.espeak.wrapper import EspeakWrapper

from text.errors import quoted
from text.espeak_process import espeak_process
from text.symbols import normalize_ipa

_ALIASES = {"en": "en-us", "fr": "fr-fr", "zh": "cmn", "zh-cn": "cmn", "no": "nb", "en-uk": "en-gb", "pt-pt": "pt"}
_NO_DICTIONARY = {"fo", "kaa", "xex"}  # listed as voices, but their dictionaries are not in the package
_TONAL = {"cmn", "cmn-latn-pinyin", "yue", "hak", "vi", "vi-vn-x-central", "vi-vn-x-south", "my", "th", "shn",
          "chr-us-qaaa-x-west"}
# espeak-ng writes only the first digit of a tone into the IPA, which makes Mandarin's first (55) and fourth (51) one;
# its own mnemonics have the whole contour
_MANDARIN_TONES = {"55": "1", "35": "2", "214": "3", "21": "3", "51": "4", "53": "4", "11": "5"}

_SWITCH = re.compile(r"\([\w-]+\)")  # language-switch flags such as (en)
# mnemonics that espeak-ng's data gives no IPA for come out in ASCII: retroflex dot, palatal ^, ejective ` and so on
_ASCII = [
    ("E\u0308¥", "˥"), ("E\u0308§", "˧"), ("E\u0308©", "˩"),  # tone letters, twice encoded
    ("s.", "ʂ"), ("z.", "ʐ"), ("t.", "ʈ"), ("d.", "ɖ"), ("n.", "ɳ"), ("l.", "ɭ"), ("r.", "ɽ"), ("i.", "ɨ"),
    ("t`", "tʼ"), ("p`", "pʼ"), ("k`", "kʼ"), ("q`", "qʼ"), ("s`", "sʼ"), ("ʃ`", "ʃʼ"),
    ('"', "\u0308"), ("#", "\u0325"), ("[", "\u032a"), ("^", "ʲ"), (":", "ː"), ("?", "ʔ"),
    ("A", "ɑ"), ("E", "ɛ"), ("K", "ɬ"), ("N", "ŋ"), ("S", "ʃ"), ("X", "χ"), ("Z", "ʒ"),
]
_NO_SOUND = re.compile(r"[_.`%+=!F\x00-\x1f-]")


@cache
def languages() -> list[str]:
    """The names of the languages that can be spoken."""
    _use_packaged_library()
    return sorted({voice.language.lower() for voice in EspeakWrapper().available_voices()} - _NO_DICTIONARY)


def espeak_language(language: str) -> str:
    """espeak-ng's name for a language (`en` and `fr` and `zh` have one too); ValueError with close names if unknown."""
    name = language.strip().lower().replace("_", "-")
    name = _ALIASES.get(name, name)
    if name not in languages():
        close = difflib.get_close_matches(name, languages(), n=4, cutoff=0.5)
        close = close or [known for known in languages() if known.startswith(name[:2])][:4]
        hint = f"did you mean {', '.join(close)}?" if close else f"known are {', '.join(languages())}"
        raise ValueError(f"unknown language {quoted(language)}: {hint}")
    return name


def espeak_version() -> str:
    _use_packaged_library()
    return ".".join(map(str, EspeakWrapper().version))


class Espeak:
    """Text of one language -> IPA, with stress, without punctuation and language-switch flags."""

    def __init__(self, language: str):
        _use_packaged_library()
        self.language = espeak_language(language)
        self._voice = {voice.language.lower(): voice.language for voice in EspeakWrapper().available_voices()}[
            self.language]

    def ipa(self, text: str) -> str:
        """The IPA of a text without marks, in the table's spelling; empty if there is nothing to speak. ValueError for
        one that espeak-ng crashes at."""
        ipa, mnemonics = espeak_process()(self._voice, text)
        if self.language.startswith("cmn"):
            ipa = _with_mandarin_tones(text, ipa, mnemonics)
        elif self.language in _TONAL:
            ipa = re.sub(r"ɜ(?!ː)", "3", ipa)
        ipa = _SWITCH.sub("", unicodedata.normalize("NFD", ipa.replace("_", "")))
        for ascii_form, symbol in _ASCII:
            ipa = ipa.replace(ascii_form, symbol)
        if self.language == "ko":
            ipa = ipa.replace("-", "\u0348")  # tense consonants
        return normalize_ipa(_NO_SOUND.sub("", ipa))


def _with_mandarin_tones(text: str, ipa: str, mnemonics: str) -> str:
    """Puts the tone numbers 1 to 5 in place of the tones' first digits. ValueError if the two do not match."""
    foreign = r"(\([\w-]+\).*?(?:\(cmn[\w-]*\)|$))"
    contour = rf"(?<=[^\d_ |])(?:{'|'.join(_MANDARIN_TONES)})(?=[_ ]|$)"
    contours = re.findall(contour, re.sub(foreign, " ", mnemonics))
    parts = re.split(foreign, ipa)
    tone = re.compile(r"[1235ɜ](?=[_ ]|$)")
    if sum(len(tone.findall(part)) for part in parts[::2]) != len(contours):
        raise ValueError(f"the tones of {quoted(text)} cannot be told: espeak-ng mixes other scripts with Mandarin "
                         "there; write it in Chinese characters")
    remaining = iter(contours)
    parts[::2] = [tone.sub(lambda _: _MANDARIN_TONES[next(remaining)], part) for part in parts[::2]]
    return "".join(parts)


def _use_packaged_library() -> None:
    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
