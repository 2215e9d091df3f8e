"""Filelists, and what turns them into batches."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

DEFAULT_SPEAKER = "default"
DEFAULT_LANGUAGE = "und"  # ISO 639: undetermined


@dataclass(frozen=True)
class Clip:
    """One line of a filelist: `path|text`, `path|speaker|text` or `path|speaker|language|text`."""

    path: Path
    text: str
    speaker: str = DEFAULT_SPEAKER
    language: str = DEFAULT_LANGUAGE


def read_filelist(path: str | Path, needs_text: bool = True) -> list[Clip]:
    """The clips of a filelist; relative paths are taken from the filelist's folder.

    ValueError names the file and every bad line: wrong columns, other columns than the first line's, empty text
    (where the stage needs one), a path given twice. The audio itself is not opened.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such filelist") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error

    clips, problems, seen, columns = [], [], {}, None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.split("|")]
        columns = columns or len(fields)
        if len(fields) not in (2, 3, 4):
            problems.append(f"line {number}: {len(fields)} columns, expected path|text, path|speaker|text or "
                            "path|speaker|language|text")
        elif len(fields) != columns:
            problems.append(f"line {number}: {len(fields)} columns, the lines before have {columns}")
        elif not all(fields[:-1]):
            problems.append(f"line {number}: empty path, speaker or language")
        elif needs_text and not fields[-1]:
            problems.append(f"line {number}: no text")
        elif fields[0] in seen:
            problems.append(f"line {number}: the same path as line {seen[fields[0]]}: {fields[0]}")
        else:
            seen[fields[0]] = number
            speaker, language = [*fields[1:-1], *(DEFAULT_SPEAKER, DEFAULT_LANGUAGE)[len(fields) - 2:]]
            clips.append(Clip(path.parent / fields[0], fields[-1], speaker, language))
    if problems:
        shown = "\n  ".join(problems[:10])
        more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(f"{path}: {len(problems)} bad line(s)\n  {shown}{more}")
    if not clips:
        raise ValueError(f"{path}: the filelist is empty")
    return clips


def write_filelist(path: str | Path, clips: Iterable[Clip]) -> None:
    """Writes `path|speaker|language|text` lines, paths relative to the filelist's folder, all or nothing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{os.path.relpath(c.path, path.parent)}|{c.speaker}|{c.language}|{c.text}\n" for c in clips]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(lines), encoding="utf-8")
    temporary.replace(path)
