"""Checks of a data set: its filelists, its recordings, its texts, and what of it is in more than one filelist."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from data_utils import DEFAULT_LANGUAGE, Clip, parse_filelist
from health.recordings import Recording
from health.report import Check, judged
from preprocessing.clips import CLIPPED_SHARE
from preprocessing.recordings import find_recordings
from text import Frontend
from text.espeak import espeak_language
from text.symbols import stressed_share

SILENT_ENDS = 0.5
"""Seconds without speech at an end of a clip that are too many."""
SAME_TEXT = 5
"""A speaker who reads a text more often has too little else."""
SPEAKER_MINUTES = 5.0
OUTLIER_SCORE = 6.0
"""Median deviations from the median, of log symbols a second; of a normal distribution one in 20,000 is beyond."""
OUTLIER_FACTOR = 1.5
"""No outlier is nearer to the median than this: read sentences differ by less."""
OUTLIER_CLIPS = 10
"""Fewer clips of a voice say nothing of what is usual."""


@dataclass
class Entry:
    """A clip of a filelist and its recording."""

    clip: Clip
    recording: Recording


@dataclass
class Part:
    """A filelist, its bad lines, and its clips."""

    path: Path
    problems: list[str]
    entries: list[Entry]

    @property
    def readable(self) -> list[Entry]:
        """Those whose recording can be read."""
        return [entry for entry in self.entries if not entry.recording.error]


@dataclass(frozen=True)
class Limits:
    """What a stage asks of a clip."""

    sample_rate: int
    min_seconds: float
    max_seconds: float


def read_parts(filelists: Sequence[Path], measured: Callable[[list[Path]], Iterable[Recording]]) -> list[Part]:
    """The filelists with what `measured` says of their recordings, each of which is read once. A folder of recordings
    may stand for one, as for preprocess_audio.py. ValueError if there is no such filelist."""
    parsed = [(_clips_in(path), []) if path.is_dir() else parse_filelist(path) for path in filelists]
    paths = list(dict.fromkeys(clip.path for clips, _ in parsed for clip in clips))
    recordings = dict(zip(paths, measured(paths), strict=True))
    return [Part(path, problems, [Entry(clip, recordings[clip.path]) for clip in clips])
            for path, (clips, problems) in zip(filelists, parsed, strict=True)]


def check_part(part: Part, limits: Limits, frontend: Frontend) -> list[Check]:
    """Checks of one filelist by itself."""
    n_clips = f"{len(part.entries)} clips"
    lines = [judged("lines", "error", part.problems, "bad lines", n_clips, "Correct these lines.")]
    if not part.entries:
        return lines if part.problems else [Check("lines", "error", "no clips", "Put lines of path|text into it.")]
    unread = [f"{e.clip.path}: {e.recording.error}" for e in part.entries if e.recording.error]
    files = judged("files", "error", unread, "recordings that cannot be read", _sum_up(part.readable),
                   "Copy or export these recordings again, or take their lines out.")
    sound = check_sound(part.readable, limits) if part.readable else []
    return [*lines, files, *check_texts(part, frontend), *sound]


def check_sound(entries: list[Entry], limits: Limits) -> list[Check]:
    """Checks of recordings, each by itself."""

    def where(wrong: Callable[[Recording], bool], what: Callable[[Recording], str]) -> list[str]:
        return [f"{e.clip.path}: {what(e.recording)}" for e in entries if wrong(e.recording)]

    rates = Counter(e.recording.sample_rate for e in entries)
    too_short = where(lambda r: r.seconds < limits.min_seconds, lambda r: f"{r.seconds:.2f} s")
    too_long = where(lambda r: r.seconds > limits.max_seconds, lambda r: f"{r.seconds:.2f} s")
    within = f"data.min_seconds {limits.min_seconds:g} to data.max_seconds {limits.max_seconds:g}"
    return [
        judged("sample rate", "warning",
               where(lambda r: r.sample_rate < limits.sample_rate, lambda r: f"{r.sample_rate} Hz"),
               f"recordings under {limits.sample_rate} Hz, whose highs are empty",
               ", ".join(f"{rate} Hz x {count}" for rate, count in rates.most_common()),
               "Lower audio.sample_rate to theirs, or leave them out: what was not recorded cannot be learned."),
        judged("channels", "warning", where(lambda r: r.channels > 1, lambda r: f"{r.channels} channels"),
               "recordings that are not mono, whose channels are averaged", "mono",
               "Run preprocess_audio.py, and listen to whether speech is on all channels."),
        judged("clipping", "warning", where(lambda r: r.clipped > CLIPPED_SHARE, lambda r: f"{r.clipped:.2%}"),
               "recordings with samples at full scale", "none",
               "Record these again at a lower level, or leave them out: what is clipped is lost."),
        judged("silence", "error", where(lambda r: r.silent, lambda r: "nothing in it is louder than -60 dBFS"),
               "silent recordings", "none is silent", "Take these lines out, or record them again."),
        judged("silent ends", "warning",
               where(lambda r: max(r.before, r.behind) > SILENT_ENDS,
                     lambda r: f"{r.before:.2f} s before, {r.behind:.2f} s behind speech"),
               f"recordings with more than {SILENT_ENDS} s of it", "none",
               "Run preprocess_audio.py, which trims them."),
        judged("length", "error" if len(too_short) + len(too_long) == len(entries) else "warning",
               too_short + too_long, f"recordings not within {within}, which are left out",
               f"all within {within}",
               "Cut the long ones at pauses (preprocess_audio.py does it where there is no text), or change "
               "data.min_seconds and data.max_seconds."),
        *check_same_audio(entries),
    ]


def check_same_audio(entries: list[Entry]) -> list[Check]:
    """The same samples under two names: worse if they are said to say two things."""
    places: dict[bool, list[str]] = {True: [], False: []}
    first: dict[str, Clip] = {}
    for entry in entries:
        clip, known = entry.clip, first.setdefault(entry.recording.digest, entry.clip)
        if known is not clip and not entry.recording.silent:
            places[known.text == clip.text].append(f"{clip.path}: the same sound as {known.path}")
    return [
        judged("same audio", "warning", places[True], "recordings that are there twice",
               "every recording is there once", "Leave one of each in."),
        judged("two texts", "error", places[False], "recordings that are there with two texts",
               "every recording has one text", "Listen to which text is right, and take the other line out."),
    ]


def check_texts(part: Part, frontend: Frontend) -> list[Check]:
    """Checks of what is said: symbols, languages, texts that come again and again, texts that do not fit the length."""
    clips = [entry.clip for entry in part.entries]
    is_ipa = stressed_share([clip.text for clip in clips]) > 0.5
    times = Counter((clip.speaker, clip.text) for clip in clips)
    often = [f"{speaker}: {count} times {text[:60]!r}" for (speaker, text), count in times.most_common()
             if count > SAME_TEXT]
    rates = check_rates(part.readable, "symbols" if is_ipa else "characters")
    return [
        *check_symbols(clips, frontend, is_ipa), check_languages(clips, is_ipa),
        judged("same text", "warning", often, f"texts that one speaker reads more than {SAME_TEXT} times",
               f"none is read more than {SAME_TEXT} times by one speaker",
               "Keep a few readings of each: a model learns such texts by heart."),
        rates,
    ]


def check_symbols(clips: list[Clip], frontend: Frontend, is_ipa: bool) -> list[Check]:
    """Whether the frontend knows what is written; plain text it has to phonemise first."""
    if not is_ipa and frontend.state()["frontend"] == "ipa":
        return [Check("symbols", "ok", "plain text; preprocess_ipa.py turns it into IPA")]
    unread, strange = [], []
    for clip in clips:
        before = frontend.unknown.copy()
        try:
            frontend.encode(clip.text)
        except ValueError as error:
            unread.append(f"{clip.path}: {error}")
        new = frontend.unknown - before
        if new:
            strange.append(f"{clip.path}: {', '.join(f'{symbol!r} (U+{ord(symbol):04X})' for symbol in new)}")
    mend = "Run preprocess_ipa.py again on the text, or mend the lexicon: a model takes all unknown symbols for one."
    return [judged("symbols", "error" if unread else "warning", unread + strange,
                   "texts with symbols that are not in the table", "all are in the table", mend)]


def check_languages(clips: list[Clip], is_ipa: bool) -> Check:
    """Whether espeak-ng knows them, which IPA does not need until text is spoken."""
    counts, strange = Counter(clip.language for clip in clips), []
    for language, count in counts.items():
        try:
            espeak_language(language)
        except ValueError as error:
            reason = "no language is given" if language == DEFAULT_LANGUAGE else str(error)
            strange.append(f"{language}: {count} clips, {reason}")
    names = ", ".join(f"{name} x {count}" for name, count in counts.most_common())
    return judged("languages", "warning" if is_ipa or set(counts) == {DEFAULT_LANGUAGE} else "error", strange,
                  "unknown to espeak-ng", names,
                  "Write espeak-ng's name into the column of languages, or give preprocess_ipa.py -l for a filelist "
                  "without one.")


def check_rates(entries: list[Entry], unit: str) -> Check:
    """Texts that are far too long or short for their recordings, among those of the same speaker and language."""
    groups: dict[tuple[str, str], list[tuple[Entry, float]]] = defaultdict(list)
    for entry in entries:
        clip, spoken = entry.clip, entry.recording.spoken
        if clip.text and spoken > 0 and not entry.recording.silent:
            groups[clip.speaker, clip.language].append((entry, math.log(len(clip.text) / spoken)))
    outliers, usual = [], []
    for (speaker, _), members in groups.items():
        rates = np.array([rate for _, rate in members])
        median = np.median(rates)
        usual.append(f"{speaker} {math.exp(median):.1f}")
        spread = max(1.4826 * float(np.median(np.abs(rates - median))), 1e-9)
        if len(members) < OUTLIER_CLIPS:
            continue
        for entry, rate in members:
            if abs(rate - median) > max(OUTLIER_SCORE * spread, math.log(OUTLIER_FACTOR)):
                place = f"{math.exp(rate):.1f} a second ({math.exp(median):.1f} usual): {entry.clip.text[:50]!r}"
                outliers.append((abs(rate - median), f"{entry.clip.path}: {place}"))
    places = [place for _, place in sorted(outliers, reverse=True)]
    return judged("text for length", "warning", places, "texts far too long or short for their recordings",
                  f"{unit} a second: {', '.join(usual[:8])}{', ...' if len(usual) > 8 else ''}",
                  "Listen to these: most often the text is another clip's, or the recording is cut off.")


def check_speakers(parts: Sequence[Part]) -> Check:
    """How much there is of each speaker, all filelists together."""
    minutes: Counter[str] = Counter()
    for entry in (entry for part in parts for entry in part.readable):
        minutes[entry.clip.speaker] += entry.recording.seconds / 60
    few = [f"{speaker}: {value:.1f} minutes" for speaker, value in minutes.items() if value < SPEAKER_MINUTES]
    shown = ", ".join(f"{name} {value:.0f} min" for name, value in minutes.most_common(8))
    return judged("speakers", "warning", few, f"speakers with less than {SPEAKER_MINUTES:g} minutes",
                  shown + (", ..." if len(minutes) > 8 else ""), "Record more of them, or leave them out.")


def check_overlap(parts: Sequence[Part]) -> list[Check]:
    """What two filelists share, of which one is to tell how the other was learned."""
    same: dict[str, list[str]] = {"path": [], "audio": [], "text": []}
    for one, other in combinations(parts, 2):
        paths = {entry.clip.path.resolve() for entry in one.entries}
        digests = {entry.recording.digest for entry in one.readable if not entry.recording.silent}
        texts = {entry.clip.text for entry in one.entries}
        for entry in other.entries:
            clip, place = entry.clip, f"{entry.clip.path}: also in {one.path.name}"
            if clip.path.resolve() in paths:
                same["path"].append(place)
            elif entry.recording.digest in digests:
                same["audio"].append(f"{place} under another name")
            elif clip.text in texts:
                same["text"].append(f"{place} with another recording")
    mend = "Take them out of one of the filelists: what was trained on measures nothing."
    return [
        judged("overlap of recordings", "error", same["path"] + same["audio"],
               "recordings in two filelists", "no recording is in two filelists", mend),
        judged("overlap of texts", "warning", same["text"], "texts in two filelists",
               "no text is in two filelists", mend),
    ]


def check_held_out(training: Part, validation: Part) -> list[Check]:
    """Whether validation has voices that training has not, which the training scripts refuse."""
    checks = []
    for what in ("speaker", "language"):
        known = {getattr(entry.clip, what) for entry in training.entries}
        strange = Counter(name for entry in validation.entries if (name := getattr(entry.clip, what)) not in known)
        places = [f"{name}: {count} clips" for name, count in strange.items()]
        checks.append(judged(f"{what}s held out", "error", places, f"{what}s in {validation.path.name} alone",
                             "all are trained, too",
                             "Take these clips out of the validation filelist, or some of them into training."))
    return checks


def _clips_in(folder: Path) -> list[Clip]:
    return [Clip(recording.path or folder / recording.name, recording.text, recording.speaker, recording.language)
            for recording in find_recordings(folder, folder / "clips", None, None)]


def _sum_up(entries: list[Entry]) -> str:
    seconds = [entry.recording.seconds for entry in entries]
    return (f"{len(entries)} recordings, {sum(seconds) / 3600:.2f} hours, median {np.median(seconds):.1f} s"
            if entries else "no recording")
