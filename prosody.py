"""Fundamental frequency of recordings, by Praat's autocorrelation method (Boersma 1993)."""

import numpy as np
import parselmouth
import torch
from torch import Tensor

from config import AudioConfig
from mel_processing import frames_for

F0_FLOOR, F0_CEILING = 60.0, 550.0
"""Hz; voices that people read with lie between."""


def fundamental_frequency(wave: Tensor, audio: AudioConfig) -> Tensor:
    """f0 in Hz at the centre of each mel frame of a wave (samples,): (frames,), 0 where it is unvoiced."""
    n_frames, hop = frames_for(len(wave), audio), audio.hop_length / audio.sample_rate
    if len(wave) < 4 * audio.sample_rate / F0_FLOOR:  # Praat wants some periods of the lowest pitch
        return torch.zeros(n_frames)
    sound = parselmouth.Sound(wave.double().numpy(), audio.sample_rate)
    pitch = sound.to_pitch_ac(time_step=hop, pitch_floor=F0_FLOOR, pitch_ceiling=F0_CEILING)
    centres = (np.arange(n_frames) + audio.frame_centre) * hop
    index = np.round((centres - pitch.x1) / pitch.dx).astype(int)
    values = pitch.selected_array["frequency"]
    inside = (index >= 0) & (index < len(values))
    f0 = np.where(inside, values[index.clip(0, len(values) - 1)], 0.0)
    return torch.from_numpy(f0).float()
