"""The frame classifier and its alignments."""

import pytest
import torch

from config import AlignerConfig, AudioConfig
from models.aligner import Aligner
from models.layers.alignment import forward_sum_loss

N_SYMBOLS = 12
SILENCE = 0


@pytest.fixture
def aligner():
    torch.manual_seed(0)
    return Aligner(AlignerConfig(hidden_size=32, n_layers=1), AudioConfig(), N_SYMBOLS, n_speakers=2).eval()


def spoken(units, durations, generator):
    """A mel in which each symbol is a bump of its own: silence, symbol 0, is quiet everywhere."""
    bands = torch.arange(80)
    shapes = [torch.full((80,), -11.0)] + [
        -8 + 6 * torch.exp(-((bands - 7 * symbol) / 4.0).square()) for symbol in range(1, N_SYMBOLS)
    ]
    frames = [shapes[unit] for unit, n in zip(units, durations, strict=True) for _ in range(n)]
    mel = torch.stack(frames, dim=1)
    return mel + 0.3 * torch.randn(mel.shape, generator=generator)


def clip(generator):
    """(mel, units, optional, durations) of two words of 3 sounds, with or without a pause between."""
    sounds = (1 + torch.randperm(N_SYMBOLS - 1, generator=generator)[:6]).tolist()
    units = [SILENCE, *sounds[:3], SILENCE, *sounds[3:], SILENCE]
    durations = torch.randint(3, 9, (len(units),), generator=generator).tolist()
    durations[4] *= int(torch.randint(2, (1,), generator=generator))
    optional = [unit == SILENCE for unit in units]
    return spoken(units, durations, generator), units, optional, durations


def batch(clips):
    frames = torch.tensor([mel.shape[1] for mel, *_ in clips])
    mels = torch.zeros(len(clips), 80, int(frames.max()))
    for row, (mel, *_) in zip(mels, clips, strict=True):
        row[:, : mel.shape[1]] = mel
    units, optional = (torch.tensor([c[i] for c in clips]) for i in (1, 2))
    return mels, frames, units, torch.full((len(clips),), units.shape[1]), optional


def test_a_padded_clip_gives_what_it_gives_alone(aligner):
    generator = torch.Generator().manual_seed(1)
    clips = [clip(generator) for _ in range(3)]
    mels, frames, *_ = batch(clips)
    together = aligner(mels, frames, torch.tensor([0, 1, 2]))
    for i, (mel, *_) in enumerate(clips):
        alone = aligner(mel.unsqueeze(0), frames[i : i + 1], torch.tensor([i]))
        torch.testing.assert_close(together[i, : frames[i]], alone[0], atol=1e-5, rtol=1e-4)


def test_emissions_are_posteriors_over_the_symbols_shares(aligner):
    log_p = torch.randn(1, 4, N_SYMBOLS).log_softmax(-1)
    aligner.symbol_shares.copy_(torch.arange(1, N_SYMBOLS + 1) / 78)
    emissions = aligner.emissions(log_p, torch.tensor([[3, 0, 3]]))
    expected = log_p[0, :, 3] - aligner.prior_scale * torch.tensor(4 / 78).log()
    torch.testing.assert_close(emissions[0, :, 0], expected)
    torch.testing.assert_close(emissions[0, :, 0], emissions[0, :, 2])


def test_learns_the_boundaries_and_scores_wrong_texts_low(aligner):
    generator = torch.Generator().manual_seed(2)
    optimizer = torch.optim.AdamW(aligner.parameters(), 1e-2)
    aligner.train()
    for _ in range(60):
        mels, frames, units, lengths, optional = batch([clip(generator) for _ in range(8)])
        log_p = aligner(mels, frames, torch.zeros(8, dtype=torch.long))
        loss = forward_sum_loss(aligner.emissions(log_p, units), frames, lengths, optional)
        (loss / frames).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(aligner.symbol_shares.sum()) == pytest.approx(1, abs=1e-4)
    aligner.eval()
    clips = [clip(generator) for _ in range(20)]
    mels, frames, units, lengths, optional = batch(clips)
    log_p = aligner(mels, frames, torch.zeros(20, dtype=torch.long))
    durations, scores = aligner.align(log_p, frames, units, lengths, optional)
    assert durations.sum(1).tolist() == frames.tolist()
    truth = torch.tensor([c[3] for c in clips])
    assert ((durations - truth).abs() <= 2).float().mean() > 0.9
    _, wrong = aligner.align(log_p, frames, units.flip(0), lengths, optional)
    assert scores.min() > wrong.max()


@pytest.mark.parametrize(("frames", "shortest"), [(40, 2), (12, 2), (11, 1), (6, 1)])
def test_phones_last_two_frames_where_the_clip_has_them(aligner, frames, shortest):
    units = torch.tensor([[SILENCE, 1, 2, 3, SILENCE, 4, 5, 6, SILENCE]])
    optional = units == SILENCE
    log_p = torch.randn(1, frames, N_SYMBOLS, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    durations, score = aligner.align(log_p, torch.tensor([frames]), units, torch.tensor([9]), optional)
    assert int(durations.sum()) == frames
    assert int(durations[~optional].min()) == shortest
    assert torch.isfinite(score).all()
