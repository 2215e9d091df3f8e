"""English by misaki, with a tagger of spaCy's format that the test trains on a few words."""

import importlib
import sys

import pytest
import spacy
from spacy.training import Example

from config import TextConfig
from text import build_frontend
from text.english import TAGGER, Misaki
from text.symbols import SYMBOLS

SENTENCES = [
    ("We want to record a song", "PRP VBP TO VB DT NN"), ("She has a new record", "PRP VBZ DT JJ NN"),
    ("They use the old house", "PRP VBP DT JJ NN"), ("The use of it is clear", "DT NN IN PRP VBZ JJ"),
]


@pytest.fixture(scope="session")
def _tagger_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    model = spacy.blank("en")
    model.add_pipe("tok2vec")
    model.add_pipe("tagger")
    examples = []
    for words, tags in SENTENCES:
        document = model.make_doc(words)
        examples.append(Example.from_dict(document, {"words": [t.text for t in document], "tags": tags.split()}))
    spacy.util.fix_random_seed(0)
    optimizer = model.initialize(lambda: examples)
    for _ in range(60):
        model.update(examples, sgd=optimizer)
    package = folder / TAGGER
    package.mkdir()
    model.meta.update(name="core_web_sm", version="3.8.0")
    model.to_disk(package / f"{TAGGER}-3.8.0")
    (package / "meta.json").write_text((package / f"{TAGGER}-3.8.0" / "meta.json").read_text())
    (package / "__init__.py").write_text(
        "from spacy.util import load_model_from_init_py\n\n"
        "def load(**overrides):\n    return load_model_from_init_py(__file__, **overrides)\n")
    (folder / f"{TAGGER}-3.8.0.dist-info").mkdir()
    (folder / f"{TAGGER}-3.8.0.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {TAGGER}\nVersion: 3.8.0\n")
    return folder


@pytest.fixture
def tagger(_tagger_folder, monkeypatch):
    monkeypatch.syspath_prepend(str(_tagger_folder))
    importlib.invalidate_caches()
    yield
    sys.modules.pop(TAGGER, None)


@pytest.mark.parametrize(("language", "text", "ipa"), [
    ("en-us", "We want to record a song", "wˌi wˈɑnt tə ɹəkˈɔɹd ɐ sˈɔŋ"),
    ("en-us", "She has a new record", "ʃˌi hæz ɐ nˈu ɹˈɛkəɹd"),
    ("en-us", "The use of it is clear", "ðə jˈus ʌv ɪt ɪz klˈɪɹ"),
    ("en-us", "They use the old house", "ðˌeɪ jˈuz ði ˈoʊld hˈaʊs"),
    ("en-gb", "The old house", "ði ˈəʊld hˈaʊs"),
])
def test_a_word_is_said_as_it_is_used(tagger, language, text, ipa):
    assert Misaki(language).ipa(text) == ipa
    assert set(ipa) <= set(SYMBOLS)


def test_marks_stay_and_unknown_words_are_espeaks(tagger):
    frontend, plain = build_frontend(TextConfig(english="misaki")), build_frontend(TextConfig())
    ipa = frontend.phonemize("Well, the zyxgrommel (2 of them) is [[hˈaʊs]]!", "en-us")
    assert ipa.startswith("wˈɛl, ðə ")
    assert plain.phonemize("zyxgrommel", "en-us") in ipa
    assert "(tˈu ʌv ðˌɛm)" in ipa
    assert ipa.endswith("hˈaʊs!")
    assert not frontend.unknown
    assert frontend.phonemize("Guten Tag.", "de") == plain.phonemize("Guten Tag.", "de")
    with pytest.raises(ValueError, match=r"English by espeak-ng there, by .*'misaki': .* here: set text\.english"):
        frontend.check_state(plain.state(), "G_step1.pth")


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match=r'text.english "misaki" needs en_core_web_sm, .*: pip install .* && python3'):
        build_frontend(TextConfig(english="misaki"))
    with pytest.raises(ValueError, match=r"text\.english gives IPA, which the byte frontend does not use: remove it"):
        build_frontend(TextConfig(frontend="bytes", english="misaki"))
