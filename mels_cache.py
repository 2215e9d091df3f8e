"""Mels that a model made of a filelist's clips: one array of all frames, memory-mapped, and an index of the clips."""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from config import AudioConfig

COMMAND = "python3 preprocess_mels.py -c CONFIG -m MODEL"
FRAMES_FILE, INDEX_FILE = "frames.npy", "mels.json"


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
        index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        frames = np.load(folder / FRAMES_FILE, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: damaged ({error}); delete it, then: {COMMAND}") from error
    if index["audio"] != audio.model_dump():
        raise ValueError(f"{folder}: its mels are of another audio section; make them anew with: {COMMAND}")
    places = {clip["path"]: clip for clip in index["clips"]}
    missing = [str(path) for path in paths if str(path) not in places]
    if missing:
        raise ValueError(f"{folder}: {len(missing)} of {len(paths)} clips have no mel, first {missing[0]}; make them "
                         f"anew with: {COMMAND}, or leave these clips out of the filelist")
    chosen = (places[str(path)] for path in paths)
    return [frames[clip["start"] : clip["start"] + clip["frames"]] for clip in chosen]
