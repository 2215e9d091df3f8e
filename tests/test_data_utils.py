"""Batches, segments and collation; filelists have a test file of their own."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from test_codec import make_codec
from test_token_decoder import random_codes

from config import AudioConfig, DataConfig, TokenDecoderConfig
from data_utils import (
    BatchStream,
    Clip,
    CodeSequences,
    Draw,
    WaveSegments,
    check_known,
    clips_of_length,
    collate_items,
    in_turns,
    main_languages,
    stream_batches,
)
from mel_processing import load_audio, log_mel
from models.token_decoder import TokenDecoder

AUDIO = AudioConfig(sample_rate=8000, n_fft=256, win_length=256, hop_length=64, n_mels=10)


def first(stream: BatchStream, count: int, start: int = 0) -> list[list[Draw]]:
    batches = stream.from_batch(start)
    return [next(batches) for _ in range(count)]


def lengths(count: int) -> list[int]:
    return np.random.default_rng(0).integers(1, 100, count).tolist()


@pytest.mark.parametrize(("clips", "batch_size"), [(40, 4), (43, 4), (5, 8), (1, 1), (130, 2)])
def test_every_clip_comes_once_an_epoch(clips, batch_size):
    stream = BatchStream(lengths(clips), batch_size, seed=3)
    size = min(batch_size, clips)
    assert stream.batches_per_epoch == clips // size
    orders = []
    for epoch in range(3):
        batches = first(stream, stream.batches_per_epoch, epoch * stream.batches_per_epoch)
        indices = [draw.index for batch in batches for draw in batch]
        assert all(len(batch) == size for batch in batches)
        assert len(set(indices)) == len(indices) == clips // size * size
        orders.append(indices)
    assert stream.batches_per_epoch == 1 or orders[0] != orders[1] != orders[2]


def test_a_seed_decides_everything():
    def draws(seed: int) -> list:
        return first(BatchStream(lengths(50), 4, seed), 30)

    assert draws(1) == draws(1) != draws(2)
    epochs = [{draw.index: draw.seed for batch in first(BatchStream(lengths(48), 4, 1), 12, start) for draw in batch}
              for start in (0, 12)]
    assert all(epochs[0][i] != epochs[1][i] for i in range(48))  # other segments every epoch


@pytest.mark.parametrize("start", [0, 1, 11, 12, 13, 40])
def test_taken_up_again_it_goes_on_where_it_was(start):
    stream = BatchStream(lengths(50), 4, seed=1)
    assert first(stream, 20, start) == first(stream, start + 20)[start:]


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_every_global_batch(world_size):
    whole = BatchStream(lengths(60), 2 * world_size, seed=1)
    parts = [BatchStream(lengths(60), 2, seed=1, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {part.batches_per_epoch for part in parts} == {whole.batches_per_epoch}
    for batch, *shares in zip(first(whole, 40), *(first(part, 40) for part in parts), strict=True):
        assert [draw for share in shares for draw in share] == batch


def test_batches_hold_clips_of_similar_length():
    sizes = lengths(320)
    spread = [np.ptp([sizes[draw.index] for draw in batch]) for batch in first(BatchStream(sizes, 8, 0), 40)]
    assert np.mean(spread) < 20  # of 100


def test_the_longest_clips_are_tried_first():
    assert {draw.index for draw in BatchStream([5, 90, 7, 80, 6], 2, 0).longest()} == {1, 3}


@pytest.fixture
def clips(tmp_path):
    """Three clips whose samples rise all the way, so that a segment shows where it comes from."""
    made = []
    for i, seconds in enumerate((2.0, 3.1, 0.5)):
        wave = np.linspace(0, 0.9, round(seconds * 8000))
        soundfile.write(tmp_path / f"{i}.wav", wave, 8000, subtype="FLOAT")
        made.append(Clip(tmp_path / f"{i}.wav", "a", "bob" if i else "ann"))
    return made


def test_segments_lie_on_mel_frames_and_end_in_silence(clips):
    dataset = WaveSegments(clips, ["ann", "bob"], AUDIO, segment_frames=20)
    starts = set()
    for seed in range(40):
        item = dataset.draw(Draw(1, seed))
        whole = load_audio(clips[1].path, 8000)
        start = int((item["wave"][0] - whole).abs().argmin())
        assert start % 64 == 0
        torch.testing.assert_close(item["wave"], whole[start : start + 20 * 64])
        assert (item["speaker"], item["name"]) == (1, str(clips[1].path))
        starts.add(start)
    assert len(starts) > 20
    assert dataset.draw(Draw(1, 5))["wave"].equal(dataset.draw(Draw(1, 5))["wave"])
    short = WaveSegments(clips, ["ann", "bob"], AUDIO, segment_frames=100).draw(Draw(2, 0))["wave"]
    assert len(short) == 6400
    assert (short[4000:] == 0).all()
    assert short[3999] > 0.8


@pytest.mark.parametrize("stride", [1, 3, 4])
def test_the_codes_of_a_segment_decode_to_its_frames(clips, stride):
    codec, zero = make_codec(AUDIO, stride=stride, hidden_size=8), torch.tensor([0])
    codes, lengths = codec.encode(load_audio(clips[1].path, 8000)[None])
    whole = codec.decoder(codes, lengths, zero, torch.zeros(1), codes.shape[2] * stride)
    all_codes = [None, codes[0].numpy(), None]
    dataset = WaveSegments(clips, ["ann", "bob"], AUDIO, 20, all_codes, codec.frame_rate, context=8)
    for frame in (0, 1, 50, 201, 202, 203, 367):
        batch = collate_items([dataset.segment(1, frame)])
        mel = codec.decoder(batch["codes"], batch["code_length"], zero, batch["start"], 20)
        torch.testing.assert_close(mel, whole[:, :, frame : frame + 20], atol=1e-5, rtol=0)


def test_encodecs_codes_of_a_segment_decode_to_its_frames(clips):
    torch.manual_seed(0)
    decoder = TokenDecoder(TokenDecoderConfig(hidden_size=8, n_layers=2, kernel_size=3), AUDIO, 3, 10, 75.0, 2).eval()
    codes, zero = random_codes(1, 3, 232), torch.tensor([0])
    whole = decoder(codes, torch.tensor([232]), zero, torch.zeros(1), 387)
    dataset = WaveSegments(clips, ["ann", "bob"], AUDIO, 30, [None, codes[0].numpy(), None], 75.0, context=4)
    for frame in (0, 3, 100, 101, 102, 357):
        batch = collate_items([dataset.segment(1, frame)])
        assert batch["codes"].shape[2] >= 30 * 0.6
        mel = decoder(batch["codes"], batch["code_length"], zero, batch["start"].float(), 30)
        # one block with a kernel of 3 at the mel rate does not see the frames before the segment
        inner = slice(1 if frame else 0, -1)
        torch.testing.assert_close(mel[..., inner], whole[:, :, frame : frame + 30][..., inner], atol=1e-4, rtol=0)


def test_segments_of_short_clips_have_windows_of_one_size(clips):
    codes = [np.zeros((2, frames), np.int16) for frames in (62, 97, 16)]
    dataset = WaveSegments(clips, ["ann", "bob"], AUDIO, 20, codes, 8000 / 64 / 4)
    batch = collate_items([dataset.draw(Draw(i, 0)) for i in (0, 1, 2)])
    assert batch["codes"].shape[:2] == (3, 2)
    assert batch["code_length"][2] == 16
    assert log_mel(batch["wave"], AUDIO).shape == (3, 10, 20)


def test_collation_pads_with_zeros_beside_the_lengths():
    rows = [{"ipa": "ab", "codes": np.ones((2, 3), np.int16), "speaker": "x", "language": "de", "path": "1"},
            {"ipa": "a", "codes": np.ones((2, 5), np.int16), "speaker": "y", "language": "en", "path": "2"}]
    items = CodeSequences(rows, lambda ipa: [ord(c) for c in ipa], ["x", "y"], ["de", "en"])
    batch = collate_items([items.draw(Draw(0, 0)), items.draw(Draw(1, 0))])
    assert batch["text"].tolist() == [[97, 98], [97, 0]]
    assert batch["text_lengths"].tolist() == [2, 1]
    assert batch["codes"].dtype == torch.long
    assert batch["codes"][0].tolist() == [[1, 1, 1, 0, 0]] * 2
    assert batch["codes_lengths"].tolist() == [3, 5]
    assert (batch["speaker"].tolist(), batch["language"].tolist()) == ([0, 1], [0, 1])
    assert batch["name"] == ["1", "2"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_clip_is_named_by_whoever_reads_it(clips, workers):
    samples = np.zeros(8000, np.float32)
    samples[100:] = np.nan
    soundfile.write(clips[2].path, samples, 8000, subtype="FLOAT")
    stream = BatchStream([1, 1, 1], 1, seed=0)
    dataset = WaveSegments(clips, ["ann", "bob"], AUDIO, 20)
    batches = stream_batches(dataset, stream, collate_items, workers)(0)
    with pytest.raises(ValueError, match=r"^\S+2\.wav: holds NaN or infinite samples; export it again [a-z ]+$"):
        list(itertools.islice(batches, 3))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_streams_and_leave_the_random_state_alone(clips, workers):
    stream, dataset = BatchStream([1, 1, 1], 2, seed=0), WaveSegments(clips, ["ann", "bob"], AUDIO, 20)
    state = torch.get_rng_state()
    batches = stream_batches(dataset, stream, collate_items, workers)(3)
    for draws in first(stream, 4, 3):
        expected = collate_items([dataset.draw(draw) for draw in draws])
        found = next(batches)
        assert found["name"] == expected["name"]
        assert torch.equal(found["wave"], expected["wave"])
    assert torch.equal(torch.get_rng_state(), state)


def test_clips_of_other_lengths_are_left_out_and_counted(clips, caplog):
    data = DataConfig(training_filelist="a", validation_filelist="b", min_seconds=1.0, max_seconds=3.0)
    assert clips_of_length(clips, data, "a.txt") == clips[:1]
    assert "a.txt: 2 of 3 clips left out, not within data.min_seconds 1 to data.max_seconds 3" in caplog.text
    with pytest.raises(ValueError, match=r"a\.txt: none of 1 clips lies within"):
        clips_of_length(clips[2:], data, "a.txt")
    with pytest.raises(ValueError, match=r"gone\.wav: no such file"):
        clips_of_length([Clip(Path("gone.wav"), "")], data, "a.txt")


def test_strangers_among_the_held_out_clips_are_named():
    check_known(["ann", "ann"], ["ann", "bob"], "speaker", "v.txt")
    with pytest.raises(ValueError, match=r"^v\.txt: speaker 'cy', 'dan' is not among those trained: ann; leave those"):
        check_known(["dan", "ann", "cy"], ["ann"], "speaker", "v.txt")


def test_speakers_take_turns():
    assert in_turns(["a", "a", "a", "b", "c", "b"], 5) == [0, 3, 4, 1, 5]
    assert in_turns([], 3) == []


def test_main_languages():
    speakers, languages = ["b", "a", "b", "b", "a"], ["de", "es", "en-us", "de", "es"]
    assert main_languages(speakers, languages) == {"a": "es", "b": "de"}
