"""align.py from the filelists to durations and TextGrids, against the true times of a spoken corpus."""

import csv
import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import run_script, tiny_config

from alignments.imported import durations_from_textgrid
from config import AudioConfig, load_config
from data_utils import read_filelist, write_filelist
from durations_cache import durations_fingerprint, load_durations
from mel_processing import load_audio, log_mel
from text import build_frontend
from text.phonemes import alignment_units

AUDIO = AudioConfig()
COMMAND = ("-c", "config.json", "-m", "tiny")


@pytest.fixture(scope="module")
def _aligned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aligned")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_script("make_demo_corpus", "-o", "data", "--sentences", "24")
        for part in ("train", "validation"):
            run_script("preprocess_ipa", "-i", f"data/{part}.txt", "-o", f"data/{part}_ipa.txt", "--jobs", "1")
        config = tiny_config(data={"durations": "durations"})
        config["aligner"] = {"hidden_size": 64, "n_layers": 2}
        config["train"]["aligner"] = {
            "max_steps": 90, "batch_size": 4, "learning_rate": 5e-3, "warmup_steps": 5, "diagonal_steps": 40,
            "eval_interval": 90, "save_interval": 90,
        }
        Path("config.json").write_text(json.dumps(config))
        run_script("align", *COMMAND)
    return folder


@pytest.fixture
def aligned(_aligned, tmp_path, monkeypatch):
    """A copy of the aligned corpus as the current folder, free to be changed."""
    folder = tmp_path / "aligned"
    shutil.copytree(_aligned, folder, ignore=shutil.ignore_patterns("logs", "*.lock"))
    monkeypatch.chdir(folder)
    return folder


def set_config(**changes):
    config = json.loads(Path("config.json").read_text())
    for section, values in changes.items():
        config[section] = config.get(section, {}) | values
    Path("config.json").write_text(json.dumps(config))


def rows_of(part, folder="durations"):
    config = load_config("config.json")
    fingerprint = durations_fingerprint(config.audio.model_dump(), build_frontend(config.text).state())
    return load_durations(Path(folder) / part if part else folder, fingerprint)


def boundary_errors(rows):
    """|our start - true start| in ms of every phone of the spoken corpus."""
    truth, errors = json.loads(Path("data/phonemes.json").read_text()), []
    for row in rows:
        starts = np.concatenate([[0], np.cumsum(row["durations"])]) * AUDIO.hop_length / AUDIO.sample_rate
        mine = [(unit.symbol, starts[unit.place]) for unit in alignment_units(row["ipa"]) if not unit.optional]
        true = [
            (unit.symbol, start if first else None)
            for ipa, start in truth[str(Path(row["path"]).relative_to("data"))] if ipa
            for first, unit in zip([True, False, False], [u for u in alignment_units(ipa) if not u.optional],
                                   strict=False)
        ]
        assert [symbol for symbol, _ in mine] == [symbol for symbol, _ in true]
        errors += [abs(a - b) * 1000 for (_, a), (_, b) in zip(mine, true, strict=True) if b is not None]
    return np.array(errors)


def test_durations_fill_the_recordings_and_are_where_the_phones_are(aligned):
    frontend = build_frontend(load_config("config.json").text)
    rows = rows_of("training")
    assert [row["path"] for row in rows] == [str(clip.path) for clip in read_filelist("data/train_ipa.txt")]
    for row in rows:
        mel = log_mel(load_audio(row["path"], AUDIO.sample_rate).unsqueeze(0), AUDIO)
        assert sum(row["durations"]) == row["frames"] == mel.shape[2]
        assert len(row["durations"]) == len(frontend.encode(row["ipa"])) + 2
        assert all(row["durations"][unit.place] >= 1 for unit in alignment_units(row["ipa"]) if not unit.optional)
    errors = boundary_errors(rows)
    assert np.median(errors) < 20
    assert np.percentile(errors, 90) < 60


def test_reports(aligned):
    reports, rows = Path("durations/training_reports"), rows_of("training")
    with (reports / "scores.csv").open(encoding="utf-8") as file:
        scores = list(csv.DictReader(file))
    assert len(scores) == len(rows)
    assert [float(line["score"]) for line in scores] == sorted(float(line["score"]) for line in scores)
    words = json.loads((reports / "words.json").read_text())
    for row in rows:
        path = reports / "TextGrid" / row["speaker"] / f"{Path(row['path']).stem}.TextGrid"
        again = durations_from_textgrid(path, row["ipa"], row["frames"], row["seconds"], AUDIO)
        assert again == row["durations"]
        spoken = re.sub(r"[ .,!?]+", " ", row["ipa"]).split()
        assert [word for word, _, _ in words[row["path"]]] == spoken
        times = [time for _, start, end in words[row["path"]] for time in (start, end)]
        assert times == sorted(times)
        assert times[-1] <= row["seconds"] + 1e-3


