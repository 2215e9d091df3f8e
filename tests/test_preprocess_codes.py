import json
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from filelock import FileLock
from tiny_encodec import save_tiny_encodec

import cli
import preprocess_codes
from checkpoints import write_checkpoint
from codes_cache import CodesWriter, load_codes, read_info
from config import load_config
from data_utils import Clip, write_filelist
from mel_processing import load_audio
from models import load_codec
from models.codec import MelCodec

SECONDS = [0.5, 1.3, 0.9, 0.6, 0.45, 1.1, 0.7]


def tone(path: Path, seconds: float, rate: int = 24000, channels: int = 1, amplitude: float = 0.3) -> Path:
    random = np.random.default_rng(int(seconds * 1000))
    time = np.arange(round(seconds * rate)) / rate
    wave = amplitude * (np.sin(2 * np.pi * 300 * seconds * time) + 0.1 * random.standard_normal(len(time)))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.stack([wave] * channels, axis=1), rate)
    return path


def clip(path: Path) -> Clip:
    return Clip(path, f"aɪ {path.stem}", "ann", "en-us")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Seven training clips, one validation clip, a tiny EnCodec and a config, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preprocess_codes, "SHARD_SIZE", 3)
    save_tiny_encodec(tmp_path / "encodec")
    paths = [tone(tmp_path / f"audio/{i}.wav", seconds) for i, seconds in enumerate(SECONDS)]
    write_filelist("train.txt", map(clip, paths))
    write_filelist("val.txt", [clip(tone(tmp_path / "audio/held_out.wav", 0.8))])
    write_config()
    return tmp_path


def write_config(codec: dict | None = None, **data) -> None:
    codec = codec or {"kind": "encodec", "path": "encodec", "bandwidth": 3.0}
    data = {"training_filelist": "train.txt", "validation_filelist": "val.txt", "codes": "codes", "workers": 0} | data
    Path("config.json").write_text(json.dumps({"data": data, "codec": codec}))


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["preprocess_codes.py", "-c", "config.json", *arguments])
    preprocess_codes.main()


def cached(name: str = "training") -> list[dict]:
    return list(load_codes(f"codes/{name}", read_info(f"codes/{name}")["fingerprint"]))


def count_loads(monkeypatch) -> list:
    loads, load = [], preprocess_codes.load_clip

    def counting(path, *rest):
        loads.append(path)
        return load(path, *rest)

    monkeypatch.setattr(preprocess_codes, "load_clip", counting)
    return loads


def same(first: list[dict], second: list[dict]) -> bool:
    return len(first) == len(second) and all(
        one["path"] == other["path"] and np.array_equal(one["codes"], other["codes"])
        for one, other in zip(first, second, strict=True)
    )


def test_codes_are_the_codecs_in_the_order_of_the_filelist(project, monkeypatch):
    run(monkeypatch, "--batch-size", "2")
    codec = load_codec(load_config("config.json"), None)
    rows = cached()
    assert [row["path"] for row in rows] == [f"audio/{i}.wav" for i in range(7)]
    for row, seconds in zip(rows, SECONDS, strict=True):
        codes, _ = codec.encode(load_audio(row["path"], 24000)[None])
        assert np.array_equal(row["codes"], codes[0].numpy())
        assert row["codes"].shape == (10, row["frames"])
        assert row["frames"] == codec.frames_for(round(seconds * 24000))
        assert row["seconds"] == pytest.approx(seconds, abs=1e-4)
        assert (row["speaker"], row["language"], row["ipa"]) == ("ann", "en-us", f"aɪ {Path(row['path']).stem}")
    assert len(cached("validation")) == 1
    info = read_info("codes/training")
    assert (info["fingerprint"], info["clips"], info["skipped"]) == (codec.fingerprint, 7, [])
    assert (info["n_codebooks"], info["codebook_size"], info["frame_rate"], info["sample_rate"]) == (10, 16, 75, 24000)
    assert not list(project.glob("codes/*.partial"))


def test_workers_and_batches_do_not_change_the_codes(project, monkeypatch):
    run(monkeypatch, "--batch-size", "1")
    first = cached()
    write_config(codes="codes2")
    run(monkeypatch, "--batch-size", "4", "--workers", "2")
    assert same(first, list(load_codes("codes2/training", read_info("codes2/training")["fingerprint"])))


