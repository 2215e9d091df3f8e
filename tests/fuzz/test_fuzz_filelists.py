"""Filelists, metadata.csv, lexicons and TextGrids: lines of anything, and real ones with damaged bytes."""

from pathlib import Path

import pytest
from fuzzing import damaged, tried
from hypothesis import given
from hypothesis import strategies as st

from alignments.imported import durations_from_textgrid
from alignments.textgrids import Interval, read_textgrid, save_textgrid
from config import AudioConfig
from data_utils import read_filelist, write_filelist
from evaluation.utterances import read_utterances
from preprocessing.recordings import find_recordings
from text.lexicon import Lexicon

FILELIST = "".join(f"wavs/ella_{i:04d}.wav|ella|en-us|həlˈoʊ wˈɜːld\n" for i in range(4)).encode()
LEXICON = "# names\nKathleen\tkæθlˈiːn\nNew York\tnuː jˈɔːk\n東京\ttoːkjoː\n".encode()
METADATA = "a|Hello.\nb/c|Good day.|Good day\nd|東京へ\n".encode()
FIELDS = st.text(max_size=12) | st.sampled_from([
    "../../a.wav", "/etc/passwd", "..", ".", "", " ", "a\0b", "\u2028", "\x85", "\x0c", "a" * 300, "~", "a/../../b",
    "\\\\host\\share", "C:\\a.wav", "\ud800", "\u202egpj.wav", "ella", "en-us", "a.wav",
])
LINES = st.lists(st.lists(FIELDS, min_size=1, max_size=5).map("|".join), max_size=6).map("\n".join).map(
    lambda text: text.encode("utf-8", "surrogatepass"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("filelists")


@given(content=LINES | damaged(FILELIST) | st.binary(max_size=60))
def test_filelists(folder, content):
    path = folder / "list.txt"
    path.write_bytes(content)
    clips = tried(read_filelist, path, names=path)
    if clips is None:
        return
    copy = folder / "copy.txt"
    write_filelist(copy, clips)
    assert [(c.text, c.speaker, c.language) for c in read_filelist(copy)] == [
        (c.text, c.speaker, c.language) for c in clips]
    for clip in clips:  # what results are named after stays in the folder of results
        assert (folder / clip.speaker / f"{clip.path.stem}.wav").resolve().is_relative_to(folder.resolve())
    utterances = tried(read_utterances, [path], "en-us", names=path)
    for utterance in utterances or []:
        assert (folder / f"{utterance.name}.wav").resolve().parent == folder.resolve()
    for recording in tried(find_recordings, path, folder / "clips", None, None, names=folder) or []:
        assert (folder / f"{recording.name}.flac").resolve().parent == folder.resolve()


@given(content=LINES | damaged(METADATA) | st.binary(max_size=60))
def test_metadata(folder, content):
    (folder / "recordings").mkdir(exist_ok=True)
    metadata = folder / "recordings" / "metadata.csv"
    metadata.write_bytes(content)
    for recording in tried(find_recordings, metadata.parent, folder / "clips", None, None, names=metadata) or []:
        assert (folder / f"{recording.name}.flac").resolve().parent == folder.resolve()


@given(content=damaged(LEXICON) | LINES.map(lambda lines: lines.replace(b"|", b"\t")) | st.binary(max_size=60))
def test_lexicons(folder, content):
    path = folder / "lexicon.txt"
    path.write_bytes(content)
    lexicon = tried(Lexicon, path, names=path)
    if lexicon is not None:
        text, overrides = lexicon.replace("New York und Kathleen in 東京", [])
        assert len(overrides) <= len(text)


@pytest.fixture(scope="module")
def textgrid(folder) -> bytes:
    words = [Interval(0.1, 0.5, "həloʊ"), Interval(0.6, 1.0, "wɜːld")]
    phones = [Interval(0.1, 0.2, "h"), Interval(0.2, 0.3, "ə"), Interval(0.3, 0.4, "l"), Interval(0.4, 0.5, "oʊ"),
              Interval(0.6, 0.7, "w"), Interval(0.7, 0.8, "ɜː"), Interval(0.8, 0.9, "l"), Interval(0.9, 1.0, "d")]
    save_textgrid(folder / "whole.TextGrid", words, phones, 1.2)
    return (folder / "whole.TextGrid").read_bytes()


@given(st.data())
def test_textgrids(folder, textgrid, data):
    path: Path = folder / "damaged.TextGrid"
    odd = st.sampled_from([b"nan", b"inf", b"-1", b"1e400", b"", b'"', b"1" * 5000, b"0.1", b"IntervalTier", b"-" * 9])
    content = data.draw(damaged(textgrid) | st.binary(max_size=60))
    if data.draw(st.booleans()):
        words = textgrid.split(b" ")
        words[data.draw(st.integers(0, len(words) - 1))] = data.draw(odd)
        content = b" ".join(words)
    path.write_bytes(content)
    tried(read_textgrid, path, names=path)
    audio = AudioConfig()
    durations = tried(durations_from_textgrid, path, "həlˈoʊ wˈɜːld", 103, 1.2, audio, names=path)
    if durations is not None:
        assert sum(durations) == 103
        assert min(durations) >= 0
