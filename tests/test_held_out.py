"""What a training speaks and how its best checkpoint is chosen by it, on tiny models whose figures are given."""

import importlib.util
import json
import logging
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import run_script, write_config
from test_train_aligned import aligned_config, with_durations  # noqa: F401

from checkpoints import read_checkpoint
from config import load_config
from data_utils import read_filelist, write_filelist
from evaluation import held_out
from evaluation.held_out import HeldOutSpeech, score, wave_maker
from mel_processing import audio_seconds, load_audio, log_mel

DATA = {"validation_text": "data/validation.txt"}


def spoken_config(**changes: dict) -> Path:
    return write_config("spoken.json", data=DATA, **changes)


@pytest.fixture
def heard(monkeypatch):
    """The waves that were measured, with their texts; the error rate of each is the next of `rates`."""
    rates, waves = [], []

    def measure(wave, text, sample_rate, language, recognizer, recording, *, copy_audio):
        waves.append((wave, text, recording, copy_audio))
        return {"cer": rates[(len(waves) - 1) % len(rates)], "characters": 10, "dnsmos": 3.0}

    monkeypatch.setattr(held_out, "measure_utterance", measure)
    measure.rates, measure.waves = rates, waves
    return measure


@pytest.mark.parametrize(("better", "worse"), [
    ([{"cer": 0.10, "characters": 5, "dnsmos": 1.0}], [{"cer": 0.12, "characters": 5, "dnsmos": 5.0}]),
    ([{"cer": 0.101, "characters": 5, "dnsmos": 3.0}], [{"cer": 0.099, "characters": 5, "dnsmos": 2.9}]),
    ([{"dnsmos": 3.0}], [{"dnsmos": 2.9}]),
    ([{"dnsmos": 2.0}, {"dnsmos": 2.0}], [{"dnsmos": 2.5}, {"dnsmos": None}]),
    ([{"cer": 0.0, "characters": 9, "dnsmos": 2.0}], [{"cer": 1.0, "characters": 9}]),
])
def test_error_rate_first_then_opinion(better, worse):
    assert score(better) < score(worse)


def test_sentences_are_the_same_ones_every_time_and_their_recordings_are_found(chain, tmp_path, caplog):
    config = load_config(write_config(tmp_path / "config.json", data=DATA, train__llm={"evaluate": 2}))
    paths = [clip.path for clip in read_filelist("data/validation_ipa.txt")]
    speech = HeldOutSpeech(paths, config, "llm")
    assert [clip.path for clip in speech.clips] == paths[:2] == [paths[i] for i in speech.indices]
    assert speech.name == "2 sentences heard by pocketsphinx en-us"
    assert "pocketsphinx en-us knows no de" in caplog.text
    assert HeldOutSpeech(paths[1:], config, "llm").clips == HeldOutSpeech(
        [*paths[1:], "none.wav"], config, "llm").clips
    with pytest.raises(ValueError, match=r"validation\.txt: has the text of none of the clips of data/validation_ipa"):
        HeldOutSpeech(["none.wav"], config, "llm")


def test_figures_of_recordings_as_their_own_copies(chain, tmp_path):
    clips = [clip for clip in read_filelist("data/train.txt") if clip.language == "de"]
    write_filelist(tmp_path / "text.txt", sorted(clips, key=lambda clip: audio_seconds(clip.path))[:1])
    config = load_config(write_config(tmp_path / "config.json", data={"validation_text": str(tmp_path / "text.txt")},
                                      train__llm={"evaluate": 1}))
    path = read_filelist(tmp_path / "text.txt")[0].path
    speech = HeldOutSpeech([path], config, "llm")
    figures = speech.measure([load_audio(path, 22050)], copies=True)
    assert figures["spoken/mcd"] == figures["spoken/mel_l1"] == 0
    assert figures["spoken/pesq"] > 4.6
    assert figures["score"] == pytest.approx((5 - figures["spoken/dnsmos"]) / 1000)


def test_griffin_lim_until_there_is_a_vocoder(chain):
    config = load_config("config.json")
    mel = log_mel(torch.randn(1, 4096), config.audio)
    for model, expected in (("none", "Griffin-Lim"), ("tiny", "vocoder of step 4")):
        to_wave, maker = wave_maker(config, model)
        assert maker == expected
        assert to_wave(mel).shape == (4096,)


