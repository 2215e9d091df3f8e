"""Durations that add up, against loops."""

import pytest
import torch

from models.layers.length_regulator import regulate, whole_frames


def test_regulate_repeats_every_symbol_for_its_duration():
    torch.manual_seed(0)
    x, durations = torch.randn(2, 4, 3), torch.tensor([[2, 0, 3, 1], [1, 1, 0, 0]])
    repeated, place = regulate(x, durations, 8)
    for b in range(2):
        expected = torch.cat([x[b, i].repeat(n, 1) for i, n in enumerate(durations[b].tolist())])
        assert torch.equal(repeated[b, : len(expected)], expected)
        assert not repeated[b, len(expected) :].any()
        assert not place[b, len(expected) :].any()
    assert torch.allclose(place[0, :6], torch.tensor([1 / 4, 3 / 4, 1 / 6, 3 / 6, 5 / 6, 1 / 2]))


@pytest.mark.parametrize("rate", [0.5, 0.8, 1.0, 1.37, 2.0])
def test_lengths_follow_the_rate(rate):
    durations = torch.rand(3, 60, generator=torch.Generator().manual_seed(1)) * 12 + 2.1
    frames = whole_frames(durations, rate)
    assert (frames.sum(1) - durations.sum(1) / rate).abs().max() <= 0.5 + 1e-4
    assert (frames >= 1).all()


def test_marks_get_nothing_and_every_sound_something():
    frames = whole_frames(torch.tensor([[0.0, 0.49, 0.5, 1.5, 2.5, -0.3, 0.7]]), rate=3.0)
    assert (frames[0] > 0).tolist() == [False, False, True, True, True, False, True]
