"""config: every shipped config loads, and every mistake is named with its path and the mend."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from config import AudioConfig, Config, EncodecConfig, MelCodecConfig, TrainConfig, load_config, parse_config

DATA = {"training_filelist": "train.txt", "validation_filelist": "validation.txt"}


def problems(values):
    with pytest.raises(ValueError, match="problem") as caught:
        parse_config({"data": DATA} | values, "my.json")
    first, *lines = str(caught.value).splitlines()
    assert first == f"my.json: {len(lines)} problem(s) in the config"
    return [line.strip() for line in lines]


@pytest.mark.parametrize("path", sorted(Path("configs").rglob("*.json")), ids=str)
def test_shipped_configs_load_and_survive_a_checkpoint(path):
    config = load_config(path)
    assert parse_config(json.loads(json.dumps(config.model_dump())), "checkpoint") == config
    assert json.loads(config.model_dump_json()) == json.loads(json.dumps(config.model_dump()))


def test_defaults_are_the_sources_full_system():
    config = parse_config({"data": DATA}, "my.json")
    audio = config.audio
    assert (audio.sample_rate, audio.n_fft, audio.hop_length, audio.n_mels) == (22050, 1024, 256, 80)
    assert audio.frame_rate == 22050 / 256
    assert isinstance(config.codec, EncodecConfig)
    assert (config.llm.n_layers, config.llm.hidden_size, config.llm.max_positions) == (12, 768, 1024)
    assert config.train.vocoder.gamma == 0.9999


def test_each_kind_of_codec_and_vocoder_has_its_own_section():
    values = {"codec": {"kind": "mel", "stride": 2}, "vocoder": {"kind": "vocos"}}
    config = parse_config({"data": DATA} | values, "my.json")
    assert config.codec == MelCodecConfig(stride=2)
    assert config.vocoder.n_layers == 8


def test_every_wrong_key_is_reported_at_once_with_its_path():
    assert problems({
        "audio": {"hop_lenght": 256, "n_fft": -1}, "codec": {"kind": "encodec", "bandwith": 6.0},
        "train": {"llm": {"learning_rate": "fast"}}, "vocodr": {},
    }) == [
        "audio.n_fft: Input should be greater than 0",
        "audio.hop_lenght: unknown key, did you mean 'hop_length'?",
        "codec.bandwith: unknown key, did you mean 'bandwidth'?",
        "train.llm.learning_rate: Input should be a valid number, unable to parse string as a number",
        "vocodr: unknown key, did you mean 'vocoder'?",
    ]


def test_a_missing_key_and_a_wrong_kind_are_named():
    with pytest.raises(ValueError, match=r"data\.validation_filelist: Field required"):
        parse_config({"data": {"training_filelist": "a"}}, "my.json")
    line, = problems({"codec": {"kind": "mp3"}})
    assert line.startswith("codec: ")
    assert all(word in line for word in ("mp3", "encodec", "mel"))


@pytest.mark.parametrize(("values", "message"), [
    ({"audio": {"win_length": 2048}}, "audio: win_length 2048 is longer than n_fft 1024"),
    ({"audio": {"hop_length": 255}}, "audio: n_fft - hop_length must be even"),
    ({"audio": {"f_max": 12000}}, "audio: f_min 0 must be under f_max 12000, which half the sample rate bounds"),
    ({"audio": {"f_min": 12000}}, "audio: f_min 12000 must be under f_max 11025, which half the sample rate bounds"),
    ({"llm": {"hidden_size": 100, "n_heads": 3}}, "llm: hidden_size 100 is no multiple of n_heads 3"),
    ({"data": DATA | {"min_seconds": 5, "max_seconds": 2}}, "data: min_seconds 5 must be under max_seconds 2"),
    ({"vocoder": {"kind": "multiband_istft", "n_bands": 2}},
     "config: vocoder: upsample_rates [4, 4] x hop_length 4 x n_bands 2 give 128 samples a frame, audio.hop_length is "
     "256: make them equal"),
    ({"codec": {"kind": "mel", "stride": 4, "samples_per_code": 2048}},
     "config: codec: stride 4 x audio.hop_length 256 are 1024 samples a code, codec.samples_per_code is 2048: make "
     "them equal"),
    ({"codec": {"kind": "mel", "stride": 3}},
     "config: train.codec.segment_frames 256 must be a multiple of codec.stride 3"),
    ({"codec": {"kind": "mel"}, "train": {"codec": {"loss_weights": {"mel": 1, "feature_matching": 2}}}},
     "config: train.codec.loss_weights: give adversarial and feature_matching weights, both or none"),
    ({"codec": {"kind": "mel", "bottleneck": {"kind": "fsq", "levels": [8, 1]}}},
     "codec.bottleneck.levels.1: Input should be greater than or equal to 2"),
    ({"codec": {"kind": "mel", "bottleneck": {"kind": "rvq", "levels": [8, 5]}}},
     "codec.bottleneck.levels: not a key of this section, but of another"),
    ({"codec": {"kind": "mel", "bottleneck": {"kind": "gaussian", "latent_sizes": 5}}},
     "codec.bottleneck.latent_sizes: unknown key, did you mean 'latent_size'?"),
    ({"codec": {"kind": "mel", "stride": 9}}, "codec.stride: Input should be less than or equal to 8"),
    ({"codec": {"kind": "mel", "decoder_layers": 2, "lookahead": 7}},
     "codec: lookahead 7: 2 convolutions, 3 frames each, hear at most 6; take no more, or null for all of them"),
    ({"vocoder": {"kind": "harmonic_vocos", "n_layers": 1, "lookahead": 7}},
     "vocoder: lookahead 7: 2 convolutions, 3 frames each, hear at most 6; take no more, or null for all of them"),
    ({"vocoder": {"kind": "vocos", "pretrained": "vocos.bin", "lookahead": 6}},
     "vocoder: lookahead 6: pretrained weights hear 3 frames a layer ahead; set lookahead or pretrained to null"),
    ({"train": {"codec": {"loss_weights": {"mel": -1.0}}}},
     "train.codec.loss_weights.mel: Input should be greater than or equal to 0"),
    ({"train": {"vocoder": {"segment_frames": 3}}},
     "config: train.vocoder.segment_frames: 768 samples are too short for the STFTs of losses and discriminators, "
     "which need 1025: at least 5 frames"),
    ({"train": {"vocoder": {"adversarial_frames": 4}}},
     "config: train.vocoder.adversarial_frames: 1024 samples are too short for the STFTs of losses and discriminators, "
     "which need 1025: at least 5 frames"),
    ({"train": {"vocoder": {"adversarial_frames": 33}}},
     "train.vocoder: adversarial_frames 33 are part of segment_frames 32, of which there must be as many"),
    ({"train": {"vocoder": {"conditioning": "codes", "joint": True}}},
     'train.vocoder: joint trains the language model through its hidden states: set conditioning to "hidden" (it is '
     '"codes"), or joint to false'),
])
def test_values_that_do_not_fit_together_say_how(values, message):
    assert problems(values) == [message]


def test_unreadable_configs_are_named(tmp_path):
    path = tmp_path / "my.json"
    with pytest.raises(ValueError, match=r"my.json: no such config file"):
        load_config(path)
    path.write_text('{"data": ')
    with pytest.raises(ValueError, match=r"my.json: not valid JSON: .*line 1"):
        load_config(path)
    path.write_bytes(b'{"data": "\xff"}')
    with pytest.raises(ValueError, match=r"my.json: not UTF-8 .*; save it as UTF-8"):
        load_config(path)
    for content, reason in (
        ('{"data": {}, "data": {}}', "the key 'data' is given 2 times in one section; leave one"),
        ('{"audio": {"floor": NaN}}', "NaN is no number of JSON"),
        ('{"audio": {"f_max": 1' + "0" * 5000 + "}}", "4300"),
        ("[" * 100_000, "brackets inside brackets"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=rf"my.json: not valid JSON: .*{reason}"):
            load_config(path)
    with pytest.raises(ValueError, match="cannot be read"):
        load_config(tmp_path)
    with pytest.raises(ValueError, match="no such config file"):
        load_config("a\0b")
    with pytest.raises(ValueError, match=r"deeper.json: no such config file"):
        load_config(tmp_path / "my.json" / "deeper.json")
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"my.json: 1 problem.*\n  config: "):
        load_config(path)


def test_sections_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        AudioConfig().n_mels = 100
    assert AudioConfig() == AudioConfig(n_mels=80)
    assert AudioConfig() != AudioConfig(n_mels=100)


def test_weights_of_the_source_are_the_defaults():
    stages = TrainConfig()
    assert stages.llm.loss_weights["llm"] == 1
    weights = stages.vocoder.loss_weights
    assert (weights["mel"], weights["adversarial"], weights["feature_matching"], weights["stft"]) == (45, 1, 2, 1)
    assert Config.model_fields["audio"].default == AudioConfig()
