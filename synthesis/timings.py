"""When each word was said: as JSON, as subtitles, or for Praat."""

import json
from datetime import timedelta
from pathlib import Path

import srt

from alignments.textgrids import Interval, save_textgrid
from synthesis.speech import Part


def check_timings_path(path: Path) -> None:
    """ValueError for a file whose suffix names no format of timings."""
    if path.suffix not in WRITERS:
        raise ValueError(f"{path}: times are written as {', '.join(WRITERS)}")


def save_timings(path: Path, parts: list[Part], seconds: float) -> None:
    """Writes the times of speech of so many `seconds` in the format of the file's suffix: .json (words and phones of
    every part), .srt (a subtitle a sentence), .TextGrid (tiers words and phones).

    ValueError for another suffix, and for speech of which a part's times are not known, saying why.
    """
    check_timings_path(path)
    for part in parts:
        if part.words is None:
            raise ValueError(f"{path}: it is not known when the words of '{part.ipa}' are said: {part.untimed}")
    path.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[path.suffix](path, parts, seconds)


def spoken_intervals(parts: list[Part], name: str) -> list[Interval]:
    """`words` or `phones` of the whole speech, in seconds from its beginning."""
    return [Interval(part.start + i.start, part.start + i.end, i.label)
            for part in parts for i in getattr(part, name)]


def _save_json(path: Path, parts: list[Part], seconds: float) -> None:
    values = {"seconds": seconds} | {
        name: [{"label": i.label, "start": round(i.start, 4), "end": round(i.end, 4)}
               for i in spoken_intervals(parts, name)]
        for name in ("words", "phones")
    }
    path.write_text(json.dumps(values, ensure_ascii=False, indent=1), encoding="utf-8")


def _save_subtitles(path: Path, parts: list[Part], seconds: float) -> None:
    subtitles: list[srt.Subtitle] = []
    for part in parts:
        end = timedelta(seconds=part.start + part.seconds)
        if part.text:
            subtitles.append(srt.Subtitle(len(subtitles) + 1, timedelta(seconds=part.start), end, part.text))
        else:  # goes on with the sentence before
            subtitles[-1].end = end
    path.write_text(srt.compose(subtitles), encoding="utf-8")


def _save_textgrid(path: Path, parts: list[Part], seconds: float) -> None:
    save_textgrid(path, spoken_intervals(parts, "words"), spoken_intervals(parts, "phones"), seconds)


WRITERS = {".json": _save_json, ".srt": _save_subtitles, ".TextGrid": _save_textgrid}
