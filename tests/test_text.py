"""text: languages, normalisation, lexicon, both frontends, sentences."""

import json
import unicodedata

import pytest

from config import TextConfig
from text import build_frontend, normalize_ipa, split_sentences
from text.espeak import languages
from text.normalize import normalize
from text.passages import split_passages
from text.symbols import MARKS, SPECIALS, SYMBOLS

SENTENCES = {
    "en-us": ["Dr. Smith paid $3.50 at 10:30 — really?", "The quick brown fox jumps over 13 lazy dogs."],
    "ko": ["안녕하세요, 오늘 날씨가 좋네요!", "짜장면을 먹었어요. test"],
    "ja": ["私は東京へ行きます。", "今日は、とても良い天気ですね！2024年。"],
    "cmn": ["你好，我是学生！", "今天天气很好吗？ shopping"],
    "es": ["¿Cómo estás? ¡Muy bien, gracias!", "El niño comió pingüinos."],
    "fr": ["L’été dernier, nous étions au week-end « magnifique » !", "Où est le cœur ?"],
    "de": ["Am 3. Oktober ging Müller zur Straße.", "Das Baby im Internet – schön!"],
    "ru": ["Привет, как дела?", "Сегодня очень хорошая погода, юный ёж."],
    "it": ["Ciao, come stai?", "Perché gli gnocchi sono così buoni!"],
    "pt": ["Olá, tudo bem?", "São três irmãos e um coração."],
    "nl": ["Al voelde ik mezelf niet zo oud.", "Ik heb een leuk huis gezien."],
    "hi": ["नमस्ते, आप कैसे हैं?", "मैं ठीक हूँ।"],
    "pl": ["Cześć, jak się masz?", "Źdźbło trawy i żółta łąka."],
    "tr": ["Merhaba, nasılsın?", "Çok güzel bir gün, değil mi?"],
    "vi": ["Xin chào, bạn khỏe không?", "Tôi rất thích phở bò."],
    "ar": ["مرحبا، كيف حالك؟", "أنا بخير، والطقس جميل."],
}


@pytest.fixture(scope="module")
def frontend():
    return build_frontend(TextConfig())


@pytest.mark.parametrize("language", SENTENCES)
def test_languages_have_no_unknown_symbol(frontend, language):
    frontend.unknown.clear()
    for sentence in SENTENCES[language]:
        ipa = frontend.phonemize(sentence, language)
        ids = frontend.encode(ipa)
        assert frontend.decode(ids) == ipa
        assert frontend.unk_id not in ids
        assert not set("(_") & set(ipa)
        assert ipa[-1] in MARKS or sentence.endswith("test") or sentence.endswith("shopping")
    assert not frontend.unknown


def test_every_language_of_espeak_stays_in_the_table(frontend):
    """Numbers, Latin letters and other scripts, which make espeak-ng switch languages."""
    frontend.unknown.clear()
    for language in languages():
        frontend.encode(frontend.phonemize("1 23 456 abc xyz ñ š ß Привет नमस्ते مرحبا.", language))
    assert len(languages()) > 130
    assert not frontend.unknown


def test_known_pronunciations(frontend):
    assert frontend.phonemize("Hello, world!", "en-us") == "həlˈoʊ, wˈɜːld!"
    assert frontend.phonemize("Das Baby.", "de") == "das bˈeɪbi."  # espeak-ng: (en)bˈeɪbi(de)
    assert frontend.phonemize("Bonjour", "fr") == frontend.phonemize("Bonjour", "fr-fr")


def test_numbers_and_abbreviations_are_not_cut(frontend):
    assert frontend.phonemize("Dr. Smith has 3.5 and 1,000. It is 10:30.", "en-us").count(".") == 2
    assert frontend.phonemize("Dr. Smith", "en-us").startswith("dˈɑːktɚ ")
    assert frontend.phonemize("This, e.g. that", "en-us") == "ðˈɪs, fˌɔːɹɛɡzˈæmpəl ðˈæt"
    assert frontend.phonemize("-5", "en-us").startswith("mˈaɪnəs")


def test_mandarin_has_its_four_tones_and_the_neutral_one(frontend):
    assert frontend.phonemize("妈 麻 马 骂 吗", "cmn") == "mˈɑ1 mˈɑ2 mˈɑ3 mˈɑ4 mˈɑ5"
    assert frontend.phonemize("是。", "cmn") == "ʂˈɨ4."  # espeak-ng's `s.` is no full stop


def test_tones_elsewhere(frontend):
    assert frontend.phonemize("má", "vi").endswith("3")
    assert frontend.phonemize("好", "yue").endswith("2")


