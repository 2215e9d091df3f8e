"""Half the steps, a resume, and the other half give exactly what all steps at once give."""

import shutil

import pytest
import torch
from conftest import run_script, write_config
from test_training import METADATA, fit, make_run

from checkpoints import read_checkpoint
from config import AudioConfig


def assert_same(first, second, where: str = "") -> None:
    """Bit for bit, whatever is nested in whatever."""
    if torch.is_tensor(first):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for i, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same(one, other, f"{where}[{i}]")
    else:
        assert first == second, where


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
