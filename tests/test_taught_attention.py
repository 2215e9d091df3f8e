"""The head of the LM that is taught where to look: what is recorded, what is asked of it, and that it learns it."""

import logging
import re

import numpy as np
import pytest
import torch
from conftest import run_script, write_config
from test_backbones import every_backbone
from test_packing import packed_batch
from test_token_lm import alone, make_lm, random_batch
from test_train_aligned import with_durations  # noqa: F401, a fixture
from transformers import AutoModel

from config import LLMStage
from lm_data import SymbolsOfFrames
from losses import token_cross_entropy
from models.layers.recorded_attention import record
from train_llm import lm_losses, loss_weights_at


@every_backbone
@pytest.mark.parametrize("layer", [0, 1])
def test_recorded_logits_give_the_attention_of_the_library(settings, layer):
    lm = make_lm(1, **settings)
    config = type(lm.body.config).from_dict(lm.body.config.to_dict())
    eager = AutoModel.from_config(config, attn_implementation="eager").eval()
    eager.load_state_dict(lm.body.state_dict())
    inputs = torch.randn(2, 7, 16)
    with torch.no_grad(), record(layer) as head:
        lm.body(inputs_embeds=inputs)
        expected = eager(inputs_embeds=inputs, output_attentions=True).attentions[layer][:, 0]
    later = torch.ones(7, 7, dtype=torch.bool).triu(1)
    found = (head.query @ head.key.transpose(1, 2)).masked_fill(later, -torch.inf).softmax(-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_nothing_is_kept_outside_of_a_recording():
    lm = make_lm(1)
    with record(0) as head:
        pass
    lm.body(inputs_embeds=torch.randn(1, 3, 16))
    assert head.query is None


@every_backbone
def test_a_clip_looks_at_its_own_text_alone_or_packed(settings):
    lm = make_lm(2, **settings)
    batch, where = packed_batch(lm, 2)
    together, packed = (lm.states(**batch, **place, with_attention=True) for place in ({}, where))
    for i in range(5):
        one = alone(batch, i)
        single = lm.states(**one | {"voice": one["voice"][:, :, : int(one["voice_lengths"])]}, with_attention=True)
        S, P = single.attention.shape[1:]
        start = 2 + int(lm.voice_positions_for(batch["voice_lengths"][i]))
        assert int(single.text_start) == int(together.text_start[i]) == start
        for states in (together, packed):
            torch.testing.assert_close(states.attention[i, :S, :P], single.attention[0], atol=1e-4, rtol=0)
            assert torch.isinf(states.attention[i, :S, P:]).all()


def test_targets_are_positions_of_the_text_and_nothing_behind_the_codes():
    lm = make_lm(2)
    batch = random_batch(2, [5, 3], [4, 2])
    alignment = torch.tensor([[0, 1, 1, 4], [-100, 2, 9, 9]])
    *_, logits, targets = lm(**batch, alignment=alignment)
    assert targets.tolist() == [[[2, 3, 3, 6, -100]], [[-100, 4, -100, -100, -100]]]  # language and speaker come first
    assert logits.shape == (2, 1, 5, 2 + 5 + 5)


def test_the_head_learns_where_to_look_with_the_rest_of_the_loss():
    lm = make_lm(1, hidden_size=32, dropout=0.0).train()
    batch = random_batch(1, [6, 6], [12, 12]) | {"alignment": torch.arange(12).expand(2, 12) // 2}
    given = {"codes_lengths" if name == "code_lengths" else name: value for name, value in batch.items()}
    optimizer, losses = torch.optim.Adam(lm.parameters(), lr=3e-3), []
    for _ in range(60):
        losses.append(lm_losses(lm, given, with_alignment=True)[0])
        optimizer.zero_grad()
        (losses[-1]["llm"] + losses[-1]["alignment"]).backward()
        optimizer.step()
    *_, logits, targets = lm(**batch)
    assert losses[-1]["llm"] < 0.5 * losses[0]["llm"]
    assert token_cross_entropy(logits, targets) < 0.3
    assert (logits.argmax(-1) == targets)[targets != -100].float().mean() > 0.95


def test_frames_are_of_the_symbol_that_is_spoken_in_their_middle():
    durations, ratio = [3, 0, 5, 0, 1, 7, 4], 2.3  # silence, 5 symbols, silence
    row = {"path": "a", "ipa": "abcde", "durations": durations}
    of_mel_frame = np.repeat(np.arange(7), durations)
    expected = [min(max(of_mel_frame[int((t + 0.5) * ratio)] - 1, 0), 4) for t in range(8)]

    class Rows(list):
        def __getitem__(self, key):
            return [row["path"] for row in self] if key == "path" else super().__getitem__(key)

    symbols = SymbolsOfFrames(Rows([row]), ratio)
    assert symbols({"path": "a", "ipa": "abcde", "frames": 8}).tolist() == expected
    assert symbols({"path": "b", "ipa": "abcde", "frames": 2}).tolist() == [-100, -100]
    with pytest.raises(ValueError, match="a: its durations are of another text"):
        symbols({"path": "a", "ipa": "abcd", "frames": 8})


def test_it_is_taught_from_its_start_on():
    stage = LLMStage(loss_weights={"llm": 1.0, "alignment": 0.1}, alignment_start=5)
    assert loss_weights_at(stage, 4) == {"llm": 1.0}
    assert loss_weights_at(stage, 5) == {"llm": 1.0, "alignment": 0.1}


def test_train_llm_teaches_it_from_the_durations(with_durations, caplog):  # noqa: F811
    caplog.set_level(logging.INFO)
    config = write_config("taught.json", data={"durations": "durations"},
                          train__llm={"loss_weights": {"llm": 1.0, "alignment": 0.5}, "packing": True,
                                      "alignment_start": 5, "max_steps": 6})
    run_script("train_llm", "-c", config, "-m", "tiny")
    assert re.search(r"step 6 validation: llm \d\.\d+, alignment \d\.\d+", caplog.text)


def test_train_llm_without_durations_says_so(own_chain, capsys):
    config = write_config("taught.json", data={"durations": "nothing"},
                          train__llm={"loss_weights": {"llm": 1.0, "alignment": 0.5}})
    with pytest.raises(SystemExit):
        run_script("train_llm", "-c", config, "-m", "tiny")
    assert "nothing/training: no durations; make them with: python3 align.py" in capsys.readouterr().err
