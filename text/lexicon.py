"""Pronunciations given by hand: a file of `word<TAB>ipa` lines, and `[[ipa]]` inside a text."""

import hashlib
import re
import unicodedata
from pathlib import Path

from text.errors import quoted
from text.normalize import OVERRIDE, normalize
from text.symbols import SYMBOLS, normalize_ipa
from text_files import read_text

INLINE = re.compile(r"\[\[((?:(?!\[\[|\]\]).)*)\]\]")
# scripts written without spaces: a word may start and end anywhere
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff]")


class Lexicon:
    """Words (whole, in any case) and their IPA; with `path` None it is empty."""

    def __init__(self, path: str | Path | None):
        self.entries = _read(Path(path)) if path else {}
        # longest first, so that "New York" wins over "New"
        self._lengths = sorted({len(word) for word in self.entries}, reverse=True)

    @property
    def fingerprint(self) -> str | None:
        """SHA-256 of the entries, whatever their order; None for no entries."""
        if not self.entries:
            return None
        lines = "".join(f"{word}\t{ipa}\n" for word, ipa in sorted(self.entries.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    def replace(self, text: str, inline: list[str]) -> tuple[str, list[str]]:
        """Normalised text with OVERRIDE for every word of the lexicon, and the IPA of every OVERRIDE in order.

        `inline` is the IPA of those that the text already holds.
        """
        folded, given = _fold(text), iter(inline)
        out, overrides, i = [], [], 0
        while i < len(text):
            word = self._match(folded, i) if self._starts_word(folded, i) else None
            if word:
                out.append(OVERRIDE)
                overrides.append(self.entries[word])
                i += len(word)
                continue
            if text[i] == OVERRIDE:
                overrides.append(next(given))
            out.append(text[i])
            i += 1
        return "".join(out), overrides

    def _match(self, folded: str, start: int) -> str | None:
        for length in self._lengths:
            word = folded[start:start + length]
            if word in self.entries and self._ends_word(folded, start + length):
                return word
        return None

    @staticmethod
    def _starts_word(folded: str, i: int) -> bool:
        return i == 0 or bool(_UNSPACED.match(folded[i])) or not (_in_word(folded, i - 1) and _in_word(folded, i))

    @staticmethod
    def _ends_word(folded: str, end: int) -> bool:
        return end >= len(folded) or bool(_UNSPACED.match(folded[end - 1])) or not _in_word(folded, end)


def take_inline(text: str) -> tuple[str, list[str]]:
    """The text with OVERRIDE for every `[[ipa]]`, and the IPA of each. ValueError for one that is not closed."""
    overrides = [normalize_ipa(ipa) for ipa in INLINE.findall(text)]
    text = INLINE.sub(OVERRIDE, text.replace(OVERRIDE, ""))
    if "[[" in text or "]]" in text:
        raise ValueError(f"'[[' and ']]' do not pair up in {quoted(text.replace(OVERRIDE, '[[...]]'))}: write [[ipa]]")
    if not all(overrides):
        raise ValueError("empty [[ ]] in the text: write the IPA of a word between the brackets")
    return text, overrides


def _in_word(text: str, i: int) -> bool:
    """Whether the character is inside a word; an apostrophe is if a letter follows (can't)."""
    character = text[i]
    if character == "'":
        return 0 < i < len(text) - 1 and text[i - 1].isalnum() and text[i + 1].isalnum()
    return character.isalnum() or unicodedata.category(character)[0] == "M"


def _fold(text: str) -> str:
    """Lower case of the same length; the dot of an abbreviation is a plain one."""
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text).replace("․", ".")


def _read(path: Path) -> dict[str, str]:
    lines = read_text(path, "lexicon").splitlines()
    entries: dict[str, str] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) != 2 or not all(field.strip() for field in fields):
            problems.append(f"line {number}: expected word<TAB>ipa, got {quoted(line)}")
            continue
        word, ipa = _fold(normalize(fields[0], "und")), normalize_ipa(fields[1])
        unknown = sorted(set(ipa) - set(SYMBOLS))
        if not word:
            problems.append(f"line {number}: nothing to match in {quoted(fields[0])}")
        elif unknown:
            problems.append(f"line {number}: not in the symbol table: " + " ".join(map(_name, unknown)))
        elif entries.get(word, ipa) != ipa:
            problems.append(f"line {number}: {quoted(fields[0])} is given twice")
        else:
            entries[word] = ipa
    if problems:
        shown = "\n  ".join(problems[:10]) + (f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise ValueError(f"{path}: {len(problems)} bad line(s)\n  {shown}")
    return entries


def _name(character: str) -> str:
    return f"{character!r} (U+{ord(character):04X})"
