"""train_codec.py with every bottleneck and every loss, on a few short recordings made here."""

import json
import logging
import math
import re
from pathlib import Path

import pytest
import soundfile
import torch
from conftest import run_script
from test_resume import assert_same

import train_codec
from checkpoints import read_checkpoint
from config import parse_config
from data_utils import Draw, WaveClips, collate_items, read_filelist
from losses import symbols_fit
from models import load_codec
from text import build_frontend

TEXTS = ["həlˈoʊ", "wˈɜːld", "aa", "ðə tˈuː mˈɛn", "ˈiːvnɪŋ", "ɐ"]
BOTTLENECKS = {
    "fsq": {"kind": "fsq", "levels": [4, 4], "n_codebooks": 2},
    "rvq": {"kind": "rvq", "n_codebooks": 3, "codebook_size": 8, "latent_size": 6, "quantizer_dropout": True},
    "gaussian": {"kind": "gaussian", "latent_size": 6},
}
MEL = {"mel": 1.0, "mel_delta": 0.5}
ALL = MEL | {"commitment": 0.25, "ctc": 0.1, "adversarial": 0.1, "feature_matching": 0.2}


def make_config(bottleneck: str = "fsq", **stage) -> dict:
    settings = {"batch_size": 2, "segment_frames": 32, "ema_decay": 0.5, "max_steps": 4, "eval_interval": 4,
                "save_interval": 2, "log_interval": 1}
    return {
        "audio": {"sample_rate": 8000, "n_fft": 256, "win_length": 256, "hop_length": 64, "n_mels": 20},
        "data": {"training_filelist": "train.txt", "validation_filelist": "validation.txt", "workers": 0},
        "codec": {"kind": "mel", "stride": 4, "bottleneck": BOTTLENECKS[bottleneck], "hidden_size": 16,
                  "encoder_layers": 1, "decoder_layers": 1},
        "vocoder": {"kind": "vocos"}, "discriminators": {"mel_channels": [2, 4]},
        "train": {"codec": settings | stage, "vocoder": {"segment_frames": 64}},
    }


def write(config: dict) -> str:
    Path("config.json").write_text(json.dumps(config))
    return "config.json"


def train(model: str, *options: object, **settings) -> dict:
    """The last checkpoint of a run."""
    run_script("train_codec", "-c", write(make_config(**settings)), "-m", model, *options)
    return max((read_checkpoint(path) for path in Path(f"checkpoints/{model}/codec").glob("G_step*.pth")),
               key=lambda checkpoint: checkpoint["step"])


def log_of(model: str) -> str:
    return Path(f"logs/{model}/codec/train.log").read_text()


def values(line: str) -> dict[str, float]:
    """`name value, name value` as numbers."""
    return {name: float(value) for name, value in (part.rsplit(" ", 1) for part in line.split(", "))}


def logged(model: str) -> list[dict[str, float]]:
    """Losses of every step, from the log."""
    return [values(line) for line in re.findall(r" step \d+: (.*)", log_of(model))]


def validated(model: str) -> dict[str, float]:
    """Figures of the last validation."""
    return values(re.findall(r"step \d+ validation: (.*)", log_of(model))[-1])


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch, caplog):
    """train.txt with six clips of two speakers and validation.txt with two, in the current folder."""
    monkeypatch.chdir(tmp_path)
    # drawing and Griffin-Lim would take most of the time
    monkeypatch.setattr("training.Run.log_figure", lambda *_: None)
    monkeypatch.setattr("train_codec.griffin_lim", lambda mel, audio: torch.zeros(len(mel), 800))
    caplog.set_level(logging.INFO)
    generator, lines = torch.Generator().manual_seed(0), []
    for i, text in enumerate(TEXTS):
        time = torch.arange(8000 + 1600 * i) / 8000
        wave = 0.1 * torch.sin(2 * math.pi * (150 + 60 * i) * time) + 0.01 * torch.randn(len(time), generator=generator)
        soundfile.write(f"{i}.wav", wave.numpy(), 8000)
        lines.append(f"{i}.wav|{'ann' if i % 2 else 'bob'}|en-us|{text}\n")
    Path("train.txt").write_text("".join(lines))
    Path("validation.txt").write_text("".join(lines[:2]))
    return tmp_path


