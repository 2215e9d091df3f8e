"""Audio files, STFT and mel: the only definition, used by every stage and stored in every checkpoint."""

import io
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor

from config import AudioConfig

__all__ = [
    "AudioConfig", "TruncatedAudio", "audio_format", "audio_rate", "audio_seconds", "audio_writer", "check_upload",
    "frames_for", "griffin_lim", "load_audio", "log_mel", "magnitudes", "mel_filters", "resample", "samples_for",
    "save_audio",
]

log = logging.getLogger(__name__)

MAX_FRAMES = 2**40  # libsndfile's "unknown" is far beyond
MAX_PEAK = 100.0  # 40 dB over full scale: whole numbers written as floats
RATES = 1000, 768_000
UPLOAD_BYTES, UPLOAD_SECONDS = 10 * 2**20, 60.0
UPLOAD_RATES, UPLOAD_CHANNELS = (8000, 192000), 2
BLOCK = 2**16  # frames


class TruncatedAudio(ValueError):
    """A file that ends before its header says."""


@contextmanager
def _opened(path: str | Path) -> Iterator[soundfile.SoundFile]:
    """The file, checked as far as its header and its structure tell."""
    if Path(path).suffix.lower() == ".raw":  # soundfile asks for what a header would say
        raise ValueError(f"{path}: samples without a header; export it as .wav or .flac")
    try:
        with soundfile.SoundFile(str(path)) as file:
            _check_header(file, path)
            yield file
    except (soundfile.LibsndfileError, OSError) as error:
        reason = "no such file" if not os.path.exists(path) else f"not readable as audio ({error})"
        raise ValueError(f"{path}: {reason}") from error
    except UnicodeEncodeError as error:
        raise ValueError(f"{str(path)!r}: no such file, half a surrogate pair is in its name") from error


def _check_header(file: soundfile.SoundFile, path: str | Path) -> None:
    report = file.extra_info
    data_chunk = re.search(r"^data : (\d+) \(should be (\d+)\)", report, re.MULTILINE)
    # a wav that was written to a pipe has the largest possible size in its header, and is whole
    cut_wav = data_chunk and int(data_chunk[2]) < 0.99 * int(data_chunk[1]) < 0x7FFF0000
    if cut_wav or "lacks an end-of-stream" in report:
        raise TruncatedAudio(f"{path}: truncated; copy or export it again")
    if file.frames == 0:
        raise ValueError(f"{path}: holds no samples")
    if not RATES[0] <= file.samplerate <= RATES[1]:
        raise ValueError(f"{path}: {file.samplerate} samples a second, which is no rate of speech ({RATES[0]} to "
                         f"{RATES[1]}); export it again from its source")
    if file.frames > MAX_FRAMES:
        raise ValueError(f"{path}: its header does not say how long it is; export it again")


def audio_seconds(path: str | Path) -> float:
    """Length of a recording, from its header. ValueError as of `load_audio`, as far as the header tells."""
    with _opened(path) as file:
        return file.frames / file.samplerate


def audio_rate(path: str | Path) -> int:
    """Samples a second of a recording, from its header. ValueError as of `audio_seconds`."""
    with _opened(path) as file:
        return file.samplerate


def check_upload(path: str | Path, max_bytes: int = UPLOAD_BYTES, max_seconds: float = UPLOAD_SECONDS) -> float:
    """Seconds of a recording that a stranger sent, which `load_audio` may then read in little memory.

    The size is looked at before the file is opened, the header before anything is decoded, and that is then done in
    blocks, up to the length that the header promises and no further. ValueError for one of more bytes or seconds than
    given, for a rate outside UPLOAD_RATES, more than UPLOAD_CHANNELS channels, and as of `load_audio`.
    """
    size = Path(path).stat().st_size if os.path.isfile(path) else 0
    if size > max_bytes:
        raise ValueError(f"{path}: {size / 2**20:.1f} MB are too many, at most {max_bytes / 2**20:.1f} MB are read; "
                         "send a shorter recording, or .flac")
    with _opened(path) as file:
        rate, channels = file.samplerate, file.channels
        if not UPLOAD_RATES[0] <= rate <= UPLOAD_RATES[1]:
            raise ValueError(f"{path}: {rate} samples a second; send a recording with {UPLOAD_RATES[0]} to "
                             f"{UPLOAD_RATES[1]}")
        if channels > UPLOAD_CHANNELS:
            raise ValueError(f"{path}: {channels} channels; send a recording with 1 or 2")
        if file.frames > max_seconds * rate:
            raise ValueError(f"{path}: {file.frames / rate:.1f} s are too long, at most {max_seconds:g} s are read; "
                             "cut it")
        promised, decoded = file.frames, 0
        while len(block := file.read(BLOCK, dtype="float32")):  # never more than the header promises
            decoded += len(block)
            if not np.isfinite(block).all():
                raise ValueError(f"{path}: holds NaN or infinite samples; export it again from its source")
    if decoded < 0.99 * promised:
        raise TruncatedAudio(f"{path}: truncated; copy or export it again")
    return decoded / rate


