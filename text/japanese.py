"""Readings for Japanese: espeak-ng knows kana only, and spells kanji as "Chinese letter"."""

import re
from functools import cache

import fugashi
import unidic_lite

from text.errors import quoted

_KANJI = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff々〆ヶ]")
_SUFFIXES = ("助詞", "助動詞", "接尾辞")  # particle, auxiliary, suffix: spoken with the word before


@cache
def _tagger() -> fugashi.Tagger:
    return fugashi.Tagger(f'-r "{unidic_lite.DICDIR}/mecabrc" -d "{unidic_lite.DICDIR}"')


def kana(text: str) -> str:
    """The text as it is pronounced, in katakana (は, へ, を as particles: ワ, エ, オ), a space between phrases.

    Numbers and foreign letters stay. ValueError for a character that UniDic has no reading for.
    """
    phrases: list[str] = []
    for word in _tagger()(text):
        reading = word.feature.pron or word.surface
        if _KANJI.search(reading):
            raise ValueError(f"no reading for {quoted(word.surface)}: write it in kana, or give its pronunciation as "
                             "[[ipa]]")
        if phrases and word.feature.pos1 in _SUFFIXES and not word.white_space:
            phrases[-1] += reading
        else:
            phrases.append(reading)
    return " ".join(phrases)
