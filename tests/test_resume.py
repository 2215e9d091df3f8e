"""Half the steps, a resume, and the other half give exactly what all steps at once give."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import run_script, write_config
from test_training import METADATA, fit, make_run, step

from checkpoints import read_checkpoint
from config import AudioConfig
from kill_test import curves, differences_in


def assert_same(first, second) -> None:
    """Bit for bit, whatever is nested in whatever."""
    assert not differences_in(first, second, "content")


HIDDEN = {"conditioning": "hidden", "segment_frames": 24, "adversarial_frames": 12}


@pytest.mark.parametrize(("stage", "workers", "settings"), [
    ("codec", 0, {}), ("codec", 2, {}), ("llm", 0, {}), ("llm", 2, {}), ("vocoder", 0, {}), ("vocoder", 0, HIDDEN),
    ("vocoder", 2, HIDDEN | {"joint": True}),
])
def test_a_resumed_run_is_the_same_run(own_chain, stage, workers, settings):
    steps = {"max_steps": 6, "ema_decay": 0.5} | settings
    config = write_config(data={"workers": workers}, **{f"train__{stage}": steps})
    for model in ("whole", "halves"):
        for earlier in {"codec": [], "llm": ["codec"], "vocoder": ["codec", "llm"]}[stage]:
            shutil.copytree(f"checkpoints/tiny/{earlier}", f"checkpoints/{model}/{earlier}")
    run_script(f"train_{stage}", "-c", config, "-m", "whole")
    run_script(f"train_{stage}", "-c", config, "-m", "halves", "--max-steps", 3)
    assert not (own_chain / f"checkpoints/halves/{stage}/G_step4.pth").exists()
    run_script(f"train_{stage}", "-c", config, "-m", "halves")
    networks = ("G", "D") if stage == "vocoder" else ("G",)
    for network in networks:
        whole, halves = (read_checkpoint(f"checkpoints/{model}/{stage}/{network}_step6.pth")
                         for model in ("whole", "halves"))
        for checkpoint in (whole, halves):
            checkpoint["training"].pop("best", None)  # the halves are validated in the middle, too
        assert_same(whole, halves)
        start = read_checkpoint(f"checkpoints/halves/{stage}/{network}_step3.pth")["weights"]
        assert any(not torch.equal(start[name], value) for name, value in whole["weights"].items())
    if stage == "vocoder":
        state = whole["training"]["optimizer"]["state"]
        assert state[0]["step"] == 4  # of 6: the discriminators began at adversarial_start


def test_resume_goes_on_from_where_it_is_told(tmp_path):
    fit(make_run(tmp_path, max_steps=4))
    assert make_run(tmp_path).step == 4
    with pytest.raises(ValueError, match=r"codec: holds checkpoints; resume them, move them away, or take another -m"):
        make_run(tmp_path, options={"resume": "none"})
    path = tmp_path / "checkpoints/toy/codec/G_step2.pth"
    run = make_run(tmp_path, options={"resume": str(path), "model": "other"})
    assert (run.step, run.batches, run.folder.parent.name) == (2, 2, "other")
    assert torch.equal(run.unwrapped().weight, read_checkpoint(path)["weights"]["weight"])
    fresh = make_run(tmp_path, options={"weights_from": str(path), "model": "tuned"})
    assert fresh.step == 0
    assert torch.equal(fresh.unwrapped().weight, read_checkpoint(path)["weights"]["weight"])
    assert make_run(tmp_path, options={"resume": "none", "model": "new"}).step == 0


def test_what_does_not_fit_is_not_resumed(tmp_path):
    fit(make_run(tmp_path, discriminator=True), score=lambda run: {"score": 1.0})
    folder = tmp_path / "checkpoints/toy/codec"
    last = {"model": "other", "resume": str(folder / "G_step4.pth")}
    audio = {"config": {"audio": AudioConfig(sample_rate=16000).model_dump()}}
    refused = [
        ({"name": "llm", "options": last}, "G_step4.pth: a checkpoint of stage codec, this is llm"),
        ({"width": 3}, r"toy/codec: its weights do not fit this config: weight is \(2, 2\) in the file, \(3, 3\) here"),
        ({"metadata": METADATA | {"speakers": ["bob"]}}, "trained with other speakers than this run has"),
        ({"metadata": METADATA | {"codec": {"fingerprint": "b"}}}, "trained with other codec than"),
        ({"metadata": METADATA | audio}, "trained with other audio than"),
        ({"metadata": METADATA | audio, "options": {"model": "new", "weights_from": last["resume"]}}, "other audio"),
        ({"options": last | {"resume": str(folder / "G_best.pth")}}, r"G_best\.pth: holds no state of training"),
        ({"options": last | {"resume": str(folder / "D_step4.pth")}}, r"D_step4\.pth: holds discriminators"),
        ({"options": last | {"resume": "nowhere.pth"}}, r"nowhere\.pth: no such checkpoint"),
    ]
    for changes, message in refused:
        with pytest.raises(ValueError, match=message):
            make_run(tmp_path, **({"discriminator": True} | changes))
    tuned = make_run(tmp_path, METADATA | {"speakers": ["bob"]}, options={"model": "t", "weights_from": last["resume"]})
    assert tuned.step == 0


def dropped(run, batch):
    """A step that draws random numbers."""
    return step(run, batch | {"x": torch.nn.functional.dropout(batch["x"])})


@pytest.mark.parametrize("crash", [1, 4, 7, 8])
def test_a_run_that_crashes_goes_on_to_the_same_bits_and_curves(tmp_path, crash):
    """Between two saves, with values that wait to be logged, and the best score found in what is done again."""
    settings = {"max_steps": 9, "save_interval": 3, "eval_interval": 4, "log_interval": 2, "ema_decay": 0.5,
                "gradient_accumulation": 2, "keep_last": 1}

    def train(name: str, fails: bool = False) -> None:
        def watched(run, batch):
            if fails and run.step == crash and not run._trial:
                raise ZeroDivisionError
            return dropped(run, batch)

        fit(make_run(tmp_path, options={"model": name}, **settings), watched, lambda run: {"score": 1 / (1 + run.step)})

    train("whole")
    with pytest.raises(ZeroDivisionError):
        train("crashed", fails=True)
    train("crashed")
    for name in ("G_step9.pth", "G_best.pth"):
        whole, crashed = (read_checkpoint(tmp_path / "checkpoints" / model / "codec" / name)
                          for model in ("whole", "crashed"))
        assert_same(whole, crashed)
    whole, crashed = (curves(tmp_path / "logs" / model / "codec") for model in ("whole", "crashed"))
    assert [point[0] for point in whole["training/loss"]] == [2, 4, 6, 8, 9]
    assert_same(whole, crashed)


def test_pairs_after_the_one_that_is_gone_on_from_are_set_aside(tmp_path, caplog):
    fit(make_run(tmp_path, max_steps=6, keep_last=9))
    folder = tmp_path / "checkpoints/toy/codec"
    damaged = bytearray((folder / "G_step6.pth").read_bytes())
    damaged[300] ^= 1
    (folder / "G_step6.pth").write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        run = make_run(tmp_path, max_steps=5, keep_last=1)
    assert "G_step6.pth: damaged (its checksum differs)" in caplog.text
    assert "G_step6.pth: not gone on from, set aside as G_step6.pth.aside" in caplog.text
    assert run.step == 4
    fit(run)
    # of a number below the damaged one's, and yet the newest
    assert sorted(path.name for path in folder.glob("*_step*")) == ["G_step5.pth", "G_step6.pth.aside"]
    (folder / "G_step5.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=r"toy/codec: none of 1 checkpoints is whole"):
        make_run(tmp_path)


def test_killed_trainings_end_where_unbroken_ones_do(tmp_path):
    command = [sys.executable, Path(__file__).parents[1] / "kill_test.py", "-o", tmp_path / "kills", "--kills", "3",
               "--stages", "codec"]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
                          timeout=280)
    assert done.returncode == 0, done.stderr
    result, = json.loads((tmp_path / "kills/kills.json").read_text())
    assert (result["kills"], result["differences"]) == (3, 0)
    assert result["moments"] == {"starting": 1, "training": 1, "saving": 1}


def test_different_bits_are_found():
    first = {"a": [torch.zeros(2), 1.0], "b": (2, "c")}
    assert not differences_in(first, {"a": [torch.zeros(2), 1.0], "b": (2, "c")}, "x")
    for other, where in (({"a": [torch.tensor([0.0, 1e-30]), 1.0], "b": (2, "c")}, "x.a[0]"),
                         ({"a": [torch.zeros(2).double(), 1.0], "b": (2, "c")}, "x.a[0]"),
                         ({"a": [torch.zeros(2), 1.0], "b": (2, "d")}, "x.b[1]"), ({"a": []}, "x")):
        assert differences_in(first, other, "x") == [where]
