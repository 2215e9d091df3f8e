"""The pulses and the noise that a harmonic vocoder filters."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import prosody
from config import AudioConfig
from models.layers.source import F0_CEILING, F0_FLOOR, Excitation, F0Bins, between_middles, pulse_train

AUDIO = AudioConfig()


def test_pulses_are_the_sum_of_their_harmonics():
    f0 = torch.full((1, 40), 441.0)
    pulses = pulse_train(f0, 256, 22050)[0].double()
    n = 25  # the last below 11,025 Hz
    phase = 2 * np.pi * 441 / 22050 * np.arange(1, 40 * 256 + 1)
    expected = sum(np.cos(k * phase) for k in range(1, n + 1)) * np.sqrt(2 / n)
    np.testing.assert_allclose(pulses.numpy(), expected, atol=1e-5)
    assert pulses.square().mean().item() == pytest.approx(1, abs=0.05)


def test_pulses_follow_f0_and_fall_silent():
    f0 = torch.cat([torch.zeros(20), torch.linspace(100, 140, 60), torch.zeros(20), torch.full((20,), 90.0)])[None]
    pulses = pulse_train(f0, 256, 22050)
    assert not pulses[0, : 19 * 256].any()
    assert not pulses[0, 81 * 256 : 99 * 256].any()
    found = prosody.fundamental_frequency(pulses[0], AUDIO)
    torch.testing.assert_close(found[26:74], f0[0, 26:74], atol=0, rtol=5e-3)
    # nothing but the next frame is looked at
    part = pulse_train(f0[:, :50], 256, 22050)
    torch.testing.assert_close(part[:, : 49 * 256], pulses[:, : 49 * 256], atol=1e-4, rtol=0)


def test_between_middles():
    values = torch.randn(2, 7, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(values.unsqueeze(1), scale_factor=6, mode="linear")[:, 0]
    torch.testing.assert_close(between_middles(values, 6), expected)


def test_spectra_are_framed_as_the_mel():
    excitation = Excitation(1024, 256, 1024, 22050).eval()
    n_frames = 40
    pulses, noise = excitation(torch.full((2, n_frames), 220.5))
    assert pulses.shape == noise.shape == (2, 513, n_frames)
    magnitude = pulses[0].abs().mean(1)
    peaks = [k for k in range(5, 100) if magnitude[k] > magnitude[k - 1] and magnitude[k] > magnitude[k + 1]]
    np.testing.assert_allclose(np.diff(peaks) * 22050 / 1024, 220.5, atol=22)
    assert torch.equal(noise[0], noise[1])
    fewer, fewer_noise = excitation(torch.full((1, n_frames - 5), 220.5))
    torch.testing.assert_close(fewer_noise[0], noise[0, :, : n_frames - 5])
    torch.testing.assert_close(fewer[0], pulses[0, :, : n_frames - 5], atol=1e-3, rtol=1e-4)
    excitation.train()
    _, drawn = excitation(torch.full((2, n_frames), 220.5))
    assert not torch.equal(drawn[0], drawn[1])


def test_a_sound_stands_at_its_frame():
    """Noise that is loud in one frame alone is loud there in the spectra."""
    f0 = torch.zeros(1, 30)
    f0[0, 15] = 200
    pulses, _ = Excitation(1024, 256, 1024, 22050).eval()(f0)
    assert pulses[0].abs().sum(0).argmax() == 15


def test_f0_there_and_back():
    bins, f0 = F0Bins(), torch.tensor([[0.0, 60, 61.3, 123.4, 0, 300, 549]])
    targets = bins.targets(f0)
    torch.testing.assert_close(targets.sum(-1), torch.ones(1, 7))
    torch.testing.assert_close(bins.estimate((targets + 1e-9).log()), f0, atol=0, rtol=1e-2)
    assert (F0_FLOOR, F0_CEILING) == (prosody.F0_FLOOR, prosody.F0_CEILING)


def test_what_is_not_a_number_reaches_all_that_depends_on_it():
    f0 = torch.full((1, 30), 120.0)
    f0[0, 10] = torch.nan
    unknown = pulse_train(f0, 256, 22050).isnan()[0]
    assert not unknown[: 9 * 256].any()
    assert unknown[10 * 256 :].all()
    logits = torch.zeros(1, 3, F0Bins.n_classes)
    logits[0, 1] = torch.nan
    assert F0Bins().estimate(logits).isnan()[0].tolist() == [False, True, False]
