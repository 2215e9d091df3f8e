"""preprocess_ipa: options, resuming, summaries, and that nothing is half-written."""

import logging
import sys

import pytest

import preprocess_ipa
from data_utils import read_filelist


@pytest.fixture
def call(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        caplog.clear()
        monkeypatch.setattr(sys, "argv", ["preprocess_ipa.py", *arguments])
        preprocess_ipa.main()
        return caplog.text

    return run


def write(path, *lines: str) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def test_writes_four_columns_and_names_skipped_lines(call, tmp_path):
    write(tmp_path / "in.txt", "clips/a.wav|Hello, world!", "", "clips/b.wav|...", "clips/c.wav|Yes.")
    log = call("-i", "in.txt", "-o", "lists/out.txt", "-l", "en-us")
    assert (tmp_path / "lists/out.txt").read_text(encoding="utf-8") == (
        "../clips/a.wav|default|en-us|həlˈoʊ, wˈɜːld!\n../clips/c.wav|default|en-us|jˈɛs.\n"
    )
    assert "in.txt line 3 left out: nothing to speak in '...'" in log
    assert "1 lines left out, 0 unknown symbols" in log
    assert [p.name for p in (tmp_path / "lists").iterdir()] == ["out.txt"]


def test_language_column_wins(call, tmp_path):
    write(tmp_path / "in.txt", "a.wav|anna|de|Das Baby.", "b.wav|bob|en-us|Hello.")
    call("-i", "in.txt", "-o", "out.txt", "-l", "ko")
    clips = read_filelist(tmp_path / "out.txt")
    assert [(c.speaker, c.language, c.text) for c in clips] == [
        ("anna", "de", "das bˈeɪbi."), ("bob", "en-us", "həlˈoʊ."),
    ]


def test_preview_writes_nothing(call, tmp_path):
    write(tmp_path / "in.txt", *(f"{i}.wav|Number {i}." for i in range(7)))
    log = call("-i", "in.txt", "-o", "out.txt", "-l", "en-us", "--preview")
    assert "4.wav" in log
    assert "5.wav" not in log
    assert "nˈʌmbɚ fˈɔːɹ." in log
    assert [p.name for p in tmp_path.iterdir()] == ["in.txt"]


@pytest.mark.parametrize(("lines", "arguments", "message"), [
    (["a.wav|Hello."], [], "no language column; give the language with -l"),
    (["a.wav|Hello."], ["-l", "en-su"], "unknown language 'en-su'"),
    (["a.wav|..."], ["-l", "de"], "no line is left; the first: nothing to speak"),
    (["a.wav|həlˈoʊ."], ["-l", "en-us"], "--input-type ipa"),
    (["a.wav|hello."], ["-l", "en-us", "--input-type", "ipa"], "--input-type text"),
    (["a.wav|həlˈoʊ."], ["-l", "en-us", "--input-type", "ipa", "--frontend", "bytes"], "only checks IPA"),
    (["a.wav|Hello."], ["-l", "en-us", "--jobs", "0"], "--jobs 0"),
    (["a.wav|Hello."], ["-l", "en-us", "--lexicon", "none.tsv"], "none.tsv: no such lexicon"),
    (["a.wav|Hello."], ["-l", "en-us", "-o", "in.txt"], "the same file"),
])
def test_mistakes(call, tmp_path, lines, arguments, message):
    write(tmp_path / "in.txt", *lines)
    with pytest.raises(ValueError, match=message):
        call("-i", "in.txt", "-o", "out.txt", *arguments)
    assert not (tmp_path / "out.txt").exists()
    assert read_filelist(tmp_path / "in.txt")


def test_ipa_is_checked_and_not_phonemised_again(call, tmp_path):
    write(tmp_path / "in.txt", "a.wav|s|en-us|həlˈoʊ  gã.", "b.wav|s|en-us|t͡ʃˈiːz☃☃.", "c.wav|s|en-us|☃")
    log = call("-i", "in.txt", "-o", "out.txt", "--input-type", "ipa")
    assert [c.text for c in read_filelist(tmp_path / "out.txt")] == ["həlˈoʊ ɡa\u0303.", "tʃˈiːz☃☃."]
    assert "unknown symbol '☃' (U+2603): 2 times" in log
    assert "line 3 left out: no known symbol" in log


def test_lexicon_and_bytes(call, tmp_path):
    write(tmp_path / "in.txt", "a.wav|Hello Kathleen!")
    write(tmp_path / "words.tsv", "kathleen\tkæθlˈiːn")
    call("-i", "in.txt", "-o", "out.txt", "-l", "en-us", "--lexicon", "words.tsv")
    assert read_filelist(tmp_path / "out.txt")[0].text == "həlˈoʊ kæθlˈiːn!"
    call("-i", "in.txt", "-o", "out.txt", "-l", "en-us", "--frontend", "bytes")
    assert read_filelist(tmp_path / "out.txt")[0].text == "Hello Kathleen!"


def test_interrupted_run_continues(call, tmp_path, monkeypatch):
    write(tmp_path / "in.txt", *(f"{i}.wav|Number {i}." for i in range(6)))
    call("-i", "in.txt", "-o", "whole.txt", "-l", "en-us")
    monkeypatch.setattr(preprocess_ipa, "CHUNK_LINES", 2)
    phonemize = preprocess_ipa.phonemize
    chunks = []

    def interrupted(config, input_type, chunk):
        chunks.append([i for i, _ in chunk])
        if len(chunks) == 2:
            raise KeyboardInterrupt
        return phonemize(config, input_type, chunk)

    monkeypatch.setattr(preprocess_ipa, "phonemize", interrupted)
    command = ("-i", "in.txt", "-o", "out.txt", "-l", "en-us")
    with pytest.raises(KeyboardInterrupt):
        call(*command)
    assert not (tmp_path / "out.txt").exists()
    with (tmp_path / "out.txt.partial").open("a", encoding="utf-8") as partial:
        partial.write('{"2": {"ip')  # cut off while it was written
    call(*command)
    assert chunks == [[0, 1], [2, 3], [2, 3], [4, 5]]
    assert (tmp_path / "out.txt").read_bytes() == (tmp_path / "whole.txt").read_bytes()
    assert not (tmp_path / "out.txt.partial").exists()


def test_partial_of_other_options_is_not_used(tmp_path):
    partial = tmp_path / "out.txt.partial"
    write(partial, '{"fingerprint": "one"}', '{"0": {"ipa": "a"}}')
    assert preprocess_ipa.read_partial(partial, "one") == {0: {"ipa": "a"}}
    assert preprocess_ipa.read_partial(partial, "two") == {}


def test_processes_give_the_same(call, tmp_path, monkeypatch):
    write(tmp_path / "in.txt", *(f"{i}.wav|Number {i}." for i in range(8)))
    call("-i", "in.txt", "-o", "one.txt", "-l", "en-us", "--jobs", "1")
    monkeypatch.setattr(preprocess_ipa, "CHUNK_LINES", 2)
    monkeypatch.setattr(preprocess_ipa, "CHUNKS_PER_PROCESS", 2)
    call("-i", "in.txt", "-o", "two.txt", "-l", "en-us", "--jobs", "2")
    assert (tmp_path / "one.txt").read_bytes() == (tmp_path / "two.txt").read_bytes()
