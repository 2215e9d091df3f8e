"""Recordings with the units of their text, as the aligner takes them."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset

from config import AudioConfig
from data_utils import Clip, Draw, collate_items
from mel_processing import audio_seconds, frames_for, load_audio, log_mel
from text import Frontend
from text.phonemes import AlignmentUnit, alignment_units

UNKNOWN_SPEAKER = 0


class AlignedClips(Dataset):
    """Whole clips as log-mel and the ids of their units; `reasons` against the clips that cannot be aligned.

    Speakers that are not among `speakers` are UNKNOWN_SPEAKER.
    """

    def __init__(self, clips: list[Clip], frontend: Frontend, speakers: list[str], audio: AudioConfig):
        self.audio = audio
        ids = {symbol: i for i, symbol in enumerate(frontend.symbols)}
        known = {name: UNKNOWN_SPEAKER + 1 + i for i, name in enumerate(speakers)}
        self.clips: list[Clip] = []
        self.units: list[list[AlignmentUnit]] = []
        self.seconds: list[float] = []
        self.reasons: list[str] = []
        self._ids, self._speakers = [], []
        for clip in clips:
            units, seconds = alignment_units(clip.text), audio_seconds(clip.path)
            frames = frames_for(round(seconds * audio.sample_rate), audio)
            needed = sum(not unit.optional for unit in units)
            if not 1 <= needed < frames:
                self.reasons.append(f"{clip.path}: {needed} phones in {frames} mel frames")
                continue
            self.clips.append(clip)
            self.units.append(units)
            self.seconds.append(seconds)
            self._ids.append(torch.tensor([ids.get(unit.symbol, frontend.unk_id) for unit in units]))
            self._speakers.append(known.get(clip.speaker, UNKNOWN_SPEAKER))

    def __len__(self) -> int:
        return len(self.clips)

    def draw(self, draw: Draw) -> dict:
        return self[draw.index]

    def paths(self, draw: Draw) -> list[str]:
        return [str(self.clips[draw.index].path)]

    def row(self, index: int, of_units: list[int], score: float) -> dict:
        """What `durations_cache` keeps of a clip whose units have so many frames."""
        clip, durations = self.clips[index], symbol_durations(self.units[index], of_units)
        return {
            "path": str(clip.path), "speaker": clip.speaker, "language": clip.language, "ipa": clip.text,
            "durations": durations, "frames": sum(durations), "seconds": self.seconds[index], "score": score,
        }

    def __getitem__(self, index: int) -> dict:
        """{mel (n_mels, T), units (L,), optional (L,), speaker, name}"""
        wave = load_audio(self.clips[index].path, self.audio.sample_rate)
        return {
            "mel": log_mel(wave.unsqueeze(0), self.audio)[0], "units": self._ids[index],
            "optional": torch.tensor([unit.optional for unit in self.units[index]]),
            "speaker": self._speakers[index], "name": str(self.clips[index].path),
        }


def symbol_durations(units: list[AlignmentUnit], of_units: list[int]) -> list[int]:
    """Durations as `durations_cache` has them, from the frames of the units (and perhaps of padding behind them)."""
    durations = [0] * (units[-1].place + 1)
    for unit, frames in zip(units, of_units, strict=False):
        durations[unit.place] = frames
    return durations


class _Tried(Dataset):
    """Items, or why there is none."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, index: int) -> dict | str:
        try:
            return self.dataset[index]
        except ValueError as error:
            return str(error)


def batches_by_length(
    dataset: AlignedClips, batch_size: int, workers: int, skipped: list[str],
) -> Iterator[tuple[list[int], dict]]:
    """(indices, batch) of all clips, longest first, so that padding is little; why a clip cannot be read goes to
    `skipped`."""
    order = sorted(range(len(dataset)), key=lambda index: -dataset.seconds[index])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    loader = DataLoader(_Tried(dataset), batch_sampler=batches, collate_fn=list, num_workers=workers)
    for indices, items in zip(batches, loader, strict=True):
        skipped += [item for item in items if isinstance(item, str)]
        kept = [(index, item) for index, item in zip(indices, items, strict=True) if not isinstance(item, str)]
        if kept:
            yield [index for index, _ in kept], collate_items([item for _, item in kept])
