"""A reference recording as voice: its codes, which the language model goes on from."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mel_processing import AudioConfig, load_audio, log_mel

MIN_SECONDS = 0.5


@dataclass(frozen=True)
class VoicePrompt:
    """What the language model is given of a reference recording."""

    codes: Tensor
    """(n_codebooks, frames)"""
    ipa: str
    """What is said in it; empty: not known."""


def read_voice_prompt(path: str | Path, ipa: str, codec) -> VoicePrompt:
    """The prompt from a recording. ValueError for one that cannot be read or is too short for a voice."""
    wave = load_audio(path, codec.sample_rate)
    seconds = len(wave) / codec.sample_rate
    if seconds < MIN_SECONDS:
        raise ValueError(f"{path}: {seconds:.2f} s are too short for a voice, a reference needs {MIN_SECONDS} s")
    return VoicePrompt(codec.encode(wave[None])[0][0], ipa)


def nearest_speaker(path: str | Path, audio: AudioConfig, mels: Iterable[tuple[str, Tensor]]) -> str:
    """Of (speaker, mel) the speaker whose decoding of a recording's codes, mel (n_mels, frames), is nearest (L1) to the
    recording's own log-mel."""
    own = log_mel(load_audio(path, audio.sample_rate)[None], audio)[0]

    def distance(mel: Tensor) -> float:
        frames = min(mel.shape[1], own.shape[1])
        return float((mel[:, :frames].cpu() - own[:, :frames]).abs().mean())

    return min((distance(mel), speaker) for speaker, mel in mels)[1]
