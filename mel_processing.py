"""Audio files, STFT and mel: the only definition, used by every stage and stored in every checkpoint."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from config import AudioConfig

__all__ = [
    "AudioConfig", "frames_for", "griffin_lim", "load_audio", "log_mel", "magnitudes", "samples_for", "save_audio",
]


def load_audio(path: str | Path, sample_rate: int, start: float = 0.0, seconds: float | None = None) -> Tensor:
    """The clip as mono float32 (samples,) at `sample_rate`, or `seconds` of it from `start` (in seconds).

    Channels are averaged. ValueError names the file if it is missing, unreadable, empty or not finite.
    """
    try:
        with soundfile.SoundFile(str(path)) as file:
            file.seek(min(round(start * file.samplerate), file.frames))
            count = -1 if seconds is None else round(seconds * file.samplerate)
            samples = file.read(count, dtype="float32", always_2d=True).mean(axis=1)
            source_rate = file.samplerate
    except (soundfile.LibsndfileError, OSError) as error:
        reason = "no such file" if not Path(path).exists() else f"not readable as audio ({error})"
        raise ValueError(f"{path}: {reason}") from error
    if samples.size == 0:
        raise ValueError(f"{path}: holds no samples")
    if not np.isfinite(samples).all():
        raise ValueError(f"{path}: holds NaN or infinite samples; export it again from its source")
    if source_rate != sample_rate:
        samples = soxr.resample(samples, source_rate, sample_rate)
    return torch.from_numpy(np.ascontiguousarray(samples))


def save_audio(path: str | Path, samples: Tensor, sample_rate: int) -> None:
    """Writes (samples,) as 16-bit PCM in the format of the file's suffix; peaks over 1 are scaled down, not clipped."""
    samples = samples.detach().cpu().float()
    peak = samples.abs().max().item()
    if peak > 1:
        samples = samples / peak
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(path), samples.numpy(), sample_rate)


@lru_cache
def _window(win_length: int, device: torch.device) -> Tensor:
    return torch.hann_window(win_length, device=device)


@lru_cache
def _filters(config: AudioConfig, device: torch.device) -> Tensor:
    """Triangular mel filters (n_mels, n_fft / 2 + 1)."""
    filters = mel_filter_bank(
        num_frequency_bins=config.n_fft // 2 + 1, num_mel_filters=config.n_mels, sampling_rate=config.sample_rate,
        min_frequency=config.f_min, max_frequency=config.f_max or config.sample_rate / 2,
        norm=config.mel_norm, mel_scale=config.mel_scale,
    )
    return torch.from_numpy(filters.T).float().to(device)


def magnitudes(wave: Tensor, n_fft: int, hop_length: int, win_length: int, padding: str = "center") -> Tensor:
    """STFT magnitudes (B, n_fft / 2 + 1, frames) of (B, samples), Hann window, reflection at the ends.

    `same` pads (n_fft - hop_length) / 2 on each side, so that frames = samples // hop_length.
    """
    if padding == "same":
        edge = (n_fft - hop_length) // 2
        mode = "reflect" if wave.shape[-1] > edge else "replicate"
        wave = F.pad(wave.unsqueeze(1), (edge, edge), mode=mode).squeeze(1)
    spectrum = torch.stft(
        wave.float(), n_fft, hop_length, win_length, _window(win_length, wave.device),
        center=padding == "center", pad_mode="reflect", return_complex=True,
    )
    # the root has no finite slope at 0, where digital silence is
    return torch.sqrt(torch.clamp(spectrum.real.square() + spectrum.imag.square(), min=1e-12))


def log_mel(wave: Tensor, config: AudioConfig) -> Tensor:
    """Natural-log mel magnitudes (B, n_mels, frames) of (B, samples); the autocast precision is never used here."""
    with torch.autocast(wave.device.type, enabled=False):
        spectrum = magnitudes(wave, config.n_fft, config.hop_length, config.win_length, config.padding)
        return torch.log(torch.clamp(_filters(config, wave.device) @ spectrum, min=config.floor))


def frames_for(samples: int, config: AudioConfig) -> int:
    """How many mel frames `log_mel` gives for so many samples."""
    return samples // config.hop_length + (config.padding == "center")


def samples_for(frames: int, config: AudioConfig) -> int:
    """How many samples a vocoder gives for so many mel frames."""
    return (frames - (config.padding == "center")) * config.hop_length


def griffin_lim(mel: Tensor, config: AudioConfig, iterations: int = 32) -> Tensor:
    """A wave (B, samples) for log-mel (B, n_mels, frames), without any vocoder (fast Griffin-Lim, momentum 0.99).

    For listening to a mel decoder before a vocoder is trained (Perraudin et al. 2013).
    """
    filters = _filters(config, mel.device)
    magnitude = (torch.linalg.pinv(filters) @ mel.exp()).clamp(min=1e-5)
    window = _window(config.win_length, mel.device)
    stft = {"n_fft": config.n_fft, "hop_length": config.hop_length, "win_length": config.win_length, "window": window}
    generator = torch.Generator(mel.device).manual_seed(0)
    phase = 2 * torch.pi * torch.rand(magnitude.shape, generator=generator, device=mel.device)
    angles = torch.polar(torch.ones_like(magnitude), phase)
    previous = torch.zeros_like(angles)
    for _ in range(iterations):
        wave = torch.istft(magnitude * angles, **stft)
        rebuilt = torch.stft(wave, **stft, return_complex=True)[..., : magnitude.shape[-1]]
        rebuilt = F.pad(rebuilt, (0, magnitude.shape[-1] - rebuilt.shape[-1]))
        angles = rebuilt - 0.99 / 1.99 * previous
        angles = angles / (angles.abs() + 1e-9)
        previous = rebuilt
    return torch.istft(magnitude * angles, **stft)
