"""Groups of IPA symbols: every symbol in one, marks with their letters, pauses between words."""

from itertools import pairwise

import pytest

from text.phonemes import SILENCE, alignment_units, phoneme_groups
from text.symbols import SYMBOLS, normalize_ipa


def grouped(ipa):
    symbols = normalize_ipa(ipa)
    return [symbols[group.start : group.end] for group in phoneme_groups(ipa)]


@pytest.mark.parametrize(("ipa", "parts"), [
    ("həlˈoʊ wˈɜːld.", ["h", "ə", "l", "ˈo", "ʊ", " ", "w", "ˈɜː", "l", "d", "."]),
    ("bɔ̃ʒˈuʁ", ["b", "ɔ\u0303", "ʒ", "ˈu", "ʁ"]),
    ("tˌɪŋ, — tɒm", ["t", "ˌɪ", "ŋ", ", — ", "t", "ɒ", "m"]),
    ("¿kˈe?", ["¿", "k", "ˈe", "?"]),
    ("tʰa1 ᵐba5", ["tʰ", "a1", " ", "ᵐb", "a5"]),
    ("niç ˈt͡ʃiː", ["n", "i", "c\u0327", " ", "ˈt", "ʃ", "iː"]),
    ("ba ˈ ba", ["b", "a", " ˈ ", "b", "a"]),
    ("baˈ", ["b", "aˈ"]),
])
def test_groups(ipa, parts):
    assert grouped(ipa) == parts


def test_groups_cover_every_symbol_once():
    ipa = "".join(SYMBOLS[4:]) + " ˈaː, ˌb." + "".join(reversed(SYMBOLS[4:]))
    groups = phoneme_groups(ipa)
    assert [group.start for group in groups] == [0, *(group.end for group in groups[:-1])]
    assert groups[-1].end == len(normalize_ipa(ipa))
    assert all(group.start <= group.head < group.end for group in groups)
    kinds = [group.kind for group in groups]
    assert ("pause", "pause") not in set(pairwise(kinds))


def test_units_take_silence_at_the_ends_and_between_words():
    units = alignment_units('"hˈaɪ, bˈɔɪ."')
    assert [(u.symbol, u.place, u.optional) for u in units] == [
        (SILENCE, 0, True), ("h", 2, False), ("a", 4, False), ("ɪ", 5, False), (SILENCE, 6, True), ("b", 8, False),
        ("ɔ", 10, False), ("ɪ", 11, False), (SILENCE, 14, True),
    ]


def test_units_of_text_without_a_phone():
    assert [unit.place for unit in alignment_units("...")] == [0, 4]
