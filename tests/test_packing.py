"""Packed rows and the curriculum: losses and gradients of clips alone, every clip once an epoch, exact resume."""

import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_script, write_config
from test_backbones import every_backbone
from test_resume import assert_same
from test_token_lm import alone, make_lm, random_batch

from checkpoints import read_checkpoint
from config import LLMStage
from data_utils import BatchStream, CodeSequences, Draw, collate_items
from lm_data import RowSequences, RowStream, collate_rows, collate_single, pack_rows
from losses import token_cross_entropy
from models.layers.packing import pack, unpack
from train_llm import lm_losses, loss_weights_at

LENGTHS = np.random.default_rng(0).integers(5, 60, 83).tolist()


def packed_batch(lm, n_codebooks: int) -> tuple[dict, dict]:
    """Five clips, two of them with a voice, and where they stand in two rows: with and without free places behind."""
    batch = random_batch(n_codebooks, [5, 9, 2, 1, 7], [7, 1, 12, 3, 6])
    batch["voice"] = torch.randint(10, (5, n_codebooks, 4), generator=torch.Generator().manual_seed(2))
    batch["voice_lengths"] = torch.tensor([0, 4, 0, 1, 0])
    sizes = lm.positions_for(batch["text_lengths"], batch["code_lengths"])
    sizes = (sizes + lm.voice_positions_for(batch["voice_lengths"])).tolist()
    offsets = [0, sizes[0], 0, sizes[2], sizes[0] + sizes[1]]
    return batch, {"row": torch.tensor([0, 0, 1, 1, 0]), "offset": torch.tensor(offsets)}


@every_backbone
@pytest.mark.parametrize("n_codebooks", [1, 3])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_clips_have_the_loss_and_the_gradients_of_clips_alone(settings, n_codebooks, checkpointing):
    lm = make_lm(n_codebooks, gradient_checkpointing=checkpointing, **settings).train()
    batch, where = packed_batch(lm, n_codebooks)
    found = []
    for place in ({}, where):
        lm.zero_grad()
        logits, targets, *text = lm(**batch, **place, with_text=True)
        losses = token_cross_entropy(logits, targets), token_cross_entropy(*text)
        sum(losses).backward()
        gradients = {name: p.grad for name, p in lm.named_parameters() if p.grad is not None}
        found.append((losses, int((targets != -100).sum()), gradients))
    (alone_losses, count, alone_gradients), (losses, packed_count, gradients) = found
    assert count == packed_count
    assert len(gradients) > 20
    torch.testing.assert_close(losses, alone_losses, atol=1e-5, rtol=0)
    torch.testing.assert_close(gradients, alone_gradients, atol=1e-5, rtol=1e-4)