def load_audio(path: str | Path, sample_rate: int, start: float = 0.0, seconds: float | None = None) -> Tensor:
    """The clip as mono float32 (samples,) at `sample_rate`, or `seconds` of it from `start` (in seconds).

    Channels are averaged. ValueError names the file if it is missing, unreadable, truncated, empty, not finite, far
    beyond full scale, or of a rate that no recording has.
    """
    with _opened(path) as file:
        file.seek(min(round(start * file.samplerate), file.frames))
        promised = file.frames - file.tell()
        count = promised if seconds is None else min(promised, round(seconds * file.samplerate))
        samples = _decoded(file, count, path)
        source_rate = file.samplerate
    if samples.size < 0.99 * count:
        raise TruncatedAudio(f"{path}: truncated; copy or export it again")
    wave = resample(torch.from_numpy(samples), source_rate, sample_rate)
    if not len(wave):
        raise ValueError(f"{path}: holds no samples")
    return wave


def _decoded(file: soundfile.SoundFile, count: int, path: str | Path) -> np.ndarray:
    """Up to `count` frames as mono float32, in blocks: memory is for what is there, not for what a header promises."""
    blocks = []
    while count > 0 and len(block := file.read(min(count, BLOCK), dtype="float32", always_2d=True)):
        if not np.isfinite(block).all():
            raise ValueError(f"{path}: holds NaN or infinite samples; export it again from its source")
        if (peak := np.abs(block).max()) > MAX_PEAK:
            raise ValueError(f"{path}: its samples reach {peak:g}, where 1 is full scale; export it again from its "
                             "source")
        blocks.append(block.mean(axis=1))
        count -= len(block)
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def resample(wave: Tensor, source_rate: int, sample_rate: int) -> Tensor:
    """A wave (samples,) at another rate, on its own device, without gradient."""
    if source_rate == sample_rate:
        return wave
    samples = soxr.resample(wave.detach().cpu().numpy(), source_rate, sample_rate)
    return torch.from_numpy(np.ascontiguousarray(samples)).to(wave.device)


def audio_format(path: str | Path) -> str:
    """libsndfile's name of the format that a file's suffix asks for; ValueError if there is none."""
    suffix = Path(path).suffix
    if suffix[1:].upper() not in soundfile.available_formats():
        raise ValueError(f"{path}: cannot write {suffix or 'a file without a suffix'}; use .wav, .flac, .ogg or .mp3")
    return suffix[1:].upper()


