"""Means over symbols, against loops."""

import torch

from aligned_data import frame_energy, mean_over_symbols


def test_mean_over_symbols_is_what_a_loop_gives():
    torch.manual_seed(0)
    durations = torch.tensor([3, 0, 1, 5, 0, 2])
    values, weights = torch.randn(11), (torch.rand(11) > 0.4).float()
    weights[3] = 0
    means, start = mean_over_symbols(values, weights, durations), 0
    for mean, count in zip(means, durations.tolist(), strict=True):
        chosen = values[start : start + count][weights[start : start + count] > 0]
        assert torch.allclose(mean, chosen.mean() if len(chosen) else torch.tensor(0.0), atol=1e-6)
        start += count


def test_energy_is_the_log_of_the_sum():
    mel = torch.randn(80, 7)
    assert torch.allclose(frame_energy(mel), mel.exp().sum(0).log())