@every_backbone
def test_a_packed_clip_gives_what_it_gives_alone_and_sees_no_other(settings):
    lm = make_lm(2, **settings)
    batch, where = packed_batch(lm, 2)
    states = lm.states(**batch, **where)
    changed = batch | {"codes": batch["codes"].clone(), "text": batch["text"].clone()}
    for i in (0, 2):  # the first of both rows
        changed["codes"][i] = (changed["codes"][i] + 1) % 10
        changed["text"][i] = (changed["text"][i] + 1) % 20
    others = lm.states(**changed, **where)
    for i in range(5):
        one = alone(batch, i)
        single = lm.states(**one | {"voice": one["voice"][:, :, : int(one["voice_lengths"])]})
        S, L = single.codes.shape[1], single.text.shape[1]
        torch.testing.assert_close(states.codes[i, :S], single.codes[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(states.text[i, :L], single.text[0], atol=1e-5, rtol=0)
        assert torch.equal(states.codes[i, :S], others.codes[i, :S]) == (i not in (0, 2))


def test_rows_hold_clips_and_give_them_back():
    clips, lengths = torch.randn(3, 5, 2), torch.tensor([5, 2, 4])
    row, offset = torch.tensor([0, 1, 1]), torch.tensor([0, 4, 0])
    rows, positions = pack(clips, lengths, row, offset)
    assert rows.shape == (2, 6, 2)
    assert positions.tolist() == [[0, 1, 2, 3, 4, 0], [0, 1, 2, 3, 0, 1]]
    assert (rows[0, 5] == 0).all()
    for clip, back, length in zip(clips, unpack(rows, lengths, row, offset), lengths, strict=True):
        assert back[:length].equal(clip[:length])


def test_a_packed_row_over_the_positions():
    lm = make_lm(2, max_positions=40)
    batch, where = packed_batch(lm, 2)
    with pytest.raises(ValueError, match=r"^a packed row of 49 positions, the model has 40: pack fewer clips into it$"):
        lm(**batch, **where)


def test_rows_are_full_and_hold_every_clip_once():
    rows = pack_rows(LENGTHS, 100, seed=1)
    totals = [sum(LENGTHS[i] for i in row) for row in rows]
    assert sorted(itertools.chain(*rows)) == list(range(len(LENGTHS)))
    assert max(totals) <= 100
    assert len(rows) <= math.ceil(sum(LENGTHS) / 100) + 2
    assert rows == pack_rows(LENGTHS, 100, seed=1) != pack_rows(LENGTHS, 100, seed=2)
    assert pack_rows([7, 7, 7], 7, 0) == pack_rows([7, 7, 7], 8, 0)
    with pytest.raises(ValueError, match="a clip of 59 positions does not fit into a packed row of 50: leave it out"):
        pack_rows(LENGTHS, 50, 0)


def first(stream, count: int, start: int = 0) -> list[list[Draw]]:
    return list(itertools.islice(stream.from_batch(start), count))


def clips_of(stream: RowStream, batches: list[list[Draw]]) -> list[list[int]]:
    return [[i for draw in batch for i in stream.rows[draw.index]] for batch in batches]


def test_without_packing_and_curriculum_it_is_the_plain_stream():
    stream, plain = RowStream(LENGTHS, 4, 7), BatchStream(LENGTHS, 4, 7)
    assert stream.rows == [[i] for i in range(83)]
    assert first(stream, 60, 13) == first(plain, 60, 13)
    assert (stream.longest(), stream.batches_per_epoch) == (plain.longest(), plain.batches_per_epoch)


@pytest.mark.parametrize("capacity", [None, 100])
def test_the_curriculum_goes_from_short_clips_to_all(capacity):
    stream = RowStream(LENGTHS, 2, 7, capacity=capacity, curriculum_batches=200)
    clips = clips_of(stream, first(stream, 400))
    longest = [max(LENGTHS[i] for batch in clips[start : start + 20] for i in batch) for start in range(0, 200, 20)]
    ordered = sorted(LENGTHS)
    assert longest == sorted(longest)
    filling = 2 if capacity is None else int(np.searchsorted(np.cumsum(ordered), capacity, side="right")) + 1
    for part in range(10):
        assert longest[part] <= ordered[max(filling, math.ceil(83 * (part + 1) / 10)) - 1]
    assert longest[0] < 15 < 50 < longest[-1] == 59
    last = [i for batch in clips[180 : 180 + stream.batches_per_epoch] for i in batch]
    assert len(last) == len(set(last)) > 70
    for start in (0, 1, 19, 20, 21, 137, 199, 200, 230):
        assert first(stream, 60, start) == first(stream, start + 60)[start:]
    assert max(sum(LENGTHS[i] for i in stream.rows[draw.index]) for draw in stream.longest()) == (capacity or 59)


def test_processes_share_the_batches_of_a_curriculum():
    settings = {"capacity": 100, "curriculum_batches": 30}
    whole = RowStream(LENGTHS, 4, 1, **settings)
    parts = [RowStream(LENGTHS, 2, 1, rank, 2, **settings) for rank in (0, 1)]
    for batch, *shares in zip(first(whole, 60), *(first(part, 60) for part in parts), strict=True):
        assert [draw for share in shares for draw in share] == batch


class Rows(list):
    """A list of rows whose columns can be asked for, like those of the cached codes."""

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


def sequences(count: int = 12) -> CodeSequences:
    random = np.random.default_rng(1)
    rows = Rows({"ipa": "a" * int(random.integers(1, 6)), "codes": random.integers(0, 10, (2, 3 + i)), "path": str(i),
                 "speaker": "xy"[i % 2], "language": "de"} for i in range(count))
    return CodeSequences(rows, lambda ipa: [1] * len(ipa), ["x", "y"], ["de"])


def test_packed_batches_lead_to_the_loss_of_their_clips():
    lm, clips = make_lm(2), sequences()
    lengths = [lm.positions_for(len(item["text"]), item["codes"].shape[1]) for item in clips]
    stream = RowStream(lengths, 2, 3, capacity=64)
    batch = collate_rows([RowSequences(clips, stream.rows, lengths, 64).draw(draw) for draw in first(stream, 1)[0]])
    assert len(batch["name"]) > 3
    assert set(batch["row"].tolist()) == {0, 1}
    plain = collate_items([clips[int(name)] for name in batch["name"]])
    losses, accuracy = lm_losses(lm, batch, with_text=True)
    expected, expected_accuracy = lm_losses(lm, plain, with_text=True)
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=0)
    assert accuracy == expected_accuracy
    assert losses.keys() == {"llm", "text"}


@pytest.mark.parametrize("packing", [False, True])
def test_training_voices_are_the_end_of_other_clips_of_the_speaker(packing):
    clips = sequences()
    lengths = [len(item["text"]) + item["codes"].shape[1] + 3 for item in clips]
    rows = pack_rows(lengths, 40, 0) if packing else [[i] for i in range(12)]
    dataset = RowSequences(clips, rows, lengths, 40, 0.5, (3, 6), voice_overhead=1)
    given, unknown = 0, 0
    for index, seed in itertools.product(range(len(rows)), range(20)):
        items = dataset.draw(Draw(index, seed))
        end = 0
        for item, clip in zip(items, rows[index], strict=True):
            whole, voice = clips[clip], item["voice"]
            assert item["codes"].equal(whole["codes"])
            assert item["text"].equal(whole["text"])
            assert item["offset"] == end
            end += lengths[clip]
            if not voice.shape[1]:
                assert item["speaker"] == whole["speaker"]
                continue
            end += voice.shape[1] + 1
            given, unknown = given + 1, unknown + (item["speaker"] == -1)
            assert 3 <= voice.shape[1] <= 6
            assert item["speaker"] in (-1, whole["speaker"])
            assert any(other % 2 == clip % 2 and clips[other]["codes"][:, -voice.shape[1]:].equal(voice)
                       for other in range(12) if other != clip)
        assert end <= 40
        if not packing:
            assert collate_single([items])["voice_lengths"].tolist() == [items[0]["voice"].shape[1]]
    assert 0.3 * given < unknown < 0.7 * given
    assert given > 30
    always = [item["voice"].shape[1] for i in range(len(rows)) for item in dataset.draw(Draw(i, 0), with_voices=True)]
    assert np.count_nonzero(always) >= (1 if packing else 12)


def test_the_weight_of_text_falls_to_nothing():
    stage = LLMStage(loss_weights={"llm": 1.0, "text": 0.4}, text_loss_steps=100)
    assert loss_weights_at(stage, 0) == {"llm": 1.0, "text": 0.4}
    assert loss_weights_at(stage, 75) == {"llm": 1.0, "text": pytest.approx(0.1)}
    assert loss_weights_at(stage, 100) == loss_weights_at(stage, 5000) == {"llm": 1.0}
    constant = LLMStage(loss_weights={"llm": 1.0, "text": 0.4})
    assert loss_weights_at(constant, 5000) == {"llm": 1.0, "text": 0.4}
    assert loss_weights_at(LLMStage(loss_weights={"llm": 2.0, "text": 0.0}), 0) == {"llm": 2.0}


def test_a_run_with_everything_is_the_same_after_a_resume(own_chain):
    llm = {"backbone": "qwen3", "n_kv_heads": 1, "gradient_checkpointing": True}
    stage = {
        "packing": True, "curriculum_steps": 5, "voice_probability": 0.5, "max_steps": 6, "gradient_accumulation": 2,
        "loss_weights": {"llm": 1.0, "text": 0.5}, "text_loss_steps": 4, "schedule": "wsd", "batch_size": 1,
    }
    config = write_config(llm=llm, train__llm=stage)
    for model in ("whole", "halves"):
        shutil.copytree("checkpoints/tiny/codec", f"checkpoints/{model}/codec")
    run_script("train_llm", "-c", config, "-m", "whole")
    run_script("train_llm", "-c", config, "-m", "halves", "--max-steps", 3)
    run_script("train_llm", "-c", config, "-m", "halves")
    whole, halves = (read_checkpoint(f"checkpoints/{model}/llm/G_step6.pth") for model in ("whole", "halves"))
    for checkpoint in (whole, halves):
        checkpoint["training"].pop("best", None)
    assert_same(whole, halves)
    log = Path("logs/whole/llm/train.log").read_text()
    assert ", llm " in log
    assert ", text " in log
