"""evaluate.py on the tiny chain: every row, two runs alike, its refusals."""

import csv
import json

import pytest
from conftest import run_script

from data_utils import read_filelist, write_filelist
from mel_processing import audio_seconds
from synthesize import loaded

TIMES = {"real_time_factor"}


@pytest.fixture(autouse=True)
def _forget_models():
    loaded.cache_clear()


def figures(folder) -> list[dict]:
    return [{name: value for name, value in row.items() if name not in TIMES}
            for row in json.loads((folder / "utterances.json").read_text())]


@pytest.fixture
def filelist(chain, tmp_path):
    """The two shortest clips; neither is English, and no recogniser takes its time."""
    clips = [clip for clip in read_filelist("data/train.txt") if not clip.language.startswith("en")]
    write_filelist(tmp_path / "list.txt", sorted(clips, key=lambda clip: audio_seconds(clip.path))[:2])
    return tmp_path / "list.txt"


def test_rows_of_a_model(filelist, tmp_path, caplog):
    caplog.set_level("INFO")
    run_script("evaluate", "-m", "tiny", "-i", filelist, "-o", tmp_path / "a", "--rows", "vocoder", "codec_vocoder",
               "synthesis", "recording")
    rows = figures(tmp_path / "a")
    by_row = {row["row"]: row for row in rows}
    assert [row["row"] for row in rows] == [name for name in ("recording", "codec_vocoder", "synthesis") for _ in "ab"]
    assert "left out: vocoder" in caplog.text
    assert {"pesq", "stoi", "mel_l1", "mcd"} <= by_row["codec_vocoder"].keys()
    assert {"mcd", "runaway", "loudness"} <= by_row["synthesis"].keys()
    assert "pesq" not in by_row["synthesis"]
    assert all((tmp_path / "a" / row["row"] / f"{row['name']}.wav").is_file() for row in rows)

    # the same again, for the second line alone
    lines = filelist.read_text().splitlines(keepends=True)
    filelist.write_text(lines[1])
    run_script("evaluate", "-m", "tiny", "-i", filelist, "-o", tmp_path / "b", "--rows", "codec_vocoder", "synthesis")
    assert figures(tmp_path / "b") == [rows[3], rows[5]]

    report = json.loads((tmp_path / "a/report.json").read_text())
    assert report["settings"]["steps"] == {"codec": 4, "vocoder": 4}
    mean = report["rows"]["recording"]["all"]["dnsmos"]
    assert mean["n"] == 2
    assert mean["low"] <= mean["mean"] <= mean["high"]
    assert "| all | synthesis |" in (tmp_path / "a/report.md").read_text()
    assert (tmp_path / "a/report.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "a/utterances.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == [row["name"] for row in rows]


def test_an_exported_voice_is_measured_as_its_checkpoints_are(filelist, tmp_path):
    run_script("export", "-m", "tiny", "-o", tmp_path / "voice", "--precision", "fp32")
    for model, out in (("tiny", "a"), (tmp_path / "voice", "b")):
        run_script("evaluate", "-m", model, "-i", filelist, "-o", tmp_path / out, "--limit", 1,
                   "--rows", "codec_vocoder", "synthesis")
    assert figures(tmp_path / "a") == figures(tmp_path / "b")


def test_waves_made_elsewhere(chain, tmp_path):
    clips = [clip for clip in read_filelist("data/train.txt") if clip.language.startswith("en")][:1]
    (tmp_path / "list.txt").write_text("".join(f"{clip.path.stem}.wav|{clip.text}\n" for clip in clips))
    folder = clips[0].path.parent
    run_script("evaluate", "--wavs", folder, "-i", tmp_path / "list.txt", "-o", tmp_path / "out")
    rows = figures(tmp_path / "out")
    assert [row["row"] for row in rows] == ["synthesis"]
    assert rows[0]["cer"] < 0.8
    assert "mcd" not in rows[0]  # the list's own paths are no recordings
    assert "runaway" not in rows[0]


@pytest.mark.parametrize(("arguments", "message"), [
    (["-m", "nobody"], "no such model"),
    (["-m", "tiny", "--rows", "wave"], "--rows wave: there is recording,"),
    (["--rows", "codec"], "none of these rows can be made"),
    (["--wavs", "data"], "no audio file for"),
])
def test_refusals(chain, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        run_script("evaluate", "-i", "data/validation.txt", "-o", tmp_path, *arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
