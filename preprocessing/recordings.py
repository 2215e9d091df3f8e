"""What there is to preprocess: a folder with metadata.csv, a folder of recordings, or a filelist."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from data_utils import Clip, is_name, read_filelist
from text_files import read_text

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3"}


@dataclass(frozen=True)
class Recording:
    """One input, `name` being unique and safe as a file name; `path` is None where no audio file was found."""

    name: str
    path: Path | None
    text: str
    speaker: str
    language: str
    needs_text: bool = False
    """Its source says what is spoken in it, so that an empty text is a mistake."""


def find_recordings(source: Path, clips_folder: Path, speaker: str | None, language: str | None) -> list[Recording]:
    """Everything that `source` names, in its order; ValueError if that is nothing or cannot be read.

    What lies in `clips_folder`, where the results go, is not taken for recordings.
    """
    for option, value in (("--speaker", speaker), ("--language", language)):
        if value is not None and not is_name(value):
            raise ValueError(f"{option} '{value}': must be a name without '|', '/' and '\\'")
    needs_text = False
    if source.is_file():
        root = source.parent
        found = [(os.path.relpath(c.path, root), c.path, c) for c in read_filelist(source, needs_text=False)]
    elif (source / "metadata.csv").is_file():
        needs_text = True
        found = _read_metadata(source / "metadata.csv")
    elif source.is_dir():
        found = [(p.relative_to(source).as_posix(), p, Clip(p, ""))
                 for p in _audio_files(source) if not p.resolve().is_relative_to(clips_folder.resolve())]
        if not found:
            raise ValueError(f"{source}: no metadata.csv and no recordings ({', '.join(sorted(AUDIO_SUFFIXES))}) in it")
    else:
        raise ValueError(f"{source}: no such folder or filelist")
    # a filelist names its speakers; a folder is taken for one speaker's
    folder_speaker = None if source.is_file() else re.sub(r"[|\s]+", "_", source.resolve().name)
    return [
        Recording(_safe_name(name), path, clip.text, speaker or folder_speaker or clip.speaker,
                  language or clip.language, needs_text)
        for name, path, clip in found
    ]


def _audio_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())


def _safe_name(name: str) -> str:
    path = Path(name)
    stem = path.with_suffix("") if path.suffix.lower() in AUDIO_SUFFIXES else path
    return re.sub(r"[^\w.-]+", "_", "_".join(part for part in stem.parts if part not in ("..", "/")))


def _read_metadata(metadata: Path) -> list[tuple[str, Path | None, Clip]]:
    folder = metadata.parent
    files: dict[str, Path] = {}
    for root in (folder / "audio", folder / "wavs", folder):
        for path in _audio_files(root):
            name = path.relative_to(root)
            for key in (name.with_suffix("").as_posix(), name.as_posix()):
                files.setdefault(key, path)
    lines = read_text(metadata).split("\n")
    rows = [(number, [" ".join(column.split()) for column in line.split("|")])
            for number, line in enumerate(lines, 1) if line.strip()]
    bad = [number for number, columns in rows if len(columns) not in (2, 3) or not columns[0]]
    if bad:
        shown = ", ".join(map(str, bad[:10])) + (" ..." if len(bad) > 10 else "")
        raise ValueError(f"{metadata}: {len(bad)} line(s) are not id|text or id|text|normalised text: line {shown}")
    if not rows:
        raise ValueError(f"{metadata}: holds no lines")
    return [(id_, files.get(id_), Clip(files.get(id_, folder / id_), text))
            for id_, text in ((columns[0], columns[-1]) for _, columns in rows)]
