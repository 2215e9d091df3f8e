"""Tests of what a stage must hold."""

import math

import pytest
import torch
from conftest import tiny_config

from checkpoints import write_checkpoint
from config import parse_config
from stage_content import checked_stage
from synthesis.synthesizer import Synthesizer

CODEC = {"stage": "codec", "step": 4, "weights": {"a": torch.ones(2)}, "ema": None, "speakers": ["ella"],
         "config": tiny_config()}


def test_a_whole_stage_has_all_keys_of_its_config():
    assert checked_stage(CODEC, "G.pth") == CODEC | {"config": parse_config(tiny_config(), "").model_dump()}


@pytest.mark.parametrize(("change", "message"), [
    ({"stage": "other"}, "of a stage 'other', which there is not; there is aligner, codec"),
    ({"stage": ["codec"]}, "of a stage"),
    ({"config": {"data": 3}}, "data"),
    ({"stage": "aligned"}, "a checkpoint of stage aligned without languages and speaker_languages and text; use"),
    ({"stage": "vocoder", "codec": None}, "a checkpoint of stage vocoder without codec; use another one"),
    ({"step": -1}, "step: Input should be greater than or equal to 0"),
    ({"speakers": []}, "speakers: "), ({"speakers": "ella"}, "speakers: "), ({"weights": {"a": 1.0}}, "weights.a: "),
    ({"codec": {"fingerprint": "", "n_codebooks": 10**9, "codebook_size": 8, "frame_rate": 1.0}}, "codec.n_codebook"),
    ({"weights": {"a": torch.tensor([math.nan])}}, "a holds what is no finite number; use an earlier checkpoint"),
    ({"ema": {"b": torch.ones(2, device="meta")}}, "b holds what is no finite number"),
    ({"weights": {"a": torch.ones(2).to_sparse()}}, "a holds what is no finite number"),
])
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(ValueError, match=message) as error:
        checked_stage(CODEC | change, "G.pth")
    assert "G.pth" in str(error.value)


def test_a_speaker_without_a_language_is_named():
    frontend = {"frontend": "ipa", "symbols": ["a"]}
    aligned = CODEC | {"stage": "aligned", "languages": ["de"], "speaker_languages": {"anna": "de"}, "text": frontend}
    with pytest.raises(ValueError, match=r"G\.pth: its speaker 'ella' has no language"):
        checked_stage(aligned, "G.pth")


def test_a_model_of_a_damaged_stage_is_not_built(own_chain):
    bare = {"stage": "vocoder", "step": 9, "weights": {}, "config": tiny_config()}
    for content in (bare, CODEC | {"stage": "vocoder"}):
        write_checkpoint(content, own_chain / "checkpoints/tiny/vocoder/G_step9.pth")
        with pytest.raises(ValueError, match=r"tiny/vocoder: a checkpoint of stage vocoder without codec"):
            Synthesizer("tiny")
