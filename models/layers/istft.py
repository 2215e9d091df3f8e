"""Inverse short-time Fourier transform as a layer: inverse FFT, window, overlap-add."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# magnitudes above this are clipped, as in Vocos: an exponential has no other brake
LOG_MAX_MAGNITUDE = math.log(1e2)


def gain(log_magnitude: Tensor) -> Tensor:
    """exp(log_magnitude), no more than LOG_MAX_MAGNITUDE allows, in single precision."""
    # clamped before the exponential: after it, an overflow would give the gradient 0 * infinity
    return torch.exp(log_magnitude.float().clamp(max=LOG_MAX_MAGNITUDE))


def polar(log_magnitude: Tensor, phase: Tensor) -> Tensor:
    """The complex spectrum exp(log_magnitude) * (cos(phase) + i sin(phase)), in single precision.

    Cosine and sine wrap the phase (in radians, unbounded) without a jump (Vocos, arXiv 2306.00814).
    """
    magnitude, phase = gain(log_magnitude), phase.float()
    return torch.complex(magnitude * torch.cos(phase), magnitude * torch.sin(phase))


def overlap_add(frames: Tensor, hop_length: int) -> Tensor:
    """(B, frame_length, T) -> (B, (T - 1) * hop_length + frame_length): frames summed, each one hop after the last."""
    _, frame_length, n_frames = frames.shape
    samples = (n_frames - 1) * hop_length + frame_length
    return F.fold(frames, (1, samples), (1, frame_length), stride=(1, hop_length))[:, 0, 0]


class ISTFT(nn.Module):
    """The wave whose STFT (Hann window) is nearest to a spectrum, in least squares (Griffin and Lim, 1984).

    `center` undoes an STFT that padded n_fft / 2 on each side: (T - 1) * hop_length samples. `same` undoes one that
    padded (n_fft - hop_length) / 2: T * hop_length samples. ValueError if some sample would lie under no window.
    """

    def __init__(self, n_fft: int, hop_length: int, win_length: int, padding: str):
        super().__init__()
        if (n_fft - hop_length) % 2:
            raise ValueError(f"iSTFT: n_fft {n_fft} - hop_length {hop_length} must be even")
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.trim = n_fft // 2 if padding == "center" else (n_fft - hop_length) // 2
        self.register_buffer("window", torch.hann_window(win_length))
        if self._window_energy(2 * math.ceil(n_fft / hop_length) + 1).min() < 1e-8:
            raise ValueError(f"iSTFT: windows of {win_length} samples every {hop_length} leave gaps: shorten the hop")

    def _padded_window(self) -> Tensor:
        before = (self.n_fft - len(self.window)) // 2
        return F.pad(self.window, (before, self.n_fft - len(self.window) - before))

    def _window_energy(self, n_frames: int) -> Tensor:
        squares = self._padded_window().square()[None, :, None].expand(1, -1, n_frames)
        return self._trimmed(overlap_add(squares, self.hop_length))

    def _trimmed(self, wave: Tensor) -> Tensor:
        return wave[:, self.trim : wave.shape[-1] - self.trim]

    def forward(self, spectrum: Tensor) -> Tensor:
        """Complex (B, n_fft / 2 + 1, T) -> (B, samples)."""
        frames = torch.fft.irfft(spectrum, n=self.n_fft, dim=1) * self._padded_window()[:, None]  # (B, n_fft, T)
        wave = self._trimmed(overlap_add(frames, self.hop_length))
        return wave / self._window_energy(spectrum.shape[-1])
