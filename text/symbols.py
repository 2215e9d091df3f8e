"""The symbol table: single code points of decomposed (NFD) IPA, fixed in order.

It covers the phoneme tables of espeak-ng 1.52 (every IPA string and mnemonic in its compiled data) and the rest of
the IPA chart. Checkpoints store it: a change of order or content needs a new TABLE_VERSION and new training.
"""

import re
import unicodedata
from collections.abc import Sequence

from text.errors import Unspeakable, quoted

TABLE_VERSION = 1

SPECIALS = ["<pad>", "<bos>", "<eos>", "<unk>"]
PAD_ID, BOS_ID, EOS_ID, UNK_ID = range(4)

MARKS = '.,!?;:…—"()¡¿'
"""Punctuation that stays in the IPA, as marks of prosody."""
STRESS_AND_LENGTH = "ˈˌːˑ"
TONES = "123456789˥˦˧˨˩"
VOWELS = "aeiouyæøœɐɑɒɔɘəɚɛɜɝɞɤɨɪɯɵɶʉʊʌʏᵻ"
CONSONANTS = "bcdfhjklmnpqrstvwxzðħŋɓɕɖɗɟɠɡɢɣɥɦɧɫɬɭɮɰɱɲɳɴɸɹɺɻɽɾʀʁʂʃʄʈʋʍʎʐʑʒʔʕʘʙʛʜʝʟʡʢβθχǀǁǂǃ"
MODIFIERS = "ʰʲʷʼˀˠˤ˞ʱⁿᵐᵑᶮᶯᵝˡ"
DIACRITICS = (
    "\u0303\u0306\u0308\u030a\u030b\u0301\u0304\u0300\u030f\u0318\u0319\u031a\u031c\u031d\u031e\u031f\u0320\u0324\u0325"
    "\u0327\u0329\u032a\u032c\u032f\u0330\u0334\u0339\u033a\u033b\u033c\u033d\u0348"
)

SYMBOLS = [*SPECIALS, " ", *MARKS, *STRESS_AND_LENGTH, *TONES, *VOWELS, *CONSONANTS, *MODIFIERS, *DIACRITICS]

# one sound, one spelling: what fonts show alike, and what espeak-ng's data spells in two ways
_SPELLINGS = {
    "g": "ɡ", "ε": "ɛ", "Φ": "ɸ", "φ": "ɸ", "ʦ": "ts", "ʣ": "dz", "ʧ": "tʃ", "ʤ": "dʒ", "ʨ": "tɕ", "ʥ": "dʑ", "'": "ˈ",
    "’": "ʼ", "|": " ", "‖": " ", "_": "",
}
_INVISIBLE = dict.fromkeys([0x0361, 0x035C, 0x00AD, *range(0x200B, 0x2010), 0x2060, 0xFEFF])  # ties, zero width


STRESS_MARKS = set("ˈˌː")
"""Stress and length: IPA has them, no orthography has."""


def stressed_share(texts: Sequence[str]) -> float:
    """The share of texts with stress or length marks: of IPA nearly all, of plain text none."""
    return sum(bool(STRESS_MARKS & set(text)) for text in texts) / len(texts)


def encode_ipa(ipa: str, ids: dict[str, int]) -> list[int]:
    """The id of every symbol of `normalize_ipa(ipa)`, UNK_ID of those that have none; Unspeakable if no symbol has."""
    symbols = normalize_ipa(ipa)
    if not any(symbol in ids for symbol in symbols if symbol != " "):
        raise Unspeakable(f"no known symbol in {quoted(ipa)}")
    return [ids.get(symbol, UNK_ID) for symbol in symbols]


def encode_bytes(text: str) -> list[int]:
    """The ids of UTF-8 bytes, which stand behind the special symbols; Unspeakable for blank text."""
    if not text.strip():
        raise Unspeakable(f"no known symbol in {quoted(text)}")
    return [len(SPECIALS) + byte for byte in text.encode()]


def normalize_ipa(ipa: str) -> str:
    """IPA in the table's spelling: NFD, no ties or zero-width characters, one letter per sound, single spaces."""
    ipa = unicodedata.normalize("NFD", ipa).translate(_INVISIBLE | str.maketrans(_SPELLINGS))
    return re.sub(r"\s+", " ", ipa).strip()