def test_japanese_kanji_and_particles(frontend):
    assert frontend.phonemize("私は東京へ行く。", "ja") == frontend.phonemize("ワタクシワ トーキョーエ イク。", "ja")
    assert frontend.phonemize("本を", "ja").endswith("o̞")
    with pytest.raises(ValueError, match="no reading for '鱻'"):
        frontend.phonemize("鱻", "ja")


def test_many_equals_one_by_one_in_any_order(frontend):
    texts = ["The end.", "Das Baby?", "Hello there.", "The end."]
    one_by_one = [frontend.phonemize(text, "de") for text in texts]
    assert frontend.phonemize_many(texts, "de") == one_by_one
    assert frontend.phonemize_many(texts[::-1], "de") == one_by_one[::-1]


def test_unknown_language_names_close_ones(frontend):
    with pytest.raises(ValueError, match="unknown language 'en-su': did you mean en-us"):
        frontend.phonemize("Hello", "en-su")
    with pytest.raises(ValueError, match="unknown language 'fo'"):  # a voice without a dictionary
        frontend.phonemize("Hello", "fo")


@pytest.mark.parametrize("text", ["", "...", "—", "😀", "?!", "\u200b", "\x00"])
def test_nothing_to_speak(frontend, text):
    with pytest.raises(ValueError, match="nothing to speak"):
        frontend.phonemize(text, "en-us")


@pytest.mark.parametrize(("text", "expected"), [
    ("“Hi”  ‘you’\u00a0… yes", "\"Hi\" 'you'… yes"),
    ("wait--what - no", "wait — what — no"),
    ("10–20 and 5 - 3", "10-20 and 5 - 3"),
    ("Really???  No!!! Well....", "Really? No! Well…"),
    ("Ｈｅｌｌｏ，ｗｏｒｌｄ！", "Hello, world!"),
    ("１２：３０", "12:30"),
    ("zero\u200bwidth soft\u00adhyphen \ufefftab\there\x07", "zerowidth softhyphen tab here"),
    ("ﬁne cafe\u0301 x²", "fine café x²"),
    ("ok 😀👍🏽 done ❤️", "ok done"),
    ("a , b ( c )", "a, b (c)"),
    ("lone \ud800 surrogate \ue001private", "lone surrogate private"),
    ("ｶﾞｷﾞ「はい。」と", "ガギ \"はい.\" と"),
])
def test_normalize(text, expected):
    assert normalize(text, "en-us") == expected


def test_normalize_per_language():
    assert normalize("Τι κάνεις;", "el") == "Τι κάνεις?"
    assert normalize("« Oui »", "fr-fr") == '"Oui"'
    assert normalize("می\u200cخوانم", "fa") == "می\u200cخوانم"
    assert normalize("l·l", "ca") == "l·l"


def test_normalize_twice_changes_nothing():
    for language, sentences in SENTENCES.items():
        for sentence in sentences:
            once = normalize(sentence, language)
            assert normalize(once, language) == once


def test_inline_ipa(frontend):
    assert frontend.phonemize("Hello [[wˈɜːld]], yes.", "en-us") == "həlˈoʊ wˈɜːld, jˈɛs."
    assert frontend.phonemize('"[[aː]]"!', "de") == '"aː"!'
    assert frontend.phonemize("[[a]] [[i]]", "de") == "a i"
    for bad in ("[[a b", "a]] b", "[[]] c", "[[a [[b]]", "[[a]] ]] [["):
        with pytest.raises(ValueError, match=r"\[\["):
            frontend.phonemize(bad, "en-us")


def test_lexicon(tmp_path):
    path = tmp_path / "lexicon.tsv"
    path.write_text("# names\nKathleen\tkæθlˈiːn\nNew York\tnuː jˈɔːk\ncan\tkæn\n東京\ttoːkjoː\n", encoding="utf-8")
    frontend = build_frontend(TextConfig(lexicon=str(path)))
    plain = build_frontend(TextConfig())
    assert frontend.phonemize('"KATHLEEN", new york! [[ʃ]]', "en-us") == '"kæθlˈiːn", nuː jˈɔːk! ʃ'
    assert frontend.phonemize("can't canned", "en-us") == plain.phonemize("can't canned", "en-us")
    assert frontend.phonemize("東京。", "ja") == "toːkjoː."
    assert frontend.state()["lexicon"] != plain.state()["lexicon"]
    with pytest.raises(ValueError, match="lexicon"):
        frontend.check_state(plain.state(), "G_step1.pth")


