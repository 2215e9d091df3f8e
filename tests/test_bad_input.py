"""A user's mistakes through the command lines: one clear sentence, exit status 2, nothing half-written."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import run_script, write_config

import checkpoints
from checkpoints import read_checkpoint, saved_steps, write_checkpoint
from codes_cache import load_codes, read_info

MEL = {"train__vocoder": {"conditioning": "mel", "max_steps": 3}}
READERS = {  # what reads filelists and recordings
    "train_codec": ["-m", "new"], "train_vocoder": ["-m", "new"], "preprocess_codes": ["-m", "tiny"],
}


@pytest.fixture
def clips(own_chain) -> list[str]:
    """The lines of the training filelist, which `spoil` changes; the cached codes are gone."""
    shutil.rmtree("data/codes")
    return Path("data/train_ipa.txt").read_text().splitlines()


def spoil(lines: list[str], name: str = "train_ipa.txt") -> None:
    Path("data", name).write_text("".join(f"{line}\n" for line in lines))


def written() -> dict[Path, tuple[int, int]]:
    files = [path for folder in ("checkpoints", "data") for path in Path(folder).rglob("*") if path.is_file()]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.name != ".lock"}


def refused(capsys, script: str, *arguments: object) -> str:
    """The error of a command line that must end with status 2 and write nothing."""
    before = written()
    with pytest.raises(SystemExit) as stop:
        run_script(script, *arguments)
    assert stop.value.code == 2
    assert written() == before
    _, _, error = capsys.readouterr().err.rpartition("error: ")
    assert "Traceback" not in error
    return error


def refused_by_all(capsys, expected: str) -> None:
    config = write_config(**MEL)
    for script, options in READERS.items():
        assert expected in refused(capsys, script, "-c", config, *options), script


def test_filelists(clips, capsys):
    spoil([*clips, clips[0]])
    refused_by_all(capsys, "data/train_ipa.txt: 1 bad line(s)\n  line 10: the same path as line 1: wavs/ella_0000.wav")
    spoil([*clips, "a|b|c|d|e"])
    refused_by_all(capsys, "line 10: 5 columns, expected path|text, path|speaker|text or path|speaker|language|text")
    spoil([])
    refused_by_all(capsys, "data/train_ipa.txt: the filelist is empty\n")
    Path("data/train_ipa.txt").unlink()
    refused_by_all(capsys, "data/train_ipa.txt: no such filelist\n")


def recording(name: str) -> str:
    """Writes data/wavs/<name>.wav with this defect; its line for a filelist."""
    path = Path("data/wavs") / f"{name}.wav"
    wave = 0.3 * np.sin(np.arange(40_000) / 20)
    if name == "nan":
        wave[::1000] = np.nan
    soundfile.write(path, wave, 22050, subtype="FLOAT")
    if name == "truncated":
        path.write_bytes(path.read_bytes()[:50_000])
    elif name == "empty":
        path.write_bytes(b"")
    elif name == "samples":
        soundfile.write(path, wave[:0], 22050)
    elif name == "missing":
        path.unlink()
    return f"wavs/{name}.wav|ella|en-us|a"


DEFECTS = {
    "missing": "data/wavs/missing.wav: no such file", "empty": "data/wavs/empty.wav: not readable as audio",
    "samples": "data/wavs/samples.wav: holds no samples",
    "truncated": "data/wavs/truncated.wav: truncated; copy or export it again",
    "nan": "data/wavs/nan.wav: holds NaN or infinite samples; export it again from its source",
}


@pytest.mark.parametrize("name", DEFECTS)
@pytest.mark.parametrize("script", ["train_codec", "train_vocoder"])
def test_broken_recordings_stop_training_on_recordings(clips, capsys, name, script):
    spoil([*clips[:3], recording(name)])
    config = write_config(data={"workers": 2 if name == "nan" else 0}, **MEL)
    error = refused(capsys, script, "-c", config, "-m", "new")
    assert error.startswith(DEFECTS[name])
    assert error.count("\n") == 1
    spoil(clips[:3])
    spoil([recording(name)], "validation_ipa.txt")
    assert refused(capsys, script, "-c", config, "-m", "other").startswith(DEFECTS[name])


def test_broken_recordings_are_left_out_of_the_codes(clips, caplog):
    spoil([clips[0], *map(recording, DEFECTS)])
    run_script("preprocess_codes", "-c", write_config(), "-m", "tiny")
    for reason in DEFECTS.values():
        assert f"left out: {reason}" in caplog.text
    assert json.loads(Path("data/codes/training/codes.json").read_text())["clips"] == 1


def test_stereo_silence_and_telephone_speech_can_be_trained_on(clips):
    wave = 0.3 * np.sin(np.arange(40_000) / 20)
    soundfile.write("data/wavs/stereo.wav", np.stack([wave, -0.5 * wave], 1), 22050)
    soundfile.write("data/wavs/silent.wav", 0 * wave, 22050)
    soundfile.write("data/wavs/telephone.wav", wave, 8000)
    spoil([f"wavs/{name}.wav|ella|en-us|a" for name in ("stereo", "silent", "telephone")])
    Path("data/validation_ipa.txt").write_text(Path("data/train_ipa.txt").read_text())
    config = write_config(train__vocoder={"conditioning": "mel", "max_steps": 3, "adversarial_start": 0})
    for stage in ("codec", "vocoder"):
        run_script(f"train_{stage}", "-c", config, "-m", "new")
        weights = read_checkpoint(f"checkpoints/new/{stage}/G_step{4 if stage == 'codec' else 3}.pth")["weights"]
        assert all(torch.isfinite(value).all() for value in weights.values() if value.is_floating_point())
        assert "skipped_steps 0\n" in Path(f"logs/new/{stage}/train.log").read_text()


def test_strangers_in_the_validation_clips(clips, capsys):
    spoil(["wavs/ella_0000.wav|zoe|en-us|a"], "validation_ipa.txt")
    expected = "data/validation_ipa.txt: speaker 'zoe' is not among those trained: bruno, ella, lucia; leave those"
    for script in ("train_codec", "train_vocoder"):
        assert refused(capsys, script, "-c", write_config(**MEL), "-m", "new").startswith(expected)
    run_script("preprocess_codes", "-c", "config.json", "-m", "tiny")
    for script in ("train_llm", "train_vocoder"):
        assert refused(capsys, script, "-c", write_config(), "-m", "tiny").startswith(expected)
    spoil(["wavs/ella_0000.wav|ella|fr|a"], "validation_ipa.txt")
    run_script("preprocess_codes", "-c", "config.json", "-m", "tiny")
    error = refused(capsys, "train_llm", "-c", "config.json", "-m", "tiny")
    assert "language 'fr' is not among those trained: de, en-us, es" in error


def test_clips_longer_than_the_positions_are_left_out_and_counted(own_chain, caplog, capsys):
    shutil.rmtree("checkpoints/tiny/llm")
    error = refused(capsys, "train_llm", "-c", write_config(llm={"max_positions": 20}), "-m", "tiny")
    assert error == "training: every clip is longer than llm.max_positions 20\n"
    rows = load_codes("data/codes/training", read_info("data/codes/training")["fingerprint"])
    sizes = [2 + len(row["ipa"]) + row["frames"] + 1 for row in rows]
    middle = sorted(sizes)[4]
    longer = sum(size > middle for size in sizes)
    run_script("train_llm", "-c", write_config(llm={"max_positions": middle}), "-m", "tiny")
    assert f"training: {longer} of 9 clips are longer than the model's {middle} positions, left out" in caplog.text


def test_text_that_is_no_ipa(clips, capsys):
    path, speaker, language, _ = clips[0].split("|")
    spoil([f"{path}|{speaker}|{language}|§§§", *clips[1:]])
    run_script("preprocess_codes", "-c", "config.json", "-m", "tiny")
    error = refused(capsys, "train_llm", "-c", "config.json", "-m", "tiny")
    assert error.startswith(f"data/{path}: no known symbol in '§§§'; is its text IPA?")


def test_stages_that_are_missing_or_differ(own_chain, capsys):
    def error_of(script: str, config: str | Path, model: str = "tiny") -> str:
        return refused(capsys, script, "-c", config, "-m", model)

    stages = ("preprocess_codes", "train_llm", "train_vocoder")
    for script in stages:
        error = error_of(script, "config.json", "none")
        assert error.startswith("checkpoints/none/codec: no checkpoint; train one first: python3 train_codec.py")
        other_rate = write_config("other.json", audio={"sample_rate": 24000})
        assert "tiny/codec: was trained with another audio section" in error_of(script, other_rate)
    no_codes = write_config("other.json", data={"codes": "nowhere"})
    for script in stages[1:]:
        assert error_of(script, no_codes).startswith("nowhere/training: no cached codes; make them with: python3 prep")
    resumed = write_config("other.json", audio={"f_max": 8000.0})
    assert "tiny/codec: was trained with other audio than this run has" in error_of("train_codec", resumed)

    path = Path("checkpoints/tiny/codec/G_step4.pth")
    codec = read_checkpoint(path)
    codec["ema"]["encoder_in.weight"] += 0.1
    write_checkpoint(codec, path)
    for script in stages[1:]:
        assert "data/codes/training: the codes are of codec" in error_of(script, "config.json")


def test_hidden_states_need_the_language_model_of_these_codes(own_chain, capsys, caplog):
    hidden, small = {"conditioning": "hidden", "segment_frames": 24, "max_steps": 3}, {"hidden_size": 8, "n_layers": 2}

    def error_of(model: str = "tiny", stage: dict = hidden, **changes) -> str:
        config = write_config(train__vocoder=stage, hidden_decoder=small, **changes)
        return refused(capsys, "train_vocoder", "-c", config, "-m", model)

    shutil.rmtree("checkpoints/tiny/vocoder")
    assert error_of("none").startswith("checkpoints/none/llm: no checkpoint; train one first: python3 train_llm.py")
    assert error_of(llm={"dropout": 0.2}).startswith("checkpoints/tiny/llm: was trained with another llm section")
    assert "tiny/llm: was trained with another text section" in error_of(text={"frontend": "bytes"})
    assert "nowhere/training: no cached codes" in error_of(data={"codes": "nowhere"})
    assert 'set conditioning to "hidden" (it is "codes")' in error_of(stage={"joint": True})
    weights = hidden | {"joint": True, "loss_weights": {"mel": 1.0}}
    assert "without a weight: ['adversarial', 'decoder_mel', 'feature_matching', 'llm'," in error_of(stage=weights)
    path = Path("checkpoints/tiny/llm/G_step4.pth")
    lm = read_checkpoint(path)
    for settings, message in (
        ({"codec": lm["codec"] | {"fingerprint": "0123"}}, "the language model speaks codes of codec 0123, data/codes"),
        ({"languages": ["de", "es"]}, "language 'en-us' is not among those trained: de, es"),
        ({"ema": {}, "weights": {}}, "its weights do not fit this config: body.wte.weight is missing"),
    ):
        write_checkpoint(lm | settings, path)
        assert message in error_of()

    rows = load_codes("data/codes/training", lm["codec"]["fingerprint"])
    sizes = [2 + len(row["ipa"]) + row["frames"] + 2 for row in rows]
    room = max(sizes) - 1
    lm["config"]["llm"]["max_positions"] = room
    for name in ("weights", "ema"):
        lm[name]["body.wpe.weight"] = lm[name]["body.wpe.weight"][:room].clone()
    write_checkpoint(lm, path)
    config = write_config(train__vocoder=hidden, hidden_decoder=small, llm={"max_positions": room})
    run_script("train_vocoder", "-c", config, "-m", "tiny")
    left_out = f"training: {sizes.count(max(sizes))} of 9 clips are longer than the model's {room} positions, left out"
    assert left_out in caplog.text
    error = error_of(stage=hidden | {"joint": True, "max_steps": 6}, llm={"max_positions": room})
    assert error.startswith("checkpoints/tiny/vocoder: was trained with other joint than this run has")


def test_config_files(own_chain, capsys):
    cases = {
        '{"data": {"trainingfilelist": "a"}}': "data.trainingfilelist: unknown key, did you mean 'training_filelist'?",
        "{": "not valid JSON", "[]": "problem(s) in the config",
    }
    for content, message in cases.items():
        Path("bad.json").write_text(content)
        assert message in refused(capsys, "train_codec", "-c", "bad.json", "-m", "new")
    assert "gone.json: no such config file" in refused(capsys, "train_codec", "-c", "gone.json", "-m", "new")
    encodec = write_config(codec={"kind": "encodec", "path": "nowhere"})
    assert "the codec is encodec, pretrained" in refused(capsys, "train_codec", "-c", encodec, "-m", "new")
    for script in ("train_llm", "train_vocoder"):
        assert "nowhere: holds neither config.json" in refused(capsys, script, "-c", encodec, "-m", "new")
    odd = write_config(train__codec={"segment_frames": 30})
    assert "segment_frames 30 must be a multiple of codec" in refused(capsys, "train_codec", "-c", odd, "-m", "new")


def test_checkpoints_that_cannot_be_resumed(own_chain, capsys):
    Path("foreign.pth").write_text("hello")
    torch.save({"state_dict": {}}, "other.pth")
    whole = Path("checkpoints/tiny/codec/G_step4.pth").read_bytes()
    Path("cut.pth").write_bytes(whole[:2000])
    cases = {"foreign.pth": "truncated or not a checkpoint", "other.pth": "not a checkpoint of this project",
             "cut.pth": "truncated", "gone.pth": "no such checkpoint",
             "checkpoints/tiny/llm/G_step4.pth": "a checkpoint of stage llm, this is codec",
             "checkpoints/tiny/vocoder/D_step4.pth": "holds discriminators"}
    for path, message in cases.items():
        for option in ("--resume", "--weights-from"):
            error = refused(capsys, "train_codec", "-c", "config.json", "-m", "new", option, path)
            assert error.startswith(path)
            assert message in error


@pytest.mark.parametrize("stage", ["codec", "llm", "vocoder"])
def test_a_full_disk_keeps_the_last_checkpoints(own_chain, capsys, monkeypatch, stage):
    folder = Path("checkpoints/tiny") / stage
    before = {path.name: path.read_bytes() for path in folder.glob("*.pth")}
    config = write_config(**{f"train__{stage}": {"max_steps": 6, "eval_interval": 100}})

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(SystemExit) as stop:
        run_script(f"train_{stage}", "-c", config, "-m", "tiny")
    assert stop.value.code == 2
    error = capsys.readouterr().err.rpartition("error: ")[2]
    assert "could not be saved ([Errno 28] No space left on device); free disk space, then resume" in error
    assert {path.name: path.read_bytes() for path in folder.glob("*.pth*")} == before
    monkeypatch.undo()
    monkeypatch.chdir(own_chain)
    run_script(f"train_{stage}", "-c", config, "-m", "tiny")
    assert saved_steps(folder)[0] == 6
