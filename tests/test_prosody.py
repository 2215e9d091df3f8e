"""Fundamental frequency of tones, against what they are."""

import pytest
import torch

from config import AudioConfig
from mel_processing import frames_for
from prosody import fundamental_frequency


@pytest.mark.parametrize("padding", ["same", "center"])
def test_a_tone_has_its_frequency_and_silence_none(padding):
    audio = AudioConfig(padding=padding)
    time = torch.arange(2 * audio.sample_rate) / audio.sample_rate
    wave = 0.3 * torch.sin(2 * torch.pi * 220 * time) + 0.1 * torch.sin(2 * torch.pi * 440 * time)
    wave[: audio.sample_rate] = 0
    f0 = fundamental_frequency(wave, audio)
    assert len(f0) == frames_for(len(wave), audio)
    middle = len(f0) // 2
    assert (f0[: middle - 3] == 0).all()
    assert (f0[middle + 3 : -3] - 220).abs().max() < 1


def test_it_begins_at_the_frame_in_which_the_tone_begins():
    audio = AudioConfig()
    time = torch.arange(audio.sample_rate * 3) / audio.sample_rate
    sweep = torch.sin(2 * torch.pi * (100 * time + 25 * time.square()))  # 100 Hz + 50 Hz a second
    f0 = fundamental_frequency(0.5 * sweep, audio)
    centres = (torch.arange(len(f0)) + 0.5) * audio.hop_length / audio.sample_rate
    assert (f0 - (100 + 50 * centres))[10:-10].abs().max() < 1


def test_a_clip_shorter_than_a_pitch_window_is_unvoiced():
    assert fundamental_frequency(torch.ones(700), AudioConfig()).tolist() == [0, 0]
