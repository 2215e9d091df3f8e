"""Clips with the duration, pitch and energy of every symbol, for the aligned-duration system."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_utils import Draw
from mel_processing import AudioConfig, frames_for, load_audio, log_mel
from prosody import fundamental_frequency

STATISTICS_CLIPS = 50  # of each speaker


@dataclass(frozen=True)
class Statistics:
    """What mel, energy and pitch are measured against."""

    mel_mean: float
    mel_std: float
    energy_mean: float
    energy_std: float
    speaker_pitch: dict[str, float]
    """Mean of log2(f0 in Hz) over the voiced frames of a speaker."""


class AlignedClips(Dataset):
    """Clips as symbol ids with begin and end symbol, (S,), their durations in frames, pitch and energy, and the mel."""

    def __init__(
        self, rows, encode: Callable[[str], list[int]], speakers: Sequence[str], languages: Sequence[str],
        audio: AudioConfig, speaker_pitch: dict[str, float],
    ):
        """`rows`: what `load_durations` gives; `encode`: with begin and end symbol."""
        self.rows, self.encode, self.audio, self.speaker_pitch = rows, encode, audio, speaker_pitch
        self.speakers = {name: i for i, name in enumerate(speakers)}
        self.languages = {name: i for i, name in enumerate(languages)}
        self._pitch: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, draw: Draw) -> dict:
        return self[draw.index]

    def paths(self, draw: Draw) -> list[str]:
        return [self.rows[draw.index]["path"]]

    def __getitem__(self, index: int) -> dict:
        """{text, durations, pitch, energy (S,), mel (n_mels, T), speaker, language, name}: pitch in octaves above the
        speaker's mean, 0 where unvoiced; energy the mean log of the frames' summed mel.

        ValueError if the recording is not the one that was aligned.
        """
        row = self.rows[index]
        wave = load_audio(row["path"], self.audio.sample_rate)
        frames = frames_for(len(wave), self.audio)
        if frames != row["frames"]:
            raise ValueError(f"{row['path']}: {frames} mel frames, but {row['frames']} were aligned; it has changed: "
                             "run align.py again")
        text, durations = torch.tensor(self.encode(row["ipa"])), torch.tensor(row["durations"])
        mel = log_mel(wave[None], self.audio)[0]
        if index not in self._pitch:  # slower than all the rest together
            octaves, voiced = octaves_above(wave, self.audio, self.speaker_pitch[row["speaker"]])
            self._pitch[index] = mean_over_symbols(octaves, voiced, durations)
        energy = mean_over_symbols(frame_energy(mel), torch.ones(frames), durations)
        return {
            "text": text, "durations": durations, "pitch": self._pitch[index], "energy": energy, "mel": mel,
            "speaker": self.speakers[row["speaker"]], "language": self.languages[row["language"]], "name": row["path"],
        }


def octaves_above(wave: Tensor, audio: AudioConfig, mean: float) -> tuple[Tensor, Tensor]:
    """log2(f0 in Hz) of each mel frame above `mean`, 0 where unvoiced, and whether it is voiced (1.0 or 0.0)."""
    f0 = fundamental_frequency(wave, audio)
    voiced = (f0 > 0).float()
    return (f0.clamp(min=1).log2() - mean) * voiced, voiced


def frame_energy(mel: Tensor) -> Tensor:
    """Log of the summed magnitudes of each frame of a log-mel (..., n_mels, T) -> (..., T)."""
    return mel.logsumexp(dim=-2)


def mean_over_symbols(values: Tensor, weights: Tensor, durations: Tensor) -> Tensor:
    """Weighted means (S,) of values and weights (T,) over durations (S,) of sum T; 0 where nothing weighs."""
    sums = torch.stack([values * weights, weights]).double()  # (2, T)
    edges = torch.cat([sums.new_zeros(2, 1), sums.cumsum(1)], dim=1)
    ends = durations.cumsum(0)
    totals, counts = edges[:, ends] - edges[:, ends - durations]  # (S,) each
    return torch.where(counts > 0, totals / counts.clamp(min=1e-6), 0.0).float()


def measure_statistics(rows, audio: AudioConfig) -> Statistics:
    """Over the first clips of each speaker."""
    mels, energies, octaves = [], [], {}
    for speaker in sorted(set(rows["speaker"])):
        chosen = [i for i, name in enumerate(rows["speaker"]) if name == speaker][:STATISTICS_CLIPS]
        voiced_octaves = []
        for path in rows.select(chosen)["path"]:
            wave = load_audio(path, audio.sample_rate)
            mel = log_mel(wave[None], audio)[0]
            mels.append(mel.flatten())
            energies.append(frame_energy(mel))
            f0 = fundamental_frequency(wave, audio).numpy()
            voiced_octaves.append(np.log2(f0[f0 > 0]))
        values = np.concatenate(voiced_octaves)
        octaves[speaker] = float(values.mean()) if len(values) else 0.0
    mel, energy = torch.cat(mels), torch.cat(energies)
    return Statistics(float(mel.mean()), float(mel.std()), float(energy.mean()), float(energy.std()), octaves)
