"""Text in any script, as people write it and as they do not, to phonemes and pieces; IPA of anything to symbols."""

import pytest
from fuzzing import tried
from hypothesis import example, given
from hypothesis import strategies as st

from config import TextConfig
from text import build_frontend, normalize_ipa, split_passages, split_sentences
from text.errors import Unspeakable
from text.espeak import languages
from text.normalize import normalize
from text.phonemes import alignment_units, phoneme_groups
from text.pieces import cut_to_fit, split_text
from text.symbols import SYMBOLS

PARTS = [
    "Hello", "world", "Dr.", "e.g.", "U.S.A.", "don't", "3.50", "1,000,000", "10:30", "²", "½", "€", "$", "%", "&", "@",
    "https://example.com/a?b=c", "a@b.org", "#tag", "東京", "は", "你好", "안녕", "नमस्ते", "लच्छेद", "مرحبا", "שלום",
    "Привет", "สวัสดี", "ϖ", "ß", "ﬁ", "Ｆｕｌｌ", "𝔉", "é", "e\u0301", "\u0301", "😀", "👨\u200d👩\u200d👧", "\u200b",
    "\u200f", "\u202e", "\u2066", "\ufeff", "\0", "\x1b[0m", "\x7f", "\ud83d", "\ue000", "\uf8d0", "\U000e0001",
    "\U0010ffff", "[[həlˈoʊ]]", "[[", "]]", "[[]]", '<lang xml:lang="de">', "</lang>", "<lang", "<speak>", "<break/>",
    "<!--", "&amp;", "\n\n", "\n", "\t", "\r", "\x85", "\u2028", "\u3000", ".", "...", "…", "!", "?!", "—", "--", "-",
    "(", ")", '"', "'", "«", "»", "„", "¿", "|", "_", "*", "/", "\\", "`", "^", "~", "0", "-1", "1" * 1000, "i" * 400,
    "s'", "a.", "\u0e33", "\u0f71", "ᠠ", "𒀀", "\u1160", "\u3164", "İ", "ſ", "K", "̸",
]
CHARACTERS = st.characters(codec=None)
TEXTS = st.one_of(
    st.lists(st.sampled_from(PARTS) | st.text(CHARACTERS, max_size=4), max_size=12).flatmap(
        lambda parts: st.sampled_from(["", " ", ". "]).map(lambda between: between.join(parts))),
    st.text(CHARACTERS, max_size=60),
    st.tuples(
        st.sampled_from(PARTS) | st.text(CHARACTERS, min_size=1, max_size=3), st.sampled_from([200, 1200, 12_000]),
    ).map(lambda repeated: repeated[0] * (repeated[1] // len(repeated[0]))),
)
LANGUAGES = st.sampled_from(["en-us", "de", "cmn", "ja", "fr", "el", "ko", "vi", "hi", "ar", "pt", "ru", "th", "my"])


@pytest.fixture(scope="module", params=["ipa", "bytes"])
def frontend(request):
    return build_frontend(TextConfig(frontend=request.param))


@given(text=TEXTS, language=LANGUAGES)
@example(text="a." * 500, language="en-us")
@example(text="βελτοϖ", language="pt")
def test_text_to_symbols(frontend, text, language):
    once = normalize(text, language)
    assert not any(character in once for character in "\0\n\u200b\ud83d")
    tried(split_passages, text, language)
    sentences = split_sentences(text, language)
    ipa = tried(frontend.phonemize, text, language)
    assert tried(frontend.phonemize, text, language) == ipa, "not twice the same"
    if ipa is not None:
        ids = frontend.encode(ipa)
        assert 0 <= min(ids) <= max(ids) < len(frontend)
        assert len(sentences) >= 1
        frontend.decode(ids)


@given(text=TEXTS, language=st.sampled_from(sorted(languages())))
def test_every_language(text, language):
    tried(build_frontend(TextConfig()).phonemize, text, language)


@given(language=TEXTS)
def test_names_of_languages(frontend, language):
    tried(frontend.check_language, language)


@given(ipa=TEXTS | st.text(st.sampled_from(SYMBOLS[4:]), max_size=40))
def test_ipa(ipa):
    frontend = build_frontend(TextConfig())
    ids = tried(frontend.encode, ipa)
    groups = phoneme_groups(ipa)
    assert [group.start for group in groups] == [0, *(group.end for group in groups)][: len(groups)]
    assert alignment_units(ipa)[-1].place == len(normalize_ipa(ipa)) + 1
    if ids is not None:
        assert len(ids) == len(normalize_ipa(ipa))


@given(text=TEXTS, kind=st.sampled_from(["text", "ipa"]), most=st.integers(5, 60))
def test_pieces(frontend, text, kind, most):
    def cut(ipa: str) -> list[str]:
        return cut_to_fit(ipa, lambda piece: len(frontend.encode(piece)) <= most, frontend, ".,")

    for piece in tried(lambda: list(split_text(text, "en-us", kind, frontend, cut))) or []:
        assert len(frontend.encode(piece.ipa)) <= most


def test_a_long_word_is_a_sentence_that_cannot_be_spoken(frontend):
    with pytest.raises(Unspeakable, match=r"too long to speak: a{40}\.\.\."):
        cut_to_fit("a" * 100_000, lambda piece: len(piece) < 50, frontend, ".")