def test_a_trained_aligner_only_writes(aligned):
    checkpoint = Path("checkpoints/tiny/aligner/G_step90.pth")
    before, durations = checkpoint.stat().st_mtime_ns, rows_of("training")["durations"]
    shutil.rmtree("durations")
    run_script("align", *COMMAND)
    assert checkpoint.stat().st_mtime_ns == before
    assert list(rows_of("training")["durations"]) == list(durations)


def test_other_recordings_and_wrong_texts(aligned, caplog):
    clips = read_filelist("data/train_ipa.txt")[:9]
    wrong = [clips[3].text, *(clip.text for clip in clips[1:3]), clips[0].text, *(clip.text for clip in clips[4:])]
    texts = [*wrong[:8], wrong[8] + " ǀǁ"]
    write_filelist("data/other.txt", [
        type(clip)(clip.path, text, "stranger", clip.language) for clip, text in zip(clips, texts, strict=True)
    ])
    with caplog.at_level(logging.INFO):
        run_script("align", *COMMAND, "-i", "data/other.txt", "-o", "other")
    assert f"{clips[8].path.name}: the aligner was trained without the sounds ǀ ǁ" in caplog.text
    rows = rows_of(None, "other")
    assert len(rows) == 8
    worst = sorted(rows, key=lambda row: row["score"])[:2]
    assert {Path(row["path"]).name for row in worst} == {clips[0].path.name, clips[3].path.name}
    assert Path("other_reports/scores.csv").is_file()


def test_durations_of_others(aligned, caplog, capsys):
    own = {part: rows_of(part)["durations"] for part in ("training", "validation")}
    shutil.copytree("durations/training_reports/TextGrid", "TextGrid")
    shutil.copytree("durations/validation_reports/TextGrid", "TextGrid", dirs_exist_ok=True)
    set_config(data={"alignments": "TextGrid"})
    run_script("align", *COMMAND)
    for part, durations in own.items():
        assert list(rows_of(part)["durations"]) == list(durations)
    first, second = sorted(Path("TextGrid/ella").glob("*.TextGrid"))[:2]
    first.unlink()
    second.write_text("nothing")
    with caplog.at_level(logging.INFO):
        run_script("align", *COMMAND)
    for path in (first, second):
        assert f"{path.stem}" in caplog.text
    assert len(rows_of("training")) + len(rows_of("validation")) == 22
    with pytest.raises(SystemExit):
        run_script("align", *COMMAND, "-i", "data/train_ipa.txt", "-o", "other")
    assert "-i is for our own aligner" in capsys.readouterr().err
    shutil.rmtree("TextGrid")
    with pytest.raises(SystemExit):
        run_script("align", *COMMAND)
    assert "no clip could be aligned" in capsys.readouterr().err


def test_a_stale_cache_is_refused(aligned):
    set_config(audio={"f_max": 8000.0})
    with pytest.raises(ValueError, match="audio section or the symbol table has changed"):
        rows_of("training")
    shutil.rmtree("durations/training")
    with pytest.raises(ValueError, match="no durations; make them with"):
        rows_of("training")


@pytest.mark.parametrize(("arguments", "message"), [
    (["-i", "data/train_ipa.txt"], "go together"),
    (["-o", "folder"], "go together"),
])
def test_mistakes(aligned, capsys, arguments, message):
    with pytest.raises(SystemExit):
        run_script("align", *COMMAND, *arguments)
    assert message in capsys.readouterr().err


def test_bytes_have_no_phones(aligned, capsys):
    set_config(text={"frontend": "bytes"})
    with pytest.raises(SystemExit):
        run_script("align", *COMMAND)
    assert "only IPA has phones to align" in capsys.readouterr().err


def test_text_that_is_longer_than_its_recording_is_left_out(aligned, caplog):
    clips = read_filelist("data/train_ipa.txt")[:2]
    write_filelist("data/other.txt", [clips[0], type(clips[1])(clips[1].path, "hələʊ " * 200, "ella", "en-us")])
    run_script("align", *COMMAND, "-i", "data/other.txt", "-o", "other")
    assert re.search(r"1000 phones in \d+ mel frames", caplog.text)
    assert len(rows_of(None, "other")) == 1
