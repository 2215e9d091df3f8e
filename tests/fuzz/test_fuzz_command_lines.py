"""Command lines with odd values: each ends well, or with status 2 and a sentence, and leaves nothing half-written."""

import io
import logging
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from conftest import run_script
from fuzzing import limited
from hypothesis import given
from hypothesis import strategies as st

VALUES = st.sampled_from([
    "", " ", "x", "nan", "inf", "-inf", "-1", "0", "1", "2", "0.5", "1e400", "1e-320", "1e9", "9" * 20, "9" * 5000, "/",
    ".", "..", "/dev/null", "-", "--", "data", "config.json", "data/train_ipa.txt", "data/wavs/ella_0000.wav", "out",
    "نص", "a" * 300, "\ud800", "en-us", "de", "ella", "a.wav", "a.flac", "no/where/a.wav", "[[", "<lang", "həlˈoʊ",
]) | st.text(st.characters(exclude_characters="\0", codec=None), max_size=6)
NUMBERS = ["--rate", "--pitch", "--energy", "--seed", "--temperature", "--top-k", "--top-p", "--repetition-window",
           "--retries"]
SPEAK = ["-m", "tiny", "-l", "de", "--retries", "0", "-o", "out/a.wav", "--ipa", "a"]
SCRIPTS = {
    # a command line that works in no time, and what is put in place of, or beside, its options
    "synthesize": (
        SPEAK, ["-m", "-l", "-s", "-o", "--ipa", "--times", "--mel", "--reference", "--precision", *NUMBERS]),
    "preprocess_ipa": (["-i", "data/train.txt", "-o", "out/ipa.txt", "--jobs", "1", "--preview"],
                       ["-i", "-o", "-l", "--jobs", "--lexicon", "--frontend", "--input-type", "--english"]),
    "preprocess_audio": (["-i", "nowhere", "-o", "out", "--jobs", "1"],
                         ["-c", "--speaker", "--language", "--validation-fraction", "--loudness", "--min-seconds",
                          "--max-seconds", "--min-sample-rate", "--jobs"]),
    "export": (["-m", "tiny", "-o", "data"], ["-m", "-o", "--precision"]),
    "train_codec": (["-c", "nowhere.json", "-m", "new"], ["-c", "-m", "--resume", "--weights-from", "--max-steps"]),
    "evaluate": (["-m", "tiny", "-i", "nowhere.txt", "-o", "out"], ["-m", "--limit", "--rows", "--seed"]),
}


@pytest.fixture(scope="module")
def folder(_built_chain, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("commands") / "chain"
    shutil.copytree(_built_chain, folder, ignore=shutil.ignore_patterns("logs", "*.lock"))
    return folder


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@given(script=st.sampled_from(sorted(SCRIPTS)), data=st.data())
def test_command_lines(folder, script, data):
    line, options = SCRIPTS[script]
    line = list(line)
    for _ in range(data.draw(st.integers(1, 3))):
        option, value = data.draw(st.sampled_from(options)), data.draw(VALUES)
        if option in line and value:
            line[line.index(option) + 1] = value
        else:
            line += [option, value]
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out").mkdir()
    before = files(folder)
    status, error = run(folder, script, line)
    assert status in (0, 2), error
    assert "Traceback" not in error
    assert not [path for path in files(folder) if path.suffix in (".tmp", ".partial") or "unfinished" in path.name]
    if status == 2:
        assert "error: " in error
        assert len(error.rpartition("error: ")[2]) > 10
        assert files(folder) == before
    for path in files(folder).keys() - before.keys():
        path.unlink()


def run(folder: Path, script: str, line: list[str]) -> tuple[int, str]:
    """Status and standard error of a command line, run in the folder."""
    error, status = io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(error), redirect_stdout(io.TextIOWrapper(io.BytesIO())):
        patch.chdir(folder)
        patch.setattr(logging.root, "handlers", [logging.NullHandler()])
        try:
            with limited():
                run_script(script, *line)
        except SystemExit as stop:
            status = stop.code or 0
    return status, error.getvalue()
