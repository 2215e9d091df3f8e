"""Where sentences end."""

_CODES = {"cmn": "zh", "yue": "zh", "hak": "zh", "nb": "no"}


def segment(text: str, language: str) -> list[str]:
    """Sentences whose concatenation is the text, trailing spaces included, but for what is no
    Unicode; `language` is espeak-ng's name."""
    import sentencex  # IPA is not cut into sentences, and can do without the library

    base = language.lower().replace("_", "-").split("-")[0]
    text = text.encode(errors="ignore").decode()  # half a surrogate pair, as of a command line that is not UTF-8
    return sentencex.segment(_CODES.get(base, base), text)


def split_sentences(text: str, language: str) -> list[str]:
    """The sentences of a text, stripped. A sentence keeps its inline `[[ipa]]` whole and has something to speak."""
    sentences: list[str] = []
    for piece in segment(text, language):
        open_bracket = sentences and sentences[-1].count("[[") > sentences[-1].count("]]")
        speakable = any(c.isalnum() for c in piece)
        if sentences and (open_bracket or not speakable):
            sentences[-1] += piece
        else:
            sentences.append(piece)
    return [sentence.strip() for sentence in sentences if sentence.strip()]
