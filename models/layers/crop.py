"""Parts of the clips of a batch, each anywhere in its clip, alike in mels and waves."""

import torch
from torch import Tensor

Crop = tuple[Tensor, int]
"""First mel frame (B,) and number of mel frames of each clip's part."""


def random_crop(mel: Tensor, n_frames: int) -> Crop:
    """A part of `n_frames` of each clip of mel (B, n_mels, T)."""
    return torch.randint(mel.shape[2] - n_frames + 1, (len(mel),)), n_frames


def crop_mel(mel: Tensor, crop: Crop | None) -> Tensor:
    """The parts (B, n_mels, frames) of mel (B, n_mels, T), or of f0 (B, T); all of it without a crop."""
    if crop is None:
        return mel
    first, n_frames = crop
    return torch.stack([one[..., start : start + n_frames] for one, start in zip(mel, first.tolist(), strict=True)])


def crop_wave(wave: Tensor, n_samples: int, hop_length: int, crop: Crop | None) -> Tensor:
    """Of wave (B, samples) the `n_samples` that a vocoder makes of the same parts; without a crop, the first ones."""
    first = [0] * len(wave) if crop is None else (crop[0] * hop_length).tolist()
    return torch.stack([one[start : start + n_samples] for one, start in zip(wave, first, strict=True)])
