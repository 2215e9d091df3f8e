"""TextGrids (Praat): what our alignments are written as, and what others' are read from."""

from dataclasses import dataclass
from pathlib import Path

from praatio import textgrid

from config import AudioConfig
from text.phonemes import phoneme_groups
from text.symbols import normalize_ipa

SILENCES = {"", "sil", "sp", "<eps>", "silence"}


@dataclass(frozen=True)
class Interval:
    """A stretch of a recording in seconds; an empty label is silence."""

    start: float
    end: float
    label: str


def word_and_phone_intervals(
    ipa: str, durations: list[int], seconds: float, audio: AudioConfig,
) -> tuple[list[Interval], list[Interval]]:
    """The spoken words and phones of a clip of durations as `durations_cache` has them, without silences."""
    symbols, frame = normalize_ipa(ipa), audio.hop_length / audio.sample_rate
    ends, total = [], 0
    for n in durations:
        total += n
        ends.append(min(total * frame, seconds))
    words, phones, new_word = [], [], True
    for group in phoneme_groups(ipa):
        if group.kind == "pause":
            new_word = True
            continue
        # the group's frames are all at its head, so that the marks before it end where it starts
        start, end, label = ends[group.head], ends[group.head + 1], symbols[group.start : group.end]
        phones.append(Interval(start, end, label))
        words.append(Interval(start, end, label) if new_word else
                     Interval((last := words.pop()).start, end, last.label + label))
        new_word = False
    return words, phones


def save_textgrid(path: Path, words: list[Interval], phones: list[Interval], seconds: float) -> None:
    """Writes the tiers `words` and `phones`, in Praat's long format."""
    grid = textgrid.Textgrid(0.0, seconds)
    for name, intervals in (("words", words), ("phones", phones)):
        entries = [(i.start, i.end, i.label) for i in intervals]
        grid.addTier(textgrid.IntervalTier(name, entries, 0.0, seconds))
    grid.save(str(path), format="long_textgrid", includeBlankSpaces=True, reportingMode="error")


def read_textgrid(path: Path) -> tuple[list[Interval], list[Interval], float]:
    """Words and phones, silences among them with an empty label, and the length in seconds.

    Tiers `words` and `phones`, or `<speaker> - words` ... as MFA names them. ValueError if there are none, if the file
    is damaged, or if intervals overlap or leave gaps.
    """
    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=True, reportingMode="error")
    except Exception as error:  # a damaged file makes the reader raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise ValueError(f"{path}: not readable as a TextGrid ({reason})") from error
    tiers = []
    for name in ("words", "phones"):
        found = [tier for tier in grid.tierNames if tier.split(" - ")[-1].lower() == name]
        if len(found) != 1:
            raise ValueError(f"{path}: {len(found)} tiers '{name}', expected one; it has {', '.join(grid.tierNames)}")
        entries = [Interval(e.start, e.end, e.label.strip()) for e in grid.getTier(found[0]).entries]
        edges = [0.0, *(time for e in entries for time in (e.start, e.end)), float(grid.maxTimestamp)]
        for end, start in zip(edges[::2], edges[1::2], strict=True):
            if not abs(start - end) <= 1e-3:  # not a number is not, either
                raise ValueError(f"{path}: the tier {found[0]} has a gap from {end:g} to {start:g} s")
        tiers.append([Interval(e.start, e.end, "" if e.label.lower() in SILENCES else e.label) for e in entries])
    return tiers[0], tiers[1], float(grid.maxTimestamp)