@pytest.mark.parametrize(("bottleneck", "own_loss"), [("fsq", set()), ("rvq", {"commitment"}), ("gaussian", {"kl"})])
def test_each_bottleneck_trains_with_its_own_losses_and_is_measured(bottleneck, own_loss):
    train("m", bottleneck=bottleneck, max_steps=30, eval_interval=30, learning_rate=3e-3)
    steps = logged("m")
    names = {"mel", "mel_delta"} | own_loss
    assert all({name for name in step if name in {*ALL, "kl", "discriminator"}} == names for step in steps)
    assert steps[-1]["mel"] < 0.7 * steps[0]["mel"]
    figures = validated("m")
    assert {"mel_l1/ann", "mel_l1/bob", "bits_per_second", "score"} <= figures.keys()
    assert figures["score"] == pytest.approx((figures["mel_l1/ann"] + figures["mel_l1/bob"]) / 2, rel=1e-3)
    if bottleneck == "gaussian":
        assert 0 <= figures["active_latents"] <= 1
        assert figures["bits_per_second"] == pytest.approx(figures["kl"] / math.log(2) * 8000 / 256, rel=1e-2)
    else:
        n_codebooks, size = (2, 16) if bottleneck == "fsq" else (3, 8)
        perplexities = [figures[f"perplexity/{k}"] for k in range(n_codebooks)]
        assert all(1 <= value <= size for value in perplexities)
        assert all(0 < figures[f"usage/{k}"] <= 1 for k in range(n_codebooks))
        bits = sum(map(math.log2, perplexities)) * 8000 / 256
        assert figures["bits_per_second"] == pytest.approx(bits, rel=1e-2, abs=0.5)


@pytest.mark.parametrize(("bottleneck", "weights"), [
    ("rvq", MEL | {"commitment": 0.25}), ("gaussian", MEL | {"kl": 0.01}), ("rvq", ALL),
], ids=["rvq", "gaussian", "all_losses"])
def test_a_resumed_run_is_the_same_run(bottleneck, weights):
    settings = {"bottleneck": bottleneck, "loss_weights": weights, "max_steps": 6, "adversarial_start": 2}
    whole = train("whole", **settings)
    train("halves", "--max-steps", 3, **settings)
    halves = train("halves", **settings)
    for checkpoint in (whole, halves):
        checkpoint["training"].pop("best")  # the halves are validated in the middle, too
    assert_same(whole, halves)
    assert whole["step"] == 6
    if "adversarial" in weights:
        assert_same(*(read_checkpoint(f"checkpoints/{model}/codec/D_step6.pth") for model in ("whole", "halves")))
    else:
        assert not list(Path("checkpoints/whole/codec").glob("D_*"))


def test_all_losses_together_and_what_is_left_of_them_in_a_codec():
    checkpoint = train("m", bottleneck="rvq", loss_weights=ALL, max_steps=4, adversarial_start=2)
    steps = logged("m")
    adversarial = {"adversarial", "feature_matching", "discriminator"}
    assert [bool(adversarial & step.keys()) for step in steps] == [False, False, True, True]
    assert adversarial | ALL.keys() <= steps[-1].keys()
    assert validated("m")["ctc"] > 0
    assert Path("checkpoints/m/codec/D_step4.pth").exists()
    assert checkpoint["text"]["symbols"] == build_frontend(parse_config(checkpoint["config"], "").text).symbols
    codec = load_codec(parse_config(checkpoint["config"], ""), "m")
    codes, _ = codec.encode(torch.randn(1, 8000))
    assert codes.shape == (1, 3, 32)


def test_the_kl_grows_to_its_weight(monkeypatch):
    seen = []

    def spy(losses, weights):
        seen.append(weights["kl"])
        return sum(weights[name] * losses[name] for name in losses)

    monkeypatch.setattr(train_codec, "weighted_sum", spy)
    train("m", bottleneck="gaussian", loss_weights=MEL | {"kl": 0.4}, max_steps=8, kl_annealing=0.5)
    assert seen[1:] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4])  # the first is the trial for memory


def test_weights_are_those_of_the_losses_there_are():
    def weights(bottleneck: str, values: dict[str, float]) -> dict[str, float]:
        return train_codec.loss_weights(parse_config(make_config(bottleneck, loss_weights=values), "test"))

    everything = ALL | {"kl": 0.1}
    assert weights("fsq", everything).keys() == everything.keys() - {"kl", "commitment"}
    assert weights("rvq", everything).keys() == everything.keys() - {"kl"}
    assert weights("gaussian", everything).keys() == everything.keys() - {"commitment"}
    off = {"ctc": 0.0, "adversarial": 0.0, "feature_matching": 0.0}
    assert weights("rvq", MEL | {"commitment": 0.0} | off) == MEL | {"commitment": 0.0}


