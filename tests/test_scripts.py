"""Every training script, every branch that a config can take, on a few clips and a few steps."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import run_script, write_config
from tiny_encodec import save_tiny_encodec
from transformers import GPT2Config, GPT2Model

import synthesize
from checkpoints import network_weights, read_checkpoint, saved_steps
from codes_cache import load_codes, read_info
from config import load_config
from mel_processing import load_audio
from models import load_codec

TEXT = "The quick brown fox jumps."


@pytest.fixture(autouse=True)
def _forget_models_and_precision():
    AcceleratorState._reset_state(True)
    yield
    synthesize.loaded.cache_clear()
    AcceleratorState._reset_state(True)


def trained(model: str, stage: str) -> dict:
    """The newest checkpoint of a stage, whose weights must be finite."""
    folder = Path("checkpoints") / model / stage
    checkpoint = read_checkpoint(folder / f"G_step{saved_steps(folder)[0]}.pth")
    assert all(torch.isfinite(value).all() for value in checkpoint["weights"].values() if value.is_floating_point())
    return checkpoint


def speak(model: str, tmp_path: Path) -> None:
    run_script("synthesize", "-m", model, "--text", TEXT, "-o", tmp_path / "a.wav", "--seed", 0)
    wave = load_audio(tmp_path / "a.wav", 22050)
    assert len(wave) > 1000
    assert wave.abs().max() > 0


def test_the_chain_holds_what_speaking_needs(chain):
    codec, llm, vocoder = (trained("tiny", stage) for stage in ("codec", "llm", "vocoder"))
    assert [checkpoint["step"] for checkpoint in (codec, llm, vocoder)] == [4, 4, 4]
    assert codec["speakers"] == llm["speakers"] == vocoder["speakers"] == ["bruno", "ella", "lucia"]
    assert llm["languages"] == ["de", "en-us", "es"]
    assert llm["config"]["llm"] == load_config("config.json").llm.model_dump()
    assert llm["codec"] == vocoder["codec"]
    assert 0.1 < llm["frames_per_symbol"] < 4
    loaded = load_codec(load_config("config.json"), "tiny")
    assert loaded.fingerprint == llm["codec"]["fingerprint"] == read_info("data/codes/training")["fingerprint"]
    for stage in ("codec", "llm", "vocoder"):
        log = Path(f"logs/tiny/{stage}/train.log").read_text()
        for line in (f"{stage} generator: ", "weights, gradients and optimizer: ", "one step on the longest batch: ",
                     "finished at step 4 of 4", "step 4 validation: "):
            assert line in log
    discriminators = read_checkpoint("checkpoints/tiny/vocoder/D_step4.pth")
    assert discriminators["training"]["optimizer"]["state"][0]["step"] == 2  # from adversarial_start, 2, on


def test_the_vocoder_starts_from_the_codecs_decoder_and_goes_on(chain):
    codec = network_weights(trained("tiny", "codec"))
    vocoder = trained("tiny", "vocoder")["weights"]
    name = "decoder.project_out.weight"
    assert codec[name].shape == vocoder[name].shape
    assert 0 < (codec[name] - vocoder[name]).abs().max() < 5 * 2e-4  # about a learning rate a step


@pytest.mark.parametrize("vocoder", [
    {"kind": "vocos", "hidden_size": 8, "intermediate_size": 16, "n_layers": 1},
    {"kind": "harmonic_vocos", "hidden_size": 8, "intermediate_size": 16, "n_layers": 1},
    {"kind": "multiband_istft", "hidden_size": 8, "resblock_kernel_sizes": [3], "resblock_dilations": [1],
     "synthesis": "pqmf"},
])
@pytest.mark.parametrize("conditioning", ["mel", "codes"])
def test_every_vocoder_on_mel_and_on_codes(own_chain, tmp_path, vocoder, conditioning):
    config = write_config(vocoder=vocoder, train__vocoder={"conditioning": conditioning, "max_steps": 3})
    for path in Path("checkpoints/tiny/vocoder").iterdir():
        path.unlink()
    run_script("train_vocoder", "-c", config, "-m", "tiny")
    checkpoint = trained("tiny", "vocoder")
    assert checkpoint["config"]["vocoder"]["kind"] == vocoder["kind"]
    assert any(name.startswith("decoder.") for name in checkpoint["weights"]) == (conditioning == "codes")
    speak("tiny", tmp_path)


@pytest.mark.parametrize("vocoder", [
    {"kind": "vocos", "hidden_size": 8, "intermediate_size": 16, "n_layers": 1},
    {"kind": "harmonic_vocos", "hidden_size": 8, "intermediate_size": 16, "n_layers": 1},
    {"kind": "multiband_istft", "hidden_size": 8, "resblock_kernel_sizes": [3], "resblock_dilations": [1]},
])
@pytest.mark.parametrize("joint", [False, True])
def test_hidden_states_become_waves_from_one_checkpoint(own_chain, tmp_path, caplog, vocoder, joint):
    stage = {"conditioning": "hidden", "joint": joint, "segment_frames": 40, "adversarial_frames": 16, "max_steps": 3}
    config = write_config(vocoder=vocoder, hidden_decoder={"hidden_size": 8, "n_layers": 2}, train__vocoder=stage)
    before = network_weights(trained("tiny", "llm"))
    for path in Path("checkpoints/tiny/vocoder").iterdir():
        path.unlink()
    run_script("train_vocoder", "-c", config, "-m", "tiny")
    checkpoint = trained("tiny", "vocoder")
    for weights in (checkpoint["weights"], network_weights(checkpoint)):
        after = {name.removeprefix("lm."): value for name, value in weights.items() if name.startswith("lm.")}
        assert after.keys() == before.keys()
        moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
        assert moved >= {"body.wte.weight", "heads.0.weight", "code_embeddings.1.weight"} if joint else not moved
    assert checkpoint["languages"] == ["de", "en-us", "es"]
    log = Path("logs/tiny/vocoder/train.log").read_text().rpartition("from step 0 to 3")[2]
    losses = log.rpartition("step 3: ")[2].splitlines()[0]
    assert ("llm " in losses) == ("llm " in log.rpartition("validation: ")[2].splitlines()[0]) == joint
    assert "decoder_mel " in losses
    shutil.rmtree("checkpoints/tiny/llm")
    shutil.rmtree("checkpoints/tiny/codec")
    speak("tiny", tmp_path)


@pytest.mark.parametrize("audio", [
    {"sample_rate": 24000, "n_mels": 100, "mel_scale": "htk", "mel_norm": None, "padding": "center", "floor": 1e-7},
    {"sample_rate": 16000, "n_fft": 512, "win_length": 400, "hop_length": 128},
])
def test_other_audio_sections(own_chain, tmp_path, audio):
    vocoder = {"kind": "vocos", "hidden_size": 8, "intermediate_size": 16, "n_layers": 1}
    config = write_config(audio=audio, vocoder=vocoder, data={"codes": "codes2"})
    run_script("train_codec", "-c", config, "-m", "other")
    run_script("preprocess_codes", "-c", config, "-m", "other")
    run_script("train_llm", "-c", config, "-m", "other")
    run_script("train_vocoder", "-c", config, "-m", "other")
    run_script("synthesize", "-m", "other", "--text", TEXT, "-o", tmp_path / "a.wav")
    assert len(load_audio(tmp_path / "a.wav", audio["sample_rate"])) > 2000


def test_pretrained_encodec_and_gpt2(own_chain, tmp_path):
    """The full system's shape: EnCodec's codes, GPT-2's weights, a decoder of its own, bf16, accumulation, workers."""
    save_tiny_encodec(Path("encodec"))
    torch.manual_seed(9)
    gpt2 = GPT2Model(GPT2Config(vocab_size=30, n_positions=1024, n_embd=16, n_layer=1, n_head=2))
    gpt2.save_pretrained("gpt2")
    changes = {
        "codec": {"kind": "encodec", "path": "encodec", "bandwidth": 1.5},
        "data": {"codes": "codes2", "workers": 1},
        "llm": {"pretrained": "gpt2", "max_positions": 1024, "gradient_checkpointing": True},
        "train__llm": {"max_steps": 1, "gradient_accumulation": 2, "learning_rate": 1e-6},
        "train__vocoder": {"max_steps": 3},
    }
    config = write_config(**changes)
    run_script("preprocess_codes", "-c", config)
    run_script("train_llm", "-c", config, "-m", "full")
    run_script("train_vocoder", "-c", config, "-m", "full")
    llm = trained("full", "llm")
    assert (llm["codec"]["n_codebooks"], llm["codec"]["codebook_size"], llm["codec"]["frame_rate"]) == (5, 16, 75)
    for name, weights in gpt2.state_dict().items():
        if name != "wte.weight":
            torch.testing.assert_close(llm["weights"][f"body.{name}"], weights, atol=1e-5, rtol=0)
    assert trained("full", "vocoder")["weights"]["decoder.embeddings.4.weight"].shape == (16, 8)
    speak("full", tmp_path)