def test_nothing_is_done_when_nothing_changed(project, monkeypatch, caplog):
    run(monkeypatch)
    loads = count_loads(monkeypatch)
    with caplog.at_level(logging.INFO):
        run(monkeypatch)
    assert not loads
    assert "codes/training: up to date (7 clips, 0 left out)" in caplog.text


def test_another_codec_makes_the_codes_anew(project, monkeypatch, caplog):
    run(monkeypatch)
    old = read_info("codes/training")["fingerprint"]
    write_config({"kind": "encodec", "path": "encodec", "bandwidth": 1.5})
    with caplog.at_level(logging.INFO):
        run(monkeypatch)
    new = read_info("codes/training")["fingerprint"]
    assert f"made anew: fingerprint was {old}, is {new}" in caplog.text
    assert cached()[0]["codes"].shape[0] == 5


@pytest.mark.parametrize("change", ["recording", "filelist", "setting"])
def test_other_clips_make_the_codes_anew(project, monkeypatch, change):
    run(monkeypatch)
    before = cached()
    if change == "recording":
        tone(project / "audio/0.wav", 0.5, amplitude=0.1)
        os.utime("audio/0.wav", (1, 1))
    elif change == "filelist":
        write_filelist("train.txt", [clip(project / "audio/3.wav")])
    else:
        write_config(min_seconds=0.8)
    run(monkeypatch)
    assert not same(before, cached())
    assert len(cached()) == {"recording": 7, "filelist": 1, "setting": 3}[change]


