"""Which voices a folder holds, and what language each speaks."""

import pytest

from make_demo_corpus import ENGLISH, GERMAN, SPANISH, sentences
from preprocessing.voices import Voice, find_voices, language_votes, other_language


def make_voice(folder, texts, language=None):
    folder.mkdir(parents=True)
    (folder / "metadata.csv").write_text("".join(f"{number:03d}|{text}\n" for number, text in enumerate(texts)))
    if language:
        (folder / "language.txt").write_text(f"{language}\n")
    return folder


@pytest.fixture
def recordings(tmp_path):
    make_voice(tmp_path / "bruno", sentences(GERMAN, 20))
    make_voice(tmp_path / "ella p", sentences(ENGLISH, 20), "en-gb")
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_a_folder_of_voices_and_a_single_one(recordings):
    bruno, ella = find_voices(recordings)
    assert bruno == Voice("bruno", recordings / "bruno", "de")
    assert ella == Voice("ella_p", recordings / "ella p", "en-gb")
    assert find_voices(recordings / "bruno") == [bruno]


@pytest.mark.parametrize(("given", "languages"), [
    (["nl"], ["nl", "nl"]), (["bruno=de-x", "ella_p=en-us"], ["de-x", "en-us"]), (["bruno=nl"], ["nl", "en-gb"]),
])
def test_what_is_given_wins(recordings, given, languages):
    assert [voice.language for voice in find_voices(recordings, given)] == languages


@pytest.mark.parametrize(("given", "message"), [
    (["de", "nl"], "language 'de': give one for all voices, or folder=language"),
    (["anna=de"], "there is no voice anna, but bruno, ella_p"),
    (["bruno="], "language 'bruno': give one"),
])
def test_languages_that_cannot_be_understood(recordings, given, message):
    with pytest.raises(ValueError, match=message):
        find_voices(recordings, given)


@pytest.mark.parametrize("voice", [ENGLISH, GERMAN, SPANISH], ids=lambda voice: voice.speaker)
def test_texts_tell_their_language(voice):
    language, share = next(iter(language_votes(sentences(voice, 300)).items()))
    assert language == voice.language.split("-")[0]
    assert share > 0.95


def test_mixed_texts_tell_no_language(tmp_path):
    make_voice(tmp_path / "both", sentences(GERMAN, 10) + sentences(SPANISH, 10))
    with pytest.raises(ValueError, match=r"both: its language is not clear from its texts \(..? 50%.*"
                                         r"--language both=NAME.*language\.txt"):
        find_voices(tmp_path)


def test_another_language_than_it_is_said_to_speak(tmp_path):
    folder = make_voice(tmp_path / "bruno", sentences(GERMAN, 10))
    said = [other_language(Voice("bruno", folder, language)) for language in ("de", "de-at", "en-us", "shn")]
    assert said == [None, None, "de", None]


def test_folders_without_voices(tmp_path):
    with pytest.raises(ValueError, match=r"none: no such folder; name one with a metadata\.csv"):
        find_voices(tmp_path / "none")
    with pytest.raises(ValueError, match=r"neither it nor a folder in it has a metadata\.csv"):
        find_voices(tmp_path)
    make_voice(tmp_path / "a b", ["One."], "en-us")
    make_voice(tmp_path / "a_b", ["Two."], "en-us")
    with pytest.raises(ValueError, match="the same name but for spaces"):
        find_voices(tmp_path)


def test_a_language_file_holds_one_name(tmp_path):
    make_voice(tmp_path / "ella", ["One."], "English, US")
    with pytest.raises(ValueError, match=r"language\.txt: must hold one name"):
        find_voices(tmp_path)