def save_audio(path: str | Path, samples: Tensor, sample_rate: int) -> None:
    """Writes (samples,) in the format of the file's suffix, 16-bit where it has one, whole or not at all.

    Peaks over 1 are scaled down, not clipped. ValueError if it cannot be written.
    """
    path, encoded = Path(path), io.BytesIO()
    samples = samples.detach().cpu().float()
    peak = samples.abs().max().item()
    if peak > 1:
        samples = samples / peak
    soundfile.write(encoded, samples.numpy(), sample_rate, format=audio_format(path))
    temporary = path.with_name(f".unfinished_{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(encoded.getvalue())
        temporary.replace(path)
    except OSError as error:
        if temporary.exists():
            temporary.unlink()
        raise ValueError(f"{path}: cannot be written ({error}); free disk space or mend the rights") from error


@contextmanager
def audio_writer(path: str | Path, sample_rate: int) -> Iterator[Callable[[Tensor], None]]:
    """A function that appends samples (n,) to a file of any length, of the format of its suffix, whole or not at all.

    Peaks over 1 are clipped, since what is written cannot be scaled down any more. ValueError if it cannot be written.
    """
    path, clipped, total = Path(path), 0, 0
    temporary, encoding = path.with_name(f".unfinished_{path.name}"), audio_format(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with soundfile.SoundFile(str(temporary), "w", sample_rate, 1, format=encoding) as file:
            def write(samples: Tensor) -> None:
                nonlocal clipped, total
                clipped, total = clipped + int((samples.abs() > 1).sum()), total + len(samples)
                file.write(samples.detach().cpu().float().clamp(-1, 1).numpy())

            yield write
        temporary.replace(path)
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"{path}: cannot be written ({error}); free disk space or mend the rights") from error
    finally:
        if temporary.exists():
            temporary.unlink()
    if clipped:
        log.warning("%s: %d of %d samples were clipped", path, clipped, total)


@lru_cache
def _window(win_length: int, device: torch.device) -> Tensor:
    return torch.hann_window(win_length, device=device)


@lru_cache
def mel_filters(config: AudioConfig, device: torch.device) -> Tensor:
    """Triangular mel filters (n_mels, n_fft / 2 + 1)."""
    from transformers.audio_utils import mel_filter_bank  # here, for speaking does not need it, and it takes a second

    filters = mel_filter_bank(
        num_frequency_bins=config.n_fft // 2 + 1, num_mel_filters=config.n_mels, sampling_rate=config.sample_rate,
        min_frequency=config.f_min, max_frequency=config.f_max or config.sample_rate / 2,
        norm=config.mel_norm, mel_scale=config.mel_scale,
    )
    return torch.from_numpy(filters.T).float().to(device)


def _edge(n_fft: int, hop_length: int, padding: str) -> int:
    """Samples of padding on each side."""
    return n_fft // 2 if padding == "center" else (n_fft - hop_length) // 2


def _stft(wave: Tensor, n_fft: int, hop_length: int, win_length: int, padding: str) -> Tensor:
    edge = _edge(n_fft, hop_length, padding)
    mode = "reflect" if wave.shape[-1] > edge else "replicate"
    wave = F.pad(wave.float().unsqueeze(1), (edge, edge), mode=mode).squeeze(1)
    window = _window(win_length, wave.device)
    return torch.stft(wave, n_fft, hop_length, win_length, window, center=False, return_complex=True)


def magnitudes(wave: Tensor, n_fft: int, hop_length: int, win_length: int, padding: str = "center") -> Tensor:
    """STFT magnitudes (B, n_fft / 2 + 1, frames) of (B, samples), Hann window, reflection at the ends.

    `same` pads (n_fft - hop_length) / 2 on each side, so that frames = samples // hop_length.
    """
    spectrum = _stft(wave, n_fft, hop_length, win_length, padding)
    # the root has no finite slope at 0, where digital silence is
    return torch.sqrt(torch.clamp(spectrum.real.square() + spectrum.imag.square(), min=1e-12))


def log_mel(wave: Tensor, config: AudioConfig) -> Tensor:
    """Natural-log mel magnitudes (B, n_mels, frames) of (B, samples); the autocast precision is never used here."""
    with torch.autocast(wave.device.type, enabled=False):
        spectrum = magnitudes(wave, config.n_fft, config.hop_length, config.win_length, config.padding)
        return torch.log(torch.clamp(mel_filters(config, wave.device) @ spectrum, min=config.floor))


def frames_for(samples: int, config: AudioConfig) -> int:
    """How many mel frames `log_mel` gives for so many samples."""
    return samples // config.hop_length + (config.padding == "center")


def samples_for(frames: int, config: AudioConfig) -> int:
    """How many samples a vocoder gives for so many mel frames."""
    return (frames - (config.padding == "center")) * config.hop_length


def griffin_lim(mel: Tensor, config: AudioConfig, iterations: int = 32) -> Tensor:
    """A wave (B, samples_for(frames)) for log-mel (B, n_mels, frames), without any vocoder (fast Griffin-Lim).

    For listening to a mel decoder before a vocoder is trained (Perraudin et al. 2013, momentum 0.99).
    """
    magnitude = (torch.linalg.pinv(mel_filters(config, mel.device)) @ mel.float().exp()).clamp(min=1e-5)
    generator = torch.Generator(mel.device).manual_seed(0)
    phase = 2 * torch.pi * torch.rand(magnitude.shape, generator=generator, device=mel.device)
    angles = torch.polar(torch.ones_like(magnitude), phase)
    previous = torch.zeros_like(angles)
    for _ in range(iterations):
        wave = _istft(magnitude * angles, config)
        rebuilt = _stft(wave, config.n_fft, config.hop_length, config.win_length, config.padding)
        angles = rebuilt - 0.99 / 1.99 * previous
        angles = angles / (angles.abs() + 1e-9)
        previous = rebuilt
    return _istft(magnitude * angles, config)


def _istft(spectrum: Tensor, config: AudioConfig) -> Tensor:
    """The least-squares inverse of `_stft`: (B, n_fft / 2 + 1, frames) -> (B, samples_for(frames))."""
    n_fft, hop_length, frames = config.n_fft, config.hop_length, spectrum.shape[-1]
    left = (n_fft - config.win_length) // 2
    window = F.pad(_window(config.win_length, spectrum.device), (left, n_fft - config.win_length - left))
    pieces = torch.fft.irfft(spectrum, n_fft, dim=1) * window.unsqueeze(1)
    padded = (1, (frames - 1) * hop_length + n_fft)
    fold = {"output_size": padded, "kernel_size": (1, n_fft), "stride": (1, hop_length)}
    wave = F.fold(pieces, **fold).flatten(1)
    weight = F.fold(window.square().unsqueeze(1).repeat(1, frames), **fold).flatten()
    inside = slice(_edge(n_fft, hop_length, config.padding), padded[1] - _edge(n_fft, hop_length, config.padding))
    return wave[:, inside] / weight[inside].clamp(min=1e-8)
