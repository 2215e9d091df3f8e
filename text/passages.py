"""Passages in other languages, marked as in SSML 1.1: `He said <lang xml:lang="de">Guten Tag.</lang>`"""

import re

from text.errors import quoted

_PASSAGE = re.compile(r'<lang\s+xml:lang\s*=\s*"([^"]+)"\s*>((?:(?!<lang\b).)*?)</lang\s*>', re.DOTALL)
_TAG = re.compile(r"</?lang\b[^>]*>?")


def split_passages(text: str, language: str) -> list[tuple[str, str]]:
    """Every passage of a text that is more than space, with its language: the one that is marked, else `language`.

    ValueError for a mark without its other half, of another form, or inside another one.
    """
    passages, start = [], 0
    for match in _PASSAGE.finditer(text):
        passages += [(text[start : match.start()], language), (match[2], match[1])]
        start = match.end()
    passages.append((text[start:], language))
    for passage, _ in passages:
        if tag := _TAG.search(passage):
            raise ValueError(f'{quoted(tag[0])} in the text: mark a passage with <lang xml:lang="de">...</lang>, and '
                             "none inside another")
    return [(passage, name) for passage, name in passages if passage.strip()]