@pytest.mark.parametrize(("content", "message"), [
    ("a\tb\nword ipa\n", "line 2: expected word<TAB>ipa"),
    ("word\t☃\n", r"line 1: not in the symbol table: '☃' \(U\+2603\)"),
    ("word\ta\nWORD\ti\n", "line 2: 'WORD' is given twice"),
])
def test_bad_lexicon_names_file_and_line(tmp_path, content, message):
    path = tmp_path / "lexicon.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        build_frontend(TextConfig(lexicon=str(path)))
    assert str(path) in str(error.value)
    with pytest.raises(ValueError, match="no such lexicon"):
        build_frontend(TextConfig(lexicon=str(tmp_path / "none.tsv")))


def test_table():
    assert SYMBOLS[:4] == SPECIALS
    assert len(set(SYMBOLS)) == len(SYMBOLS)
    assert {"\u0255", "\u0291", "\u026b", "\u031e", "\u032a", "\u1d5d", *"123456789"} <= set(SYMBOLS)
    assert all(len(s) == 1 and unicodedata.normalize("NFD", s) == s for s in SYMBOLS[4:])
    assert normalize_ipa("t͡ʃ  gã\u200d") == "tʃ ɡa\u0303"


def test_encode_counts_unknown_symbols(frontend):
    frontend.unknown.clear()
    ids = frontend.encode("a☃☃")
    assert ids[1:] == [frontend.unk_id] * 2
    assert frontend.unknown == {"☃": 2}
    assert frontend.decode([frontend.bos_id, *ids, frontend.eos_id, frontend.pad_id]) == "a<unk><unk>"
    for nothing in ("☃ ☃", "", "  "):
        with pytest.raises(ValueError, match="no known symbol"):
            frontend.encode(nothing)


def test_state_is_json_and_a_changed_one_is_refused(frontend):
    state = frontend.state()
    assert json.loads(json.dumps(state)) == state
    assert state["espeak-ng"] == "1.52.0"
    frontend.check_state(state, "G_step1.pth")
    with pytest.raises(ValueError, match=r"G_step1.pth(.|\n)*espeak-ng 1.51 there, 1.52.0 here"):
        frontend.check_state(state | {"espeak-ng": "1.51"}, "G_step1.pth")
    with pytest.raises(ValueError, match="the symbol table differs"):
        frontend.check_state(state | {"symbols": state["symbols"][:-1]}, "G_step1.pth")
    with pytest.raises(ValueError, match="trained with the frontend 'bytes', this is 'ipa'"):
        frontend.check_state(build_frontend(TextConfig(frontend="bytes")).state(), "G_step1.pth")


def test_bytes(tmp_path):
    frontend = build_frontend(TextConfig(frontend="bytes"))
    text = frontend.phonemize("Grüße — “東京”…", "und")
    assert text == 'Grüße — "東京"…'
    ids = frontend.encode(text)
    assert len(frontend) == len(frontend.symbols) == 260
    assert ids == [4 + byte for byte in text.encode()]
    assert frontend.decode([frontend.bos_id, *ids, frontend.eos_id]) == text
    frontend.check_state(frontend.state(), "G_step1.pth")
    for bad in ("...", "[[a]]"):
        with pytest.raises(ValueError, match=r"nothing to speak|\[\[ipa\]\]"):
            frontend.phonemize(bad, "de")
    with pytest.raises(ValueError, match=r"text\.lexicon"):
        build_frontend(TextConfig(frontend="bytes", lexicon=str(tmp_path / "l.tsv")))


def test_split_sentences():
    text = "Dr. Smith left at 3.5 p.m. today. [[a. b]] c. ... Then?  Yes!"
    assert split_sentences(text, "en-us") == ["Dr. Smith left at 3.5 p.m. today.", "[[a. b]] c. ...", "Then?", "Yes!"]
    assert split_sentences("你好。我是学生！", "cmn") == ["你好。", "我是学生！"]
    assert split_sentences("Am 3. Mai. Gut.", "de") == ["Am 3. Mai.", "Gut."]
    assert split_sentences("  ", "en-us") == []


def test_a_long_text_takes_time_in_proportion(frontend):
    # with the square of its length, each of these took half a minute and more
    assert normalize(" " * 100_000 + "a", "en-us") == "a"
    assert normalize("a" + " " * 100_000 + "»", "fr") == 'a"'
    with pytest.raises(ValueError, match="do not pair up") as error:
        frontend.phonemize("[[" * 50_000, "en-us")
    assert len(str(error.value)) < 300
    with pytest.raises(ValueError, match="mark a passage"):
        split_passages('<lang xml:lang="de">' * 5_000, "en-us")


def test_half_a_surrogate_pair_is_left_out(frontend):
    assert split_sentences("Good\ud800 day. Yes.", "en-us") == ["Good day.", "Yes."]
    assert frontend.phonemize("Good\udfff day", "en-us") == frontend.phonemize("Good day", "en-us")