def test_bf16(own_chain, tmp_path):
    config = write_config(data={"codes": "codes2"}, **{
        f"train__{stage}": {"precision": "bf16", "max_steps": 3} for stage in ("codec", "llm", "vocoder")
    })
    run_script("train_codec", "-c", config, "-m", "half")
    run_script("preprocess_codes", "-c", config, "-m", "half")
    run_script("train_llm", "-c", config, "-m", "half")
    run_script("train_vocoder", "-c", config, "-m", "half")
    assert trained("half", "llm")["weights"]["body.wte.weight"].dtype == torch.float32
    speak("half", tmp_path)


def test_test_mode_takes_a_handful_of_clips_and_ten_steps(own_chain):
    long = {"max_steps": 1000, "eval_interval": 1000, "save_interval": 1000}
    config = write_config(**{f"train__{stage}": long for stage in ("codec", "llm", "vocoder")})
    for stage, model in (("codec", "new"), ("llm", "tiny"), ("vocoder", "tiny")):  # another codec has other codes
        run_script(f"train_{stage}", "-c", config, "-m", model, "--test-mode")
        checkpoint = trained(model, stage)
        assert checkpoint["step"] == 10
        assert checkpoint["speakers"] == ["bruno", "ella", "lucia"]


def test_bytes_instead_of_ipa(own_chain, tmp_path):
    for part in ("train", "validation"):
        run_script("preprocess_ipa", "-i", f"data/{part}.txt", "-o", f"data/{part}_bytes.txt", "--frontend", "bytes",
                   "--jobs", 1)
    config = write_config(
        text={"frontend": "bytes"},
        data={"training_filelist": "data/train_bytes.txt", "validation_filelist": "data/validation_bytes.txt"},
    )
    run_script("preprocess_codes", "-c", config, "-m", "tiny")
    for path in Path("checkpoints/tiny/llm").iterdir():
        path.unlink()
    run_script("train_llm", "-c", config, "-m", "tiny")
    assert len(trained("tiny", "llm")["text"]["symbols"]) == 260
    speak("tiny", tmp_path)


def test_codes_are_the_codecs(chain):
    codec = load_codec(load_config("config.json"), "tiny")
    row = load_codes("data/codes/validation", codec.fingerprint)[0]
    codes, _ = codec.encode(load_audio(row["path"], 22050)[None])
    assert np.array_equal(row["codes"], codes[0].numpy())
