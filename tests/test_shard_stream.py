"""Batches out of shards: every clip once an epoch, shared between processes, exact resume, full rows."""

import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_script, write_config
from test_code_shards import PATHS, clip, encode, write
from test_resume import assert_same

from checkpoints import read_checkpoint
from code_shards import open_shards
from codes_cache import load_codes, read_info
from data_utils import CodeSequences
from shard_stream import Layout, PoolBatches, ShardStream

SINGLE = Layout(batch_size=3, max_positions=80, packing=False, clip_positions=4)
PACKED = Layout(batch_size=2, max_positions=90, packing=True, clip_positions=4)
VOICED = Layout(2, 90, True, 4, reserve=6, voice_probability=0.7, voice_frames=(2, 5), voice_overhead=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("stream") / "codes", [clip(i) for i in range(40)], shard_clips=5)


def make(folder: Path, layout: Layout, rank: int = 0, world_size: int = 1, **settings) -> PoolBatches:
    stream = ShardStream(open_shards([str(folder)], "aaaa", "bbbb"), layout, 1, rank, world_size, **settings)
    sequences = partial(CodeSequences, encode=encode, speakers=["ann", "bob"], languages=["de", "en-us"])
    return PoolBatches(stream, sequences)


def first(batches: PoolBatches, count: int, start: int = 0, workers: int = 0) -> list[dict]:
    return list(itertools.islice(batches.stream_batches(workers)(start), count))


@pytest.mark.parametrize("layout", [SINGLE, PACKED])
@pytest.mark.parametrize("buffer_shards", [2, 8])
def test_an_epoch_has_every_clip_once_in_another_order_than_the_next(folder, layout, buffer_shards):
    batches = make(folder, layout, buffer_shards=buffer_shards)
    count = batches.stream.batches_per_epoch
    epochs = [[name for batch in first(batches, count, start) for name in batch["name"]] for start in (0, count)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(PATHS)
    assert epochs[0] != epochs[1]


def test_batches_are_no_larger_than_they_should_be_and_hold_similar_lengths(folder):
    batches = make(folder, SINGLE, buffer_shards=8)
    sizes = [len(batch["name"]) for batch in first(batches, batches.stream.batches_per_epoch)]
    assert (max(sizes), sum(sizes), len(sizes)) == (3, 40, 14)
    spread = [np.ptp(batch["codes_lengths"] + batch["text_lengths"]) for batch in first(batches, 14)]
    assert np.mean(spread) < 8  # of 5 to 69


def test_rows_are_packed_and_have_the_codes_of_their_clips(folder):
    wanted = {row["path"]: row["codes"] for row in load_codes(folder, "aaaa")}
    batches = make(folder, PACKED, buffer_shards=4)
    count = batches.stream.batches_per_epoch
    assert count == 12
    for batch in first(batches, count):
        sizes = batch["text_lengths"] + batch["codes_lengths"] + 4
        for row in range(int(batch["row"].max()) + 1):
            members = (batch["row"] == row).nonzero()[:, 0]
            assert batch["offset"][members].tolist() == [0, *sizes[members].cumsum(0)[:-1].tolist()]
            assert sizes[members].sum() <= 90
        for name, codes, length in zip(batch["name"], batch["codes"], batch["codes_lengths"], strict=True):
            assert np.array_equal(codes[:, :length], wanted[name])


@pytest.mark.parametrize("layout", [SINGLE, VOICED])
@pytest.mark.parametrize("curriculum", [0, 23])
def test_a_resume_gives_the_same_batches_with_any_number_of_workers(folder, layout, curriculum):
    batches = make(folder, layout, curriculum_batches=curriculum, buffer_shards=3)
    whole = first(batches, 36)
    for start, workers in ((9, 0), (22 if curriculum else 27, 2 if curriculum else 0)):
        assert_same(first(batches, 36 - start, start, workers), whole[start:])


def test_a_resume_reads_nothing_of_what_lies_before(folder, monkeypatch):
    batches, read = make(folder, SINGLE), []
    monkeypatch.setattr("shard_stream.read_shards", lambda files, *_: read.append(files) or pytest.fail("too early"))
    iterator = batches.stream.from_batch(5 * batches.stream.batches_per_epoch + 7)
    pool = next(iterator)
    assert (read, pool.start > 0) == ([], True)


@pytest.mark.parametrize("layout", [SINGLE, PACKED])
def test_processes_share_the_clips_and_stay_in_step(folder, layout):
    parts = [make(folder, layout, rank, 2, buffer_shards=2) for rank in range(2)]
    count = parts[0].stream.batches_per_epoch
    assert count == parts[1].stream.batches_per_epoch
    names = [[name for batch in first(part, count) for name in batch["name"]] for part in parts]
    assert sorted(names[0] + names[1]) == sorted(PATHS)
    with pytest.raises(ValueError, match=r"8 shards of codes for 9 processes: each needs one of its own; lower data\."):
        make(folder, layout, 0, 9)


def test_the_curriculum_goes_from_short_clips_to_all(folder):
    batches = first(make(folder, SINGLE, curriculum_batches=50, buffer_shards=8), 70)
    longest = [max(int((b["text_lengths"] + b["codes_lengths"]).max()) for b in batches[i : i + 5])
               for i in range(0, 50, 5)]
    lengths = sorted(len(clip(i)["ipa"]) + clip(i)["frames"] for i in range(40))
    for part, found in enumerate(longest):
        assert found <= lengths[4 * (part + 1) - 1]
    assert longest[0] < longest[5] < longest[9]
    assert {name for batch in batches[50:] for name in batch["name"]} == set(PATHS)


def test_what_is_too_long_is_left_out_and_the_longest_batch_has_the_longest_clip(folder):
    short = Layout(3, 40, False, 4)
    fits = {PATHS[i] for i in range(40) if len(clip(i)["ipa"]) + clip(i)["frames"] + 4 <= 40}
    batches = make(folder, short)
    names = [name for batch in first(batches, batches.stream.batches_per_epoch) for name in batch["name"]]
    assert sorted(names) == sorted(fits)
    longest = batches.longest_batch()
    assert int((longest["text_lengths"] + longest["codes_lengths"]).max()) == max(
        len(clip(i)["ipa"]) + clip(i)["frames"] for i in range(40) if PATHS[i] in fits)


def test_a_voice_is_of_another_clip_of_the_speaker_and_fits(folder):
    clips = {row["path"]: row for row in load_codes(folder, "aaaa")}
    batches = make(folder, VOICED, buffer_shards=8)
    voiced = 0
    for batch in first(batches, batches.stream.batches_per_epoch):
        for name, voice, length in zip(batch["name"], batch["voice"], batch["voice_lengths"], strict=True):
            if length:
                ends = [row["codes"][:, -length:] for path, row in clips.items()
                        if row["speaker"] == clips[name]["speaker"] and path != name and row["frames"] >= length]
                assert any(np.array_equal(voice[:, :length], end) for end in ends)
                voiced += 1
    assert 15 < voiced < 40


def test_a_damaged_shard_is_named_whichever_process_meets_it(folder, tmp_path):
    copy = tmp_path / "codes"
    copy.mkdir()
    for file in folder.glob("*"):
        (copy / file.name).write_bytes(file.read_bytes())
    batches = make(copy, SINGLE)
    (copy / "shard-00003.parquet").write_bytes(b"")
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"shard-00003\.parquet: damaged or no Parquet file"):
            first(batches, batches.stream.batches_per_epoch, workers=workers)


