import torch

from synthesis.watch import longest_silence


def test_the_longest_silence():
    noise = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0))
    wave = torch.cat([torch.zeros(4000), noise, torch.zeros(32000), noise, torch.zeros(8000)])
    assert abs(longest_silence(wave, 16000) - 2) < 0.05
    assert longest_silence(noise, 16000) < 0.05
    assert longest_silence(torch.zeros(16000), 16000) == 1
