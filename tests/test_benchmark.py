import json
import os
import sys
from pathlib import Path

import pytest
import torch
from conftest import run_script
from transformers import EncodecConfig as HubConfig
from transformers import EncodecModel

import benchmark
from benchmarking.aligned import ALIGNED_PARTS, measure_aligned_synthesis
from benchmarking.networks import codec_sizes, count_parameters, systems_of
from benchmarking.stages import measure_training, stages_of
from benchmarking.synthesis import measure_synthesis
from config import Config, EncodecConfig, HarmonicVocosConfig, load_config, parse_config

TINY = "configs/tiny/ipa_tts.json"
PARTS = {"lm", "decoder", "vocoder"}


def test_every_figure_of_the_tiny_config(tmp_path, monkeypatch):
    target = tmp_path / "figures" / "tiny.json"
    command = ["benchmark.py", "-c", TINY, "--steps", "1", "--seconds", "1", "--json", str(target)]
    monkeypatch.setattr(sys, "argv", command)
    benchmark.main()
    results = json.loads(target.read_text(encoding="utf-8"))
    assert results.keys() == {"config", "machine", "parameters", "synthesis", "decoding", "training"}

    config = load_config(TINY)
    assert results["parameters"] == count_parameters(config)
    assert results["parameters"].keys() == {"codec", "llm", "decoder", "vocoder", "discriminators"}
    machine = results["machine"]
    assert machine["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert machine["bandwidth_gb_per_second"] > 0.5
    assert machine["matmul_tflops"].keys() == {"fp32"}
    assert machine["matmul_tflops"]["fp32"] > 1e-3

    training = results["training"]
    assert list(training) == ["codec", "llm", "vocoder_reconstruction", "vocoder_adversarial"]
    for row in training.values():
        assert 0 < row["seconds_per_step"]["min"] == row["seconds_per_step"]["median"] == row["seconds_per_step"]["max"]
        assert 0 < row["peak_memory_gb"] < 4
        assert row["precision"] == "fp32"
        assert row["gradient_checkpointing"] is False
    assert [row["batch_size"] for row in training.values()] == [8, 8, 4, 4]
    assert training["llm"]["clip_seconds"] == pytest.approx(config.data.max_seconds, abs=0.05)
    assert training["vocoder_adversarial"]["clip_seconds"] == pytest.approx(16 * 256 / 22050)

    synthesis = results["synthesis"]
    assert synthesis["audio_seconds"] == pytest.approx(1, abs=0.1)
    assert synthesis["seconds_per_audio_second"].keys() == PARTS
    assert synthesis["times_real_time"] * sum(synthesis["seconds_per_audio_second"].values()) == pytest.approx(1)
    first = synthesis["first_sound"]
    assert list(first["streams"]) == ["1", "4", "16"]
    for seconds in first["streams"].values():
        assert 0 < seconds["p50"] <= seconds["p90"] <= seconds["p99"] < 60
    assert 6 < first["frames"] <= 21  # at most all of the second
    lm_seconds = synthesis["seconds_per_audio_second"]["lm"] * synthesis["audio_seconds"]
    assert synthesis["lm_steps"] / synthesis["lm_steps_per_second"] == pytest.approx(lm_seconds)

    decoding = results["decoding"]
    ways = {f"{way}, batch {batch}" for batch in (1, 32)
            for way in ("transformers.generate", "TokenLM.generate", "Decoder fp32", "Decoder int8")}
    if torch.cuda.is_available():
        ways -= {"Decoder int8, batch 1", "Decoder int8, batch 32"}
    assert decoding["seconds_per_step"].keys() == decoding["times_real_time"].keys() == ways
    assert decoding["floor_seconds"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="int8 is for CPUs")
def test_one_part_and_int8(caplog):
    caplog.set_level("INFO")
    run_script("benchmark", "-c", TINY, "--steps", 1, "--seconds", 1, "--parts", "synthesis", "--precision", "int8")
    assert "s in int8, " in caplog.text
    for absent in ("training", "decoding"):
        assert f"measuring {absent}" not in caplog.text
    with pytest.raises(SystemExit):
        run_script("benchmark", "-c", TINY, TINY, "--parts", "decoding")


def test_vocoder_on_mel_and_encodec_are_no_chain():
    config = load_config(TINY)
    vocoder = config.train.vocoder.model_copy(update={"conditioning": "mel"})
    train = config.train.model_copy(update={"vocoder": vocoder})
    config = config.model_copy(update={"codec": EncodecConfig(bandwidth=1.5), "train": train})
    results = measure_synthesis(config, repeats=1, seconds=1)
    assert results["times_real_time"] is None
    assert results["first_sound"] is None
    assert results["seconds_per_audio_second"].keys() == PARTS - {"decoder"}
    assert results["lm_steps"] == 75 + 1


def test_a_vocoder_that_needs_f0():
    config = load_config(TINY)
    vocoder = HarmonicVocosConfig(hidden_size=16, intermediate_size=16, n_layers=1)
    config = config.model_copy(update={"vocoder": vocoder})
    for stage in ("vocoder_reconstruction", "vocoder_adversarial"):
        assert measure_training(config, stage, 1)["peak_memory_gb"] > 0


@pytest.mark.parametrize("joint", [False, True])
def test_hidden_states(joint):
    config = load_config(TINY)
    hidden = {"conditioning": "hidden", "joint": joint, "segment_frames": 40, "adversarial_frames": 16}
    train = config.train.model_copy(update={"vocoder": config.train.vocoder.model_copy(update=hidden)})
    config = config.model_copy(update={"train": train})
    results = measure_synthesis(config, repeats=1, seconds=1)
    assert results["seconds_per_audio_second"].keys() == PARTS
    for stage in ("vocoder_reconstruction", "vocoder_adversarial"):
        assert measure_training(config, stage, 1)["clip_seconds"] == pytest.approx(40 * 256 / 22050)


@pytest.mark.parametrize("bandwidth", [1.5, 3.0, 6.0, 12.0, 24.0])
def test_encodec_sizes_equal_the_hub_model(bandwidth):
    config = Config(data=load_config(TINY).data, codec=EncodecConfig(bandwidth=bandwidth))
    hub = EncodecModel(HubConfig(num_filters=4))  # the sizes of EnCodec 24 kHz but for its width
    assert codec_sizes(config) == {
        "n_codebooks": hub.quantizer.get_num_quantizers_for_bandwidth(bandwidth),
        "codebook_size": hub.config.codebook_size, "frame_rate": hub.config.sampling_rate / hub.config.hop_length,
    }


def test_sentence_longer_than_the_model_is_refused():
    with pytest.raises(ValueError, match=r"--seconds 60: takes .* llm.max_positions is 512"):
        measure_synthesis(load_config(TINY), repeats=1, seconds=60)


def test_process_that_is_killed_is_one_sentence():
    with pytest.raises(ValueError, match="training, llm: ended, most likely for want of memory"):
        benchmark.in_own_process("training, llm", os._exit, 1)


SMALL = {"hidden_size": 16, "n_layers": 1, "n_heads": 2, "feed_forward_size": 16, "predictor_size": 8}
DECODERS = {
    "parallel": {"hidden_size": 16, "n_layers": 1},
    "flow": {"hidden_size": 16, "n_layers": 1, "n_steps": 2},
    "autoregressive": {"hidden_size": 16, "n_layers": 1, "n_heads": 2, "intermediate_size": 16},
}


def aligned_values(kind: str) -> dict:
    values = json.loads(Path(TINY).read_text(encoding="utf-8"))
    aligned = SMALL | {"decoder": {"kind": kind, **DECODERS[kind]}, "gradient_checkpointing": kind == "flow"}
    return {name: values[name] for name in ("data", "vocoder", "discriminators")} | {"aligned": aligned}


@pytest.mark.parametrize("kind", DECODERS)
def test_aligned_durations(kind):
    config = parse_config(aligned_values(kind), "aligned.json")
    results = measure_aligned_synthesis(config, repeats=1, seconds=2)
    assert results["decoder"] == kind
    assert results["audio_seconds"] == pytest.approx(2, abs=0.1)
    assert results["seconds_per_audio_second"].keys() == ALIGNED_PARTS.keys()
    assert results["times_real_time"] * sum(results["seconds_per_audio_second"].values()) == pytest.approx(1)
    assert results["cpu_seconds_per_audio_second"] > 0
    row = measure_training(config, "aligned", 1)
    assert row["clip_seconds"] == pytest.approx(config.data.max_seconds, abs=0.05)
    assert row["batch_size"] == config.train.aligned.batch_size
    assert row["gradient_checkpointing"] == (kind == "flow")


def test_a_config_is_of_the_systems_that_it_names():
    vocoder = ["vocoder_reconstruction", "vocoder_adversarial"]
    values = aligned_values("parallel")
    aligned = parse_config(values, "aligned.json")
    assert systems_of(aligned) == {"aligned"}
    assert stages_of(aligned) == ["aligned", *vocoder]
    assert count_parameters(aligned).keys() == {"aligned", "vocoder", "discriminators"}
    both = parse_config(values | {"llm": {"n_layers": 1}}, "both.json")
    assert systems_of(both) == {"aligned", "tokens"}
    assert stages_of(both) == ["llm", "aligned", *vocoder]
    assert systems_of(parse_config({"data": values["data"]}, "plain.json")) == {"tokens"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("stage", ["llm", "vocoder_reconstruction", "vocoder_adversarial"])
def test_full_config_fits_a_12_gb_gpu(stage):
    config = load_config("configs/ipa_tts.json")
    row = benchmark.in_own_process(stage, measure_training, config, stage, 2)
    assert row["batch_size"] == 2
    assert row["precision"] == "fp16"
    assert row["peak_memory_gb"] < 12


def test_several_configs_are_compared(tmp_path, caplog):
    caplog.set_level("INFO")
    other = tmp_path / "one.json"
    values = json.loads(Path(TINY).read_text(encoding="utf-8"))
    values["codec"]["bottleneck"]["n_codebooks"] = 1
    other.write_text(json.dumps(values))
    third = tmp_path / "aligned.json"
    third.write_text(json.dumps(aligned_values("parallel")))
    target = tmp_path / "figures.json"
    run_script("benchmark", "-c", TINY, other, third, "--steps", 1, "--seconds", 1, "--json", target)
    results = json.loads(target.read_text(encoding="utf-8"))
    assert list(results) == [TINY, str(other), f"{third}, aligned"]
    two, one, aligned = results.values()
    assert aligned["parameters"].keys() == {"aligned", "vocoder", "discriminators"}
    assert two["bits_per_second"] == pytest.approx(2 * one["bits_per_second"])
    assert one["lm_steps"] == two["lm_steps"]  # the second codebook is a step late, as is the end of the first
    assert caplog.text.count("| `") == 3
