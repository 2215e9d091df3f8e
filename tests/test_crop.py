"""Parts of mels and waves stay together."""

import pytest
import torch

from config import AudioConfig
from mel_processing import frames_for, log_mel, samples_for
from models.layers.crop import crop_mel, crop_wave, random_crop


@pytest.mark.parametrize("padding", ["same", "center"])
def test_a_wave_and_its_mel_are_cut_alike(padding):
    audio = AudioConfig(padding=padding)
    wave = 0.1 * torch.randn(4, 60 * 256, generator=torch.Generator().manual_seed(0))
    mel = log_mel(wave, audio)
    torch.manual_seed(1)
    crop = random_crop(mel, frames_for(20 * 256, audio))
    part, cut = crop_mel(mel, crop), crop_wave(wave, samples_for(crop[1], audio), 256, crop)
    assert cut.shape == (4, 20 * 256)
    assert part.shape == log_mel(cut, audio).shape
    assert len(set(crop[0].tolist())) > 1
    # an STFT frame of 1024 samples sees two hops to either side
    torch.testing.assert_close(part[..., 3:-3], log_mel(cut, audio)[..., 3:-3], atol=1e-4, rtol=0)


def test_parts_lie_anywhere_in_the_clip_and_the_whole_is_a_part():
    mel = torch.arange(8.0).expand(200, 1, 8)
    first, _ = crop = random_crop(mel, 3)
    assert sorted(set(first.tolist())) == [0, 1, 2, 3, 4, 5]
    assert crop_mel(mel, crop)[:, 0, 0].equal(first.float())
    assert crop_mel(mel, random_crop(mel, 8)).equal(mel)
    assert crop_mel(mel, None) is mel
    assert crop_wave(mel[:, 0], 5, 1, None).equal(mel[:, 0, :5])
