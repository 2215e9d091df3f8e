"""The two frontends behind one interface: IPA through espeak-ng, or plain UTF-8 bytes."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.metadata import version

from config import TextConfig
from text.english import misaki_versions
from text.errors import Unspeakable, quoted
from text.espeak import espeak_language, espeak_version
from text.lexicon import Lexicon
from text.normalize import NORMALIZATION_VERSION, normalize
from text.phonemize import Phonemizer
from text.symbols import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    SPECIALS,
    SYMBOLS,
    TABLE_VERSION,
    UNK_ID,
    encode_bytes,
    encode_ipa,
    normalize_ipa,
)


class Frontend(ABC):
    """Text -> phonemes -> ids. `unknown` counts the symbols that `encode` did not find in the table."""

    pad_id, bos_id, eos_id, unk_id = PAD_ID, BOS_ID, EOS_ID, UNK_ID
    symbols: list[str]

    def __init__(self):
        self.unknown: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.symbols)

    @abstractmethod
    def check_language(self, language: str) -> None:
        """ValueError, with the names that come close, for a language that `phonemize` does not know."""

    @abstractmethod
    def phonemize(self, text: str, language: str) -> str:
        """What `encode` takes. ValueError for an unknown language, or if the text has nothing to speak."""

    def phonemize_many(self, texts: Sequence[str], language: str) -> list[str]:
        """`phonemize` of every text; a text that comes several times is phonemised once."""
        done = {text: self.phonemize(text, language) for text in dict.fromkeys(texts)}
        return [done[text] for text in texts]

    @abstractmethod
    def encode(self, ipa: str) -> list[int]:
        """Ids without BOS and EOS. An unknown symbol is `unk_id`; ValueError if no symbol is known."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The string of the ids; padding, BOS and EOS are left out."""

    @abstractmethod
    def state(self) -> dict:
        """Everything that the output depends on, for checkpoints; plain JSON values."""

    def check_state(self, state: dict, source: str) -> None:
        """ValueError with the reasons if a checkpoint's frontend is not this one; `source` names the checkpoint."""
        mine = self.state()
        if state.get("frontend") != mine["frontend"]:
            raise ValueError(f"{source}: trained with the frontend {state.get('frontend')!r}, this is "
                             f"{mine['frontend']!r}: set text.frontend in the config to the checkpoint's")
        reasons = [_difference(key, state.get(key), mine.get(key)) for key in dict.fromkeys([*state, *mine])
                   if state.get(key) != mine.get(key)]
        if reasons:
            raise ValueError(f"{source}: trained with another text frontend:\n  " + "\n  ".join(reasons))


class IPAFrontend(Frontend):
    """IPA of espeak-ng (English: of misaki, if asked); every symbol is one code point of decomposed IPA."""

    def __init__(self, lexicon: str | None = None, english: str = "espeak"):
        super().__init__()
        self.symbols = list(SYMBOLS)
        self._ids = {symbol: i for i, symbol in enumerate(SYMBOLS)}
        self._lexicon = Lexicon(lexicon)
        self._phonemizer = Phonemizer(self._lexicon, english)
        self._english = {"english": misaki_versions()} if english == "misaki" else {}

    def check_language(self, language: str) -> None:
        espeak_language(language)

    def phonemize(self, text: str, language: str) -> str:
        return self._phonemizer(text, language)

    def encode(self, ipa: str) -> list[int]:
        ids = encode_ipa(ipa, self._ids)
        self.unknown.update(symbol for symbol, i in zip(normalize_ipa(ipa), ids, strict=True) if i == UNK_ID)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.symbols[i] for i in ids if i not in (PAD_ID, BOS_ID, EOS_ID))

    def state(self) -> dict:
        return {
            "frontend": "ipa",
            "symbols": self.symbols,
            "table": TABLE_VERSION,
            "normalization": NORMALIZATION_VERSION,
            "lexicon": self._lexicon.fingerprint,
            **_versions(),
            **self._english,
        }


class ByteFrontend(Frontend):
    """UTF-8 bytes of the normalised text: no phonemes, any language."""

    def __init__(self):
        super().__init__()
        self.symbols = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256))]

    def check_language(self, language: str) -> None:
        """Bytes have no language; every name is fine."""

    def phonemize(self, text: str, language: str) -> str:
        if "[[" in text:
            raise ValueError(f"[[ipa]] in {quoted(text)}: the byte frontend has no phonemes; set text.frontend to "
                             "'ipa'")
        normalized = normalize(text, language)
        if not any(c.isalnum() for c in normalized):
            raise Unspeakable(f"nothing to speak in {quoted(text)}")
        return normalized

    def encode(self, ipa: str) -> list[int]:
        return encode_bytes(ipa)

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(i - len(SPECIALS) for i in ids if i >= len(SPECIALS)).decode(errors="replace")

    def state(self) -> dict:
        return {"frontend": "bytes", "symbols": self.symbols, "normalization": NORMALIZATION_VERSION}


def build_frontend(config: TextConfig) -> Frontend:
    """The frontend that the config names. ValueError names the lexicon's file and line, or what does not fit."""
    if config.frontend == "ipa":
        return IPAFrontend(config.lexicon, config.english)
    if config.english != "espeak":
        raise ValueError("text.english gives IPA, which the byte frontend does not use: remove it, or set "
                         "text.frontend to 'ipa'")
    if config.lexicon:
        raise ValueError("text.lexicon gives IPA, which the byte frontend does not use: remove it, or set "
                         "text.frontend to 'ipa'")
    return ByteFrontend()


@lru_cache
def _versions() -> dict[str, str]:
    packages = ["phonemizer", "espeakng-loader", "fugashi", "unidic-lite", "sentencex"]
    return {"espeak-ng": espeak_version()} | {name: version(name) for name in packages}


def _difference(key: str, theirs, mine) -> str:
    if key == "symbols":
        return f"the symbol table differs: {len(theirs or [])} symbols there, {len(mine or [])} here"
    if key == "lexicon":
        return (f"lexicon {(theirs or 'none')[:12]} there, {(mine or 'none')[:12]} here: set text.lexicon to the file "
                "that it was trained with; for single words write [[ipa]] in the text")
    if key == "english":
        return (f"English by {theirs or 'espeak-ng'} there, by {mine or 'espeak-ng'} here: set text.english to what it "
                "was trained with, and install those versions")
    if key in _versions():
        return f"{key} {theirs} there, {mine} here: install the version of the checkpoint"
    return f"{key} {theirs} there, {mine} here: use the code that it was trained with"
