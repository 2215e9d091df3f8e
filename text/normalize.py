"""Unicode and punctuation normalisation, the same for training text and for text to speak."""

import re
import unicodedata

NORMALIZATION_VERSION = 1

OVERRIDE = "\ue000"
"""Stands for one pronunciation that was given by hand; a private-use character that text never holds."""

_MAP = str.maketrans({
    **dict.fromkeys("“”„‟«»″「」『』〝〞〟＂", '"'),
    **dict.fromkeys("‘’‚‛‹›′`´＇ʼ", "'"),
    **dict.fromkeys("‒–—―⸺⸻〜～", "—"),
    **dict.fromkeys("‐‑−﹣－", "-"),
    **dict.fromkeys("[{〔【〈《〖（［｛", "("),
    **dict.fromkeys("]}〕】〉》〗）］｝", ")"),
    **dict.fromkeys("。．｡۔।॥።၊။։", "."),
    **dict.fromkeys("，、､،፣", ","),
    **dict.fromkeys("！", "!"),
    **dict.fromkeys("？؟፧⁇", "?"),
    **dict.fromkeys("；؛፤", ";"),
    **dict.fromkeys("：፥", ":"),
    **dict.fromkeys("⋯︙", "…"),
    "၊": ",", "‽": "?!", "⁉": "!?", "⁈": "?!", "‼": "!", "・": " ", "･": " ",
})
# scripts without spaces have none beside marks, where the IPA wants one
_MISSING_SPACE = re.compile(r"(?<=[。．｡，、､！？；：」』）】》〉])(?=\w)|(?<=\w)(?=[「『（【《〈])")
_SYMBOLS_READ_ALOUD = "°©®"
# compatibility forms that are only another shape of a character; superscripts and fractions are read as such
_SHAPES = {"<wide>", "<narrow>", "<small>", "<font>", "<compat>", "<circle>", "<square>", "<vertical>",
           "<initial>", "<medial>", "<final>", "<isolated>"}
# joiners are orthography in Arabic and Indic scripts
_JOINER = re.compile(r"(?<![\u0600-\u0dff])[\u200c\u200d]")


def normalize(text: str, language: str) -> str:
    """Plain text on one line: NFC, one kind of each quote, dash and mark, nothing invisible, no emoji.

    Compatibility shapes (full width, ligatures, circled, mathematical) become ordinary letters; superscripts and
    fractions stay, because espeak-ng reads them. Runs of the same mark become one, two or more dots an ellipsis.
    """
    text = re.sub(r"(?<=\d)[．：，](?=\d)", lambda m: unicodedata.normalize("NFKC", m[0]), text)
    text = _MISSING_SPACE.sub(" ", text)
    text = re.sub(r"(?<=\d)[–−](?=\d)", "-", text)
    if language.startswith("fr"):
        text = re.sub(r"(?<=«)\s+|(?<!\s)\s+(?=»)", "", text)
    if language.split("-")[0] in ("el", "grc"):
        text = re.sub("[;\u037e]", "?", text).replace("·", ";").replace("\u0387", ";")
    text = "".join(map(_shape, text.translate(_MAP)))
    text = unicodedata.normalize("NFC", text).translate(_MAP)
    text = _JOINER.sub("", "".join(map(_visible, text)))

    # (?<!\s): a run of spaces is looked at from its beginning alone, else a long one would take the square of its time
    text = re.sub(r"\.{2,}|…+", "…", text)
    text = re.sub(r"(?:(?<!\s)\s+)?(?:--+|—)\s*|(?<!\d)\s-\s|\s-\s(?!\d)", " — ", text)
    text = re.sub(r"([!?,;:])\1+", r"\1", text)
    text = re.sub(r"…(?=\w)", "… ", text)
    text = re.sub(r"(?<!\s)\s+(?=[,!?;:…)]|\.(?!\w))", "", text)
    text = re.sub(r"\(\s+", "(", text)
    return re.sub(r"\s+", " ", text).strip()


def _shape(character: str) -> str:
    tag = unicodedata.decomposition(character).partition(" ")[0]
    return unicodedata.normalize("NFKC", character) if tag in _SHAPES else character


def _visible(character: str) -> str:
    if character in "\u200c\u200d" or character in _SYMBOLS_READ_ALOUD or character == OVERRIDE:
        return character
    if character == "\u00ad" or "\ufe00" <= character <= "\ufe0f":
        return ""
    category = unicodedata.category(character)
    if category[0] == "Z" or character in "\t\n\r\v\f\x85":
        return " "
    if category in ("Cc", "Cf", "Cs", "Cn", "Me"):
        return ""
    if category == "Co":
        return character if "\uf8d0" <= character <= "\uf8ff" else ""  # Klingon, which espeak-ng speaks
    if category == "So" or (category == "Sk" and not character.isascii()):
        return " "
    return character