def test_bad_clips_are_left_out_and_named(project, monkeypatch, caplog):
    audio = project / "audio"
    whole = tone(audio / "whole.wav", 1.0).read_bytes()
    (audio / "truncated.wav").write_bytes(whole[: len(whole) * 2 // 3])
    whole = tone(audio / "whole.ogg", 4.0).read_bytes()
    (audio / "truncated.ogg").write_bytes(whole[: len(whole) * 2 // 3])
    (audio / "empty.wav").write_bytes(b"")
    tone(audio / "silent.wav", 1.0, amplitude=0)
    soundfile.write(audio / "nan.wav", np.full(24000, np.nan), 24000, subtype="FLOAT")
    tone(audio / "short.wav", 0.3)
    tone(audio / "long.wav", 12.5)
    reasons = {"missing.wav": "no such file", "empty.wav": "not readable as audio", "truncated.wav": "truncated",
               "truncated.ogg": "truncated", "silent.wav": "silent", "nan.wav": "NaN",
               "short.wav": "0.30 s, shorter than data.min_seconds", "long.wav": "longer than data.max_seconds"}
    good = [audio / "0.wav", tone(audio / "stereo.wav", 0.8, channels=2), tone(audio / "telephone.wav", 0.8, rate=8000)]
    write_filelist("train.txt", map(clip, [good[0], *(audio / name for name in reasons), *good[1:]]))
    run(monkeypatch)
    assert [Path(row["path"]).name for row in cached()] == ["0.wav", "stereo.wav", "telephone.wav"]
    skipped = read_info("codes/training")["skipped"]
    assert len(skipped) == len(reasons)
    for (name, reason), line in zip(reasons.items(), skipped, strict=True):
        assert f"audio/{name}" in line
        assert reason in line
        assert line in caplog.text


def test_wav_written_to_a_pipe_is_whole(project):
    whole = bytearray(tone(project / "piped.wav", 0.5).read_bytes())
    whole[4:8] = whole[40:44] = b"\xff\xff\xff\xff"
    Path("piped.wav").write_bytes(whole)
    assert len(preprocess_codes.load_clip(Path("piped.wav"), 24000, load_config("config.json").data)) == 12000


def test_no_usable_clip_is_an_error_and_leaves_nothing(project, monkeypatch):
    write_filelist("train.txt", [clip(project / "audio/missing.wav")])
    with pytest.raises(ValueError, match=r"(?s)train\.txt: none of 1 clips can be used.*missing\.wav: no such file"):
        run(monkeypatch)
    assert not [path for path in Path("codes").iterdir() if path.name != ".lock"]


def interrupt_at(monkeypatch, index: int):
    write_shard = CodesWriter.write_shard

    def interrupted(self, number, rows, skipped):
        if number == index:
            raise KeyboardInterrupt
        write_shard(self, number, rows, skipped)

    monkeypatch.setattr(CodesWriter, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch)
    monkeypatch.setattr(CodesWriter, "write_shard", write_shard)


def test_an_interrupted_run_goes_on_where_it_stopped(project, monkeypatch):
    run(monkeypatch)
    uninterrupted = cached()
    write_config(codes="resumed")
    interrupt_at(monkeypatch, 1)
    assert not Path("resumed/training").exists()
    loads = count_loads(monkeypatch)
    run(monkeypatch)
    assert len(loads) == 4 + 1  # all but the first shard of three, and the validation clip
    assert same(uninterrupted, list(load_codes("resumed/training", read_info("resumed/training")["fingerprint"])))


def test_an_interrupted_run_of_another_codec_is_started_over(project, monkeypatch):
    interrupt_at(monkeypatch, 2)
    write_config({"kind": "encodec", "path": "encodec", "bandwidth": 1.5})
    loads = count_loads(monkeypatch)
    run(monkeypatch)
    assert len(loads) == 8
    assert {len(row["codes"]) for row in cached()} == {5}


def test_old_codes_stay_until_the_new_ones_are_finished(project, monkeypatch):
    run(monkeypatch)
    before = cached()
    write_config({"kind": "encodec", "path": "encodec", "bandwidth": 1.5})
    interrupt_at(monkeypatch, 1)
    assert same(before, cached())


def test_a_folder_of_something_else_is_kept(project, monkeypatch):
    tone(project / "codes/training/recording.wav", 0.5)
    with pytest.raises(ValueError, match=r"codes/training: exists and holds no cached codes"):
        run(monkeypatch)
    assert Path("codes/training/recording.wav").is_file()


def test_two_runs_do_not_write_the_same_folder(project, monkeypatch):
    Path("codes").mkdir()
    with FileLock("codes/.lock"), pytest.raises(ValueError, match="another preprocess_codes"):
        run(monkeypatch)


def test_full_disk_and_full_memory_are_told(project, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    def full_memory(*_):
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(CodesWriter, "write_shard", full_disk)
        with pytest.raises(ValueError, match=r"codes/training: cannot be written.*No space left"):
            run(patch)
    with monkeypatch.context() as patch:
        patch.setattr("models.encodec.Encodec.encode", full_memory)
        with pytest.raises(ValueError, match="smaller --batch-size"):
            run(patch)
    run(monkeypatch)
    assert len(cached()) == 7


def test_codes_of_our_own_codec(project, monkeypatch):
    write_config({"kind": "mel", "bottleneck": {"kind": "fsq", "levels": [4, 4], "n_codebooks": 2}, "hidden_size": 16,
                  "encoder_layers": 1, "decoder_layers": 1})
    with pytest.raises(ValueError, match="-m MODEL"):
        run(monkeypatch)
    config = load_config("config.json")
    codec = MelCodec(config.codec, config.audio, 1).eval()
    content = {"stage": "codec", "step": 1, "weights": codec.state_dict(), "config": config.model_dump(),
               "speakers": ["ann"]}
    write_checkpoint(content, Path("checkpoints/tiny/codec/G_step1.pth"))
    run(monkeypatch, "-m", "tiny")
    assert read_info("codes/training")["fingerprint"] == codec.fingerprint
    for row in cached():
        codes, _ = codec.encode(load_audio(row["path"], codec.sample_rate)[None])
        assert np.array_equal(row["codes"], codes[0].numpy())


def test_codebooks_too_large_for_the_cache_are_refused(project, monkeypatch):
    monkeypatch.setattr(preprocess_codes, "MAX_CODEBOOK_SIZE", 8)
    with pytest.raises(ValueError, match="codebooks of 16 entries"):
        run(monkeypatch)


def test_a_mistake_is_told_in_one_line(project, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["preprocess_codes.py", "-c", "config.json", "--batch-size", "0"])
    with pytest.raises(SystemExit) as end:
        cli.run(preprocess_codes.main)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: --batch-size must be at least 1, --workers at least 0\n"