def test_the_best_aligned_model_is_the_one_that_is_understood(with_durations, heard, caplog):  # noqa: F811
    caplog.set_level(logging.INFO)
    heard.rates[:] = [0.9, 0.9, 0.3, 0.2, 0.4, 0.7]  # at steps 0, 2 and 4, two sentences each
    config = Path(aligned_config(eval_interval=2))
    values = json.loads(config.read_text())
    values["data"] |= DATA
    values["train"]["aligned"]["evaluate"] = 2
    config.write_text(json.dumps(values))
    run_script("train_aligned", "-c", config, "-m", "new")
    assert read_checkpoint("checkpoints/new/aligned/G_best.pth")["step"] == 2
    assert read_checkpoint("checkpoints/new/aligned/G_step4.pth")["training"]["best"] == pytest.approx(0.252)
    log = Path("logs/new/aligned/train.log").read_text()
    assert "chosen by 2 sentences heard by pocketsphinx en-us, Griffin-Lim" in caplog.text
    assert "spoken/cer 0.25, spoken/dnsmos 3" in log
    texts = [clip.text for clip in read_filelist("data/validation.txt")]
    assert [text for _, text, *_ in heard.waves] == 3 * texts[:2]
    assert all(wave.ndim == 1 and len(wave) and copy_audio is None for wave, _, _, copy_audio in heard.waves)


@pytest.mark.parametrize("stage", ["llm", "vocoder"])
def test_the_other_stages_are_heard_too(own_chain, heard, caplog, stage):
    caplog.set_level(logging.INFO)  # for train.log
    heard.rates[:] = [0.5]
    config = spoken_config(**{f"train__{stage}": {"evaluate": 2, "max_steps": 2, "eval_interval": 2}})
    shutil.rmtree(f"checkpoints/tiny/{stage}")
    run_script(f"train_{stage}", "-c", config, "-m", "tiny")
    assert "spoken/cer 0.5" in Path(f"logs/tiny/{stage}/train.log").read_text()
    assert read_checkpoint(f"checkpoints/tiny/{stage}/G_step2.pth")["training"]["best"] == pytest.approx(0.502)
    assert len(heard.waves) == 4  # two sentences, at steps 0 and 2
    for wave, _, recording, copy_audio in heard.waves:
        assert torch.isfinite(wave).all()
        if stage == "vocoder":
            assert abs(len(wave) - len(recording)) <= 1
            assert copy_audio.sample_rate == 22050


def test_a_score_by_loss_says_nothing_about_one_by_speech(own_chain, heard):
    heard.rates[:] = [0.999]
    shutil.rmtree("checkpoints/tiny/llm")
    run_script("train_llm", "-c", write_config(train__llm={"eval_interval": 2}), "-m", "tiny", "--max-steps", 2)
    best = read_checkpoint("checkpoints/tiny/llm/G_step2.pth")["training"]
    assert best["scored_by"] == "loss"
    path = Path("checkpoints/tiny/llm/G_step2.pth")
    content = torch.load(path, weights_only=True)
    content["training"]["best"] = -1.0  # a loss that no error rate is under
    torch.save(content, path)
    run_script("train_llm", "-c", spoken_config(train__llm={"evaluate": 1}), "-m", "tiny")
    assert read_checkpoint("checkpoints/tiny/llm/G_best.pth")["step"] == 4


def test_what_is_missing_is_said_before_training(own_chain, monkeypatch, capsys):
    with pytest.raises(ValueError, match=r"train\.llm\.evaluate: what is said must be known, set data\.validation_t"):
        load_config(write_config("bad.json", train__llm={"evaluate": 1}))
    for name in ("evaluation", "evaluation.held_out"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as error:
        run_script("train_llm", "-c", spoken_config(train__llm={"evaluate": 1}), "-m", "tiny")
    assert error.value.code == 2
    assert "evaluation needs jiwer, " in (said := capsys.readouterr().err)
    assert "pip install -r requirements-eval.txt" in said