@pytest.mark.parametrize(("bottleneck", "weights", "message"), [
    ("rvq", MEL, r"losses without a weight: \['commitment'\]"),
    ("gaussian", MEL, r"losses without a weight: \['kl'\]"),
    ("fsq", MEL | {"mle": 1.0}, r"weights without a loss: \['mle'\]"),
    ("fsq", MEL | {"adversarial": 1.0}, "give adversarial and feature_matching weights, both or none"),
])
def test_weights_that_do_not_fit_are_one_sentence(bottleneck, weights, message, capsys):
    with pytest.raises(SystemExit) as end:
        train("m", bottleneck=bottleneck, loss_weights=weights)
    assert end.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(Path(".").glob("checkpoints/m/codec/*.pth"))


def test_clips_with_more_symbols_than_predictions_are_counted_and_left_out(caplog):
    lines = Path("train.txt").read_text().splitlines()
    lines[0] = lines[0].rsplit("|", 1)[0] + "|" + "ba" * 50  # a second has 31 code frames, 62 predictions
    Path("train.txt").write_text("\n".join(lines))
    train("m", loss_weights=MEL | {"ctc": 0.1})
    assert "ctc: 1 of 6 clips have more symbols than predictions" in caplog.text
    assert all(math.isfinite(step["ctc"]) and step["ctc"] > 0 for step in logged("m"))


def test_symbols_that_nowhere_fit_are_refused(capsys):
    for name in ("train.txt", "validation.txt"):
        lines = Path(name).read_text().splitlines()
        Path(name).write_text("\n".join(line.rsplit("|", 1)[0] + "|" + "ba" * 500 for line in lines))
    with pytest.raises(SystemExit):
        train("m", loss_weights=MEL | {"ctc": 0.1})
    assert "every clip has more symbols than predictions" in capsys.readouterr().err


def test_text_without_a_known_symbol_names_its_clip(capsys):
    Path("train.txt").write_text(Path("train.txt").read_text().replace(TEXTS[3], "你好"))
    with pytest.raises(SystemExit):
        train("m", loss_weights=MEL | {"ctc": 0.1})
    assert re.search(r"3\.wav: no known symbol in '你好'; run preprocess_ipa\.py", capsys.readouterr().err)
    train("m")  # without ctc the text is not read


def test_ctc_batches_are_whole_clips_and_padding_changes_no_loss():
    config = parse_config(make_config(loss_weights=MEL | {"ctc": 0.1}), "test")
    frontend = build_frontend(config.text)
    clips = read_filelist("train.txt")
    dataset = WaveClips(clips, [frontend.encode(clip.text) for clip in clips], ["ann", "bob"], 8000)
    assert [len(dataset[i]["wave"]) for i in range(6)] == [8000 + 1600 * i for i in range(6)]
    batch = collate_items([dataset.draw(Draw(i, 0)) for i in (0, 3)])
    assert batch["wave_lengths"].tolist() == [8000, 12800]
    assert batch["text_lengths"].tolist() == [len(frontend.encode(TEXTS[i])) for i in (0, 3)]
    assert symbols_fit(torch.tensor([60, 60]), batch["text"], batch["text_lengths"]).all()
    torch.manual_seed(0)
    codec = train_codec.MelCodec(config.codec, config.audio, 2, len(frontend)).eval()
    mel, mask = codec.mel_and_mask(batch["wave"], batch["wave_lengths"])
    output = codec(mel, batch["speaker"], mask)
    alone_mel, alone_mask = codec.mel_and_mask(batch["wave"][:1, :8000], torch.tensor([8000]))
    alone = codec(alone_mel, batch["speaker"][:1], alone_mask)
    frames = alone_mask.shape[2]
    torch.testing.assert_close(mel[0, :, : 4 * frames], alone_mel[0])
    torch.testing.assert_close(output.mel[0, :, : 4 * frames], alone.mel[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(output.symbol_logits[0, : 2 * frames], alone.symbol_logits[0], atol=1e-5, rtol=0)
    assert alone.symbol_logits.shape == (1, 2 * frames, len(frontend))


def test_a_codec_without_codes_is_refused_by_later_stages(capsys):
    train("m", bottleneck="gaussian")
    for script in ("preprocess_codes", "train_llm"):
        with pytest.raises(SystemExit) as end:
            run_script(script, "-c", "config.json", "-m", "m")
        assert end.value.code == 2
        assert "codec.bottleneck is gaussian: it gives latents, and codes are needed here" in capsys.readouterr().err
