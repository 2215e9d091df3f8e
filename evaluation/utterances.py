"""What is to be said: the lines of filelists, as an evaluation needs them."""

import os
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from data_utils import DEFAULT_LANGUAGE, DEFAULT_SPEAKER, read_filelist


@dataclass(frozen=True)
class Utterance:
    """One line of a filelist."""

    name: str
    """Stem of the line's path, its speaker before it where several lines have the same; waves are written and looked
    for under it."""
    text: str
    speaker: str
    language: str
    recording: Path | None
    """The line's path, if there is such a file."""

    def seed(self, seed: int) -> int:
        """The seed of this utterance: the same whichever others are spoken with it."""
        return zlib.crc32(f"{seed} {self.name}".encode())

    @property
    def spoken_by(self) -> str | None:
        """The speaker for a model; None where the filelist has none, which is the model's first."""
        return None if self.speaker == DEFAULT_SPEAKER else self.speaker


def read_utterances(filelists: Sequence[Path], language: str, limit: int | None = None) -> list[Utterance]:
    """The lines of all filelists, at most `limit` of each speaker; `language`: of lines that name none.

    ValueError if two lines would be written to the same wav.
    """
    clips = [clip for filelist in filelists for clip in read_filelist(filelist)]
    stems = Counter(clip.path.stem for clip in clips)
    utterances, taken = [], Counter()
    for clip in clips:
        taken[clip.speaker] += 1
        if limit is None or taken[clip.speaker] <= limit:
            stem = clip.path.stem
            name = stem if stems[stem] == 1 else f"{clip.speaker}_{stem}"
            spoken = language if clip.language == DEFAULT_LANGUAGE else clip.language
            recording = clip.path if os.path.isfile(clip.path) else None
            utterances.append(Utterance(name, clip.text, clip.speaker, spoken, recording))
    name, count = Counter(utterance.name for utterance in utterances).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{', '.join(map(str, filelists))}: {count} lines would be written to {name}.wav; give each "
                         "path another name")
    return utterances


def find_waves(folder: Path, utterances: Sequence[Utterance]) -> dict[str, Path]:
    """The audio file of each utterance's name in a folder. ValueError names those that have none."""
    formats = {f".{name.lower()}" for name in soundfile.available_formats()}
    files = {path.stem: path for path in sorted(folder.glob("*")) if path.suffix.lower() in formats}
    absent = [utterance.name for utterance in utterances if utterance.name not in files]
    if absent:
        raise ValueError(f"{folder}: no audio file for {len(absent)} of {len(utterances)} lines, the first "
                         f"{', '.join(absent[:3])}; name the files as the filelist's paths")
    return {utterance.name: files[utterance.name] for utterance in utterances}
