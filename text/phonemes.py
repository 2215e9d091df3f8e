"""Groups the symbols of an IPA string into what takes time: phones and pauses.

A symbol is one code point (`text.symbols`); stress, length and tone marks, modifier letters and diacritics sound
together with a letter, and spaces and punctuation are one pause, which may last no time at all.
"""

from dataclasses import dataclass
from typing import Literal

from text.symbols import DIACRITICS, MARKS, MODIFIERS, STRESS_AND_LENGTH, TONES, normalize_ipa

SILENCE = " "
"""The symbol that stands for silence wherever it is, also at punctuation and at the ends of a clip."""
_BEFORE = {"ˈ", "ˌ"}
_SEPARATORS = {" ", *MARKS}
_ATTACHED = {*STRESS_AND_LENGTH, *TONES, *MODIFIERS, *DIACRITICS}


@dataclass(frozen=True)
class PhonemeGroup:
    """The symbols `start` to `end` (exclusive) of a normalised IPA string."""

    start: int
    end: int
    kind: Literal["phone", "pause"]
    head: int
    """The symbol that has the group's time: the letter of a phone, the first symbol of a pause."""


@dataclass(frozen=True)
class AlignmentUnit:
    """One state of an alignment: what is heard, and whose time it is."""

    symbol: str
    """The letter, or SILENCE."""
    place: int
    """Index in a clip's durations: 0 is the silence before the first symbol, symbol i has i + 1, the last is the
    silence behind."""
    optional: bool
    """A silence, which may have no frame."""


def phoneme_groups(ipa: str) -> list[PhonemeGroup]:
    """The groups of `normalize_ipa(ipa)`, that is of `frontend.encode(ipa)`, in order and without gaps.

    Stress marks belong to the next letter, all other marks to the one before, or to the next one at the start of a
    word. A run of spaces and punctuation is one pause; marks without any letter count as such.
    """
    symbols = normalize_ipa(ipa)
    groups: list[PhonemeGroup] = []
    start = 0
    while start < len(symbols):
        separator, end = symbols[start] in _SEPARATORS, start + 1
        while end < len(symbols) and (symbols[end] in _SEPARATORS) == separator:
            end += 1
        groups += [] if separator else _phones(symbols, start, end)
        covered = groups[-1].end if groups else 0
        if covered < end:
            if groups and groups[-1].kind == "pause":
                covered = groups.pop().start
            groups.append(PhonemeGroup(covered, end, "pause", covered))
        start = end
    return groups


def _phones(symbols: str, start: int, end: int) -> list[PhonemeGroup]:
    letters = [i for i in range(start, end) if symbols[i] not in _ATTACHED]
    starts = []
    for previous, letter in zip([start - 1, *letters], letters, strict=False):
        stress = next((i for i in range(previous + 1, letter) if symbols[i] in _BEFORE), letter)
        starts.append(stress if starts else start)
    return [
        PhonemeGroup(first, last, "phone", letter)
        for first, last, letter in zip(starts, [*starts[1:], end][: len(starts)], letters, strict=True)
    ]


def alignment_units(ipa: str) -> list[AlignmentUnit]:
    """Silence, the phones with a possible silence between words, silence.

    Punctuation at either end of the text is one with the silence there, which has its time.
    """
    symbols, groups = normalize_ipa(ipa), phoneme_groups(ipa)
    pauses = [i for i, group in enumerate(groups) if group.kind == "pause"]
    inside = groups[0 in pauses : len(groups) - (len(groups) - 1 in pauses)]
    units = [
        AlignmentUnit(symbols[g.head], g.head + 1, False) if g.kind == "phone"
        else AlignmentUnit(SILENCE, g.head + 1, True) for g in inside
    ]
    return [AlignmentUnit(SILENCE, 0, True), *units, AlignmentUnit(SILENCE, len(symbols) + 1, True)]
