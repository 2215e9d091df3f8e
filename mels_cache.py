"""Mels that a model made of a filelist's clips: one array of all frames, memory-mapped, and an index of the clips."""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field, NonNegativeInt

from config import AudioConfig
from text_files import read_json

COMMAND = "python3 preprocess_mels.py -c CONFIG -m MODEL"
FRAMES_FILE, INDEX_FILE = "frames.npy", "mels.json"


class _Clip(BaseModel):
    """Where a clip's mel is."""

    path: str
    start: NonNegativeInt
    frames: NonNegativeInt


class _Index(BaseModel):
    """The content of INDEX_FILE, beside what made the mels."""

    audio: dict
    clips: list[_Clip] = Field(min_length=1)


def write_mels(folder: str | Path, mels: Iterable[tuple[Path, np.ndarray]], audio: AudioConfig, source: dict) -> int:
    """Writes (path, mel (frames, n_mels)) of every clip as float16, whole or not at all; returns how many there are.

    `source` (JSON values) says what made them. ValueError if there are none, or if `folder` holds anything else.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / INDEX_FILE).is_file():
        raise ValueError(f"{folder}: exists and holds no mels; move it, or set data.mels to another folder")
    clips, arrays, start = [], [], 0
    for path, mel in mels:
        clips.append({"path": str(path), "start": start, "frames": len(mel)})
        arrays.append(mel.astype(np.float16))
        start += len(mel)
    if not clips:
        raise ValueError(f"{folder}: there is no clip to make a mel of")
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    np.save(temporary / FRAMES_FILE, np.concatenate(arrays))
    index = {**source, "audio": audio.model_dump(), "clips": clips}
    (temporary / INDEX_FILE).write_text(json.dumps(index, ensure_ascii=False), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
    return len(clips)


def join_mels(folder: str | Path, parts: Sequence[str | Path], audio: AudioConfig, source: dict) -> int:
    """What `write_mels` wrote into the folders `parts`, as one, and these removed; returns how many mels there are."""
    count = write_mels(folder, (clip for part in parts for clip in _mels(part)), audio, source)
    for part in parts:
        shutil.rmtree(part)
    return count


def _mels(folder: str | Path) -> Iterator[tuple[Path, np.ndarray]]:
    frames = np.load(Path(folder) / FRAMES_FILE, mmap_mode="r", allow_pickle=False)
    for clip in json.loads((Path(folder) / INDEX_FILE).read_text(encoding="utf-8"))["clips"]:
        yield Path(clip["path"]), frames[clip["start"] : clip["start"] + clip["frames"]]


def load_mels(folder: str | Path, paths: Sequence[Path], audio: AudioConfig) -> list[np.ndarray]:
    """The mels (frames, n_mels) float16 of these clips, in order, on disk until they are read.

    ValueError if there are none, if they are of another audio section, or if one of the clips is not among them.
    """
    folder = Path(folder)
    if not (folder / INDEX_FILE).is_file():
        raise ValueError(f"{folder}: no mels; make them with: {COMMAND}")
    try:
        index = _Index.model_validate(read_json(folder / INDEX_FILE))
        frames = np.load(folder / FRAMES_FILE, mmap_mode="r", allow_pickle=False)
        end = max(clip.start + clip.frames for clip in index.clips)
        if frames.dtype != np.float16 or frames.ndim != 2 or len(frames) < end:
            raise ValueError(f"{frames.dtype} of shape {frames.shape}, where {end} frames of float16 should be")
    except (OSError, ValueError, EOFError, SyntaxError) as error:  # a damaged header of NumPy's is Python that is none
        reason = str(error).splitlines()[0][:200]
        raise ValueError(f"{folder}: damaged ({reason}); delete it, then: {COMMAND}") from error
    if index.audio != audio.model_dump():
        raise ValueError(f"{folder}: its mels are of another audio section; make them anew with: {COMMAND}")
    if frames.shape[1] != audio.n_mels:
        raise ValueError(f"{folder}: damaged (mels of {frames.shape[1]} bands); delete it, then: {COMMAND}")
    places = {clip.path: clip for clip in index.clips}
    missing = [str(path) for path in paths if str(path) not in places]
    if missing:
        raise ValueError(f"{folder}: {len(missing)} of {len(paths)} clips have no mel, first {missing[0]}; make them "
                         f"anew with: {COMMAND}, or leave these clips out of the filelist")
    chosen = (places[str(path)] for path in paths)
    return [frames[clip.start : clip.start + clip.frames] for clip in chosen]