def test_the_language_model_trains_on_shards_and_resumes_exactly(own_chain):
    arrow = {row["path"]: row["codes"].tolist()
             for row in load_codes("data/codes/training", read_info("data/codes/training")["fingerprint"])}
    config = write_config(data={"workers": 0, "codes_storage": "parquet", "shard_clips": 3},
                          train__llm={"packing": True, "max_steps": 6})
    run_script("preprocess_codes", "-c", config, "-m", "tiny")
    info = read_info("data/codes/training")
    assert (info["storage"], info["clips"]) == ("parquet", len(arrow))
    assert len(list(Path("data/codes/training").glob("*.parquet"))) == -(-len(arrow) // 3)
    rows = load_codes("data/codes/training", info["fingerprint"])
    assert {row["path"]: row["codes"].tolist() for row in rows} == arrow
    checkpoints = Path("checkpoints/tiny/llm")
    for number, steps in enumerate(([], ["--max-steps", 3], [])):
        if number < 2:
            checkpoints.rename(f"checkpoints/tiny/before{number}")
        run_script("train_llm", "-c", config, "-m", "tiny", *steps)
    whole, halves = (read_checkpoint(folder / "G_step6.pth")
                     for folder in (Path("checkpoints/tiny/before1"), checkpoints))
    for checkpoint in (whole, halves):
        checkpoint["training"].pop("best")
    assert_same(whole, halves)
    assert torch.is_tensor(next(iter(whole["weights"].values())))
