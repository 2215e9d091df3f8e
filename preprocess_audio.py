"""Raw recordings -> clean clips, filelists and a report.

    python3 preprocess_audio.py -i recordings/anna -o data/anna --language en-us

Takes a folder with `metadata.csv` (`id|text` or `id|text|normalised text`; audio in `audio/`, `wavs/` or beside it), a
folder of recordings without text, or a filelist. Each recording is resampled to the config's rate, mixed to mono,
trimmed, and levelled; one without text that is too long is split at its pauses. Run again, it goes on where it was.
"""

import argparse
import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyloudnorm
import soundfile
import torch
from tqdm import tqdm

import cli
from config import AudioConfig, load_config
from data_utils import DEFAULT_LANGUAGE, Clip, read_filelist, write_filelist
from mel_processing import load_audio, save_audio
from preprocessing_report import write_report
from speech_segments import find_speech, split_at_pauses, with_margins

log = logging.getLogger(__name__)

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3"}
SPLIT_MIN_SECONDS = 3.0
PEAK_LIMIT = 0.95
"""Loudness is raised no further than this peak."""
CLIPPED_LEVEL = 0.99
CLIPPED_SHARE = 1e-4
"""A clip with more than this share of samples at full scale is reported as clipped."""
MAX_CLIPPED_SHARE = 0.01
"""With more than this share it is rejected."""


@dataclass(frozen=True)
class Options:
    """What decides how a clip sounds; a change of any of them does every clip again."""

    sample_rate: int
    loudness: float
    min_seconds: float
    max_seconds: float
    min_sample_rate: int


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


@dataclass
class Outcome:
    """What became of one recording: clips as in the report, and (reason, detail) of everything rejected."""

    key: str = ""
    sample_rate: int | None = None
    channels: int | None = None
    seconds: float = 0.0
    clips: list[dict] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)


def find_recordings(source: Path, out: Path, speaker: str | None, language: str | None) -> list[Recording]:
    """Everything that `source` names, in its order; ValueError if that is nothing or cannot be read."""
    if source.is_file():
        root, needs_text = source.parent, False
        found = [(os.path.relpath(c.path, root), c.path, c) for c in read_filelist(source, needs_text=False)]
    elif (source / "metadata.csv").is_file():
        needs_text = True
        found = _read_metadata(source / "metadata.csv")
    elif source.is_dir():
        needs_text = False
        found = [(p.relative_to(source).as_posix(), p, Clip(p, ""))
                 for p in _audio_files(source) if not p.resolve().is_relative_to(out.resolve())]
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
    try:
        lines = metadata.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{metadata}: not UTF-8 ({error}); save it as UTF-8") from error
    rows = [(number, [column.strip() for column in line.split("|")])
            for number, line in enumerate(lines, 1) if line.strip()]
    bad = [number for number, columns in rows if len(columns) not in (2, 3) or not columns[0]]
    if bad:
        shown = ", ".join(map(str, bad[:10])) + (" ..." if len(bad) > 10 else "")
        raise ValueError(f"{metadata}: {len(bad)} line(s) are not id|text or id|text|normalised text: line {shown}")
    if not rows:
        raise ValueError(f"{metadata}: holds no lines")
    return [(id_, files.get(id_), Clip(files.get(id_, folder / id_), text))
            for id_, text in ((columns[0], columns[-1]) for _, columns in rows)]


def process(recording: Recording, key: str, options: Options, clips_folder: Path) -> Outcome:
    """Cleans one recording and writes its clips; what is wrong with it is in the outcome, not raised."""
    outcome = Outcome(key)
    if recording.path is None:
        return _reject(outcome, "missing", "no audio file of this name in audio/, wavs/ or beside metadata.csv")
    if recording.needs_text and not recording.text:
        return _reject(outcome, "no text", "metadata.csv has an empty text for it")
    try:
        samples = load_audio(recording.path, options.sample_rate).numpy()
    except (ValueError, soundfile.LibsndfileError) as error:
        reason = "unreadable" if recording.path.is_file() else "missing"
        return _reject(outcome, reason, str(error).removeprefix(f"{recording.path}: "))
    info = soundfile.info(str(recording.path))
    seconds = len(samples) / options.sample_rate
    outcome.sample_rate, outcome.channels, outcome.seconds = info.samplerate, info.channels, seconds
    if missing := _missing_seconds(info, seconds):
        return _reject(outcome, "truncated", f"ends {missing:.2f} s before its header says; copy it again")
    if info.samplerate < options.min_sample_rate:
        return _reject(outcome, "low sample rate", f"{info.samplerate} Hz, under --min-sample-rate "
                                                   f"{options.min_sample_rate}")
    speech = find_speech(samples, options.sample_rate)
    if not speech:
        return _reject(outcome, "silent", "nothing in it is louder than -60 dBFS")

    whole = [(speech[0][0], speech[-1][1])]
    (start, end), = with_margins(whole, speech, seconds)
    if end - start <= options.max_seconds:
        spans = [(start, end)]
    elif recording.text:
        return _reject(outcome, "too long", f"{end - start:.2f} s, over --max-seconds {options.max_seconds:g}")
    else:
        pieces, left_over = split_at_pauses(speech, SPLIT_MIN_SECONDS, options.max_seconds)
        spans = with_margins(pieces, speech, seconds)
        for a, b in left_over:
            if b - a > options.max_seconds - SPLIT_MIN_SECONDS:
                _reject(outcome, "no pause", f"{a:.2f} to {b:.2f} s: no silence to split it at")
            else:
                _reject(outcome, "too short", f"{a:.2f} to {b:.2f} s: cannot be joined to a piece of "
                                              f"{SPLIT_MIN_SECONDS:g} to {options.max_seconds:g} s")
    for number, (start, end) in enumerate(spans):
        _write_clip(recording, samples, start, end, number if len(spans) > 1 else None, options, clips_folder, outcome)
    return outcome


def _reject(outcome: Outcome, reason: str, detail: str) -> Outcome:
    outcome.rejected.append((reason, detail))
    return outcome


def _missing_seconds(info, seconds: float) -> float:
    """How much shorter the file is than its header says; libsndfile tells it for wav in its log only."""
    declared = re.search(r"data\s*: (\d+) \(should be (\d+)\)", info.extra_info)
    if declared and int(declared[1]) < 0xFFFFF000:  # what a streaming writer leaves there
        declared_bytes, real_bytes = map(int, declared.groups())
        return seconds * (declared_bytes / max(real_bytes, 1) - 1)
    missing = info.frames / info.samplerate - seconds
    return missing if missing > 0.1 else 0.0


@lru_cache
def _meter(sample_rate: int, samples: int | None) -> pyloudnorm.Meter:
    # BS.1770 measures blocks of 0.4 s; a shorter clip is one block
    return pyloudnorm.Meter(sample_rate, block_size=0.4 if samples is None else (samples - 1) / sample_rate)


def measure_loudness(samples: np.ndarray, sample_rate: int) -> float:
    """Integrated loudness in LUFS (ITU-R BS.1770-4) of (samples,); -inf for silence."""
    short = len(samples) < 0.4 * sample_rate + 1
    return float(_meter(sample_rate, len(samples) if short else None).integrated_loudness(samples))


def _write_clip(
    recording: Recording, samples: np.ndarray, start: float, end: float, number: int | None, options: Options,
    clips_folder: Path, outcome: Outcome,
) -> None:
    rate = options.sample_rate
    clip = samples[round(start * rate): round(end * rate)]
    where = "" if number is None else f"{start:.2f} to {end:.2f} s: "
    seconds = len(clip) / rate
    if seconds < options.min_seconds:
        _reject(outcome, "too short", f"{where}{seconds:.2f} s, under --min-seconds {options.min_seconds:g}")
        return
    clipped = float(np.mean(np.abs(clip) >= CLIPPED_LEVEL))
    if clipped > MAX_CLIPPED_SHARE:
        _reject(outcome, "clipped", f"{where}{clipped:.1%} of its samples are at full scale")
        return
    before = measure_loudness(clip, rate)
    if not math.isfinite(before):
        _reject(outcome, "silent", f"{where}no loudness can be measured")
        return
    wanted = 10 ** ((options.loudness - before) / 20)
    gain = min(wanted, PEAK_LIMIT / float(np.abs(clip).max()))
    name = recording.name + ("" if number is None else f"_{number:04d}") + ".flac"
    path, temporary = clips_folder / name, clips_folder / f".unfinished_{name}"
    try:
        save_audio(temporary, torch.from_numpy(clip * gain), rate)
        temporary.replace(path)
    except (OSError, soundfile.LibsndfileError) as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(f"{path}: cannot be written ({error}); free some disk space and run again") from error
    outcome.clips.append({
        "name": name, "seconds": round(seconds, 3), "loudness_before": round(before, 2),
        "loudness_after": round(before + 20 * math.log10(gain), 2), "peak_limited": gain < wanted,
        "clipped": clipped > CLIPPED_SHARE,
    })


def process_all(recordings: list[Recording], options: Options, out: Path, jobs: int) -> list[Outcome]:
    """One outcome per recording, in order; finished ones are taken from the journal if nothing changed."""
    clips_folder, journal = out / "clips", out / "finished.jsonl"
    clips_folder.mkdir(parents=True, exist_ok=True)
    finished = _read_journal(journal)
    outcomes: dict[int, Outcome] = {}
    waiting: list[tuple[int, str]] = []
    first_of: dict[str, int] = {}
    for index, recording in enumerate(recordings):
        # names that differ in case alone are one file on some systems
        first = first_of.setdefault(recording.name.lower(), index)
        if first != index:
            same = f"the same name as recording {first + 1}, {recordings[first].path or recordings[first].name}"
            outcomes[index] = _reject(Outcome(), "duplicate id", same)
            continue
        key = _fingerprint(recording, options)
        old = finished.get(recording.name)
        if old and old.key == key and all((clips_folder / clip["name"]).is_file() for clip in old.clips):
            outcomes[index] = old
        else:
            waiting.append((index, key))
    if len(waiting) < len(first_of):
        log.info("%d of %d recordings are finished already", len(first_of) - len(waiting), len(first_of))

    with journal.open("a", encoding="utf-8") as file, ProcessPoolExecutor(jobs) as pool:
        tasks = {pool.submit(process, recordings[i], key, options, clips_folder): i for i, key in waiting}
        try:
            for task in tqdm(as_completed(tasks), total=len(tasks), unit="recording", disable=not tasks):
                index = tasks[task]
                outcomes[index] = task.result()
                file.write(_journal_line(recordings[index], outcomes[index]))
                file.flush()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise

    kept = {clip["name"] for outcome in outcomes.values() for clip in outcome.clips}
    for clip in {clip["name"] for outcome in finished.values() for clip in outcome.clips} - kept:
        (clips_folder / clip).unlink(missing_ok=True)
    _replace_text(journal, "".join(_journal_line(recordings[i], outcomes[i]) for i in first_of.values()))
    return [outcomes[index] for index in range(len(recordings))]


def _fingerprint(recording: Recording, options: Options) -> str:
    source: list = [str(recording.path), bool(recording.text), recording.needs_text]
    if recording.path is not None and recording.path.is_file():
        stat = recording.path.stat()
        source += [stat.st_size, stat.st_mtime_ns]
    return hashlib.sha256(json.dumps([source, asdict(options)]).encode()).hexdigest()[:16]


def _journal_line(recording: Recording, outcome: Outcome) -> str:
    return json.dumps({"recording": recording.name, **asdict(outcome)}, ensure_ascii=False) + "\n"


def _read_journal(journal: Path) -> dict[str, Outcome]:
    outcomes = {}
    for line in journal.read_text(encoding="utf-8").split("\n") if journal.is_file() else []:
        if not line.endswith("}"):  # the last line of an interrupted run
            continue
        values = json.loads(line)
        name = values.pop("recording")
        outcomes[name] = Outcome(**values)
    return outcomes


def _replace_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def hold_out(clips: list[Clip], fraction: float) -> tuple[list[Clip], list[Clip]]:
    """(training, validation): validation is the last `fraction` and every other reading of its sentences."""
    count = max(1, round(len(clips) * fraction)) if fraction else 0
    border = len(clips) - count
    sentences = {clip.text for clip in clips[border:] if clip.text}
    validation = [clip for i, clip in enumerate(clips) if i >= border or clip.text in sentences]
    training = [clip for i, clip in enumerate(clips) if i < border and clip.text not in sentences]
    if not training:
        raise ValueError(f"{len(clips)} clip(s) are too few to train with a validation fraction of {fraction:g}: "
                         "add recordings, or set --validation-fraction 0")
    return training, validation


def preprocess(
    source: Path, out: Path, options: Options, speaker: str | None = None, language: str | None = None,
    validation_fraction: float = 0.02, jobs: int = 1,
) -> dict:
    """Does what the command line does; returns the report. ValueError if no clip is left."""
    recordings = find_recordings(source, out, speaker, language)
    outcomes = process_all(recordings, options, out, jobs)
    report = write_report(out, recordings, outcomes, asdict(options))
    clips = [Clip(out / "clips" / clip["name"], r.text, r.speaker, r.language)
             for r, outcome in zip(recordings, outcomes, strict=True) for clip in outcome.clips]
    if not clips:
        counts = ", ".join(f"{len(entries)} {reason}" for reason, entries in report["rejected"].items())
        raise ValueError(f"{source}: no clip is left ({counts}); {out / 'report.md'} names each")
    training, validation = hold_out(clips, validation_fraction)
    write_filelist(out / "filelist.txt", clips)
    write_filelist(out / "train.txt", training)
    write_filelist(out / "validation.txt", validation)
    return report


def parse_arguments(arguments: Iterable[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--input", type=Path, required=True, help="folder of recordings, or a filelist")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for clips/, filelists and report")
    parser.add_argument("-c", "--config", type=Path, help="sample rate, shortest and longest clip are read from it")
    parser.add_argument("--speaker", help="of every clip (default: the filelist's, or the folder's name)")
    parser.add_argument("--language", help=f"of every clip (default: the filelist's, or {DEFAULT_LANGUAGE})")
    parser.add_argument("--validation-fraction", type=float, default=0.02, help="the last clips are held out")
    parser.add_argument("--loudness", type=float, default=-23.0, help="LUFS of every clip (default -23)")
    parser.add_argument("--min-seconds", type=float, help="shortest clip (default: config's, or 0.4)")
    parser.add_argument("--max-seconds", type=float, help="longest clip (default: config's, or 12)")
    parser.add_argument("--min-sample-rate", type=int, default=16000, help="recordings under it are rejected")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    values = parser.parse_args(arguments)
    if not 0 <= values.validation_fraction < 1:
        parser.error("--validation-fraction must be at least 0 and less than 1")
    return values


def main() -> None:
    values = parse_arguments()
    config = load_config(values.config) if values.config else None
    options = Options(
        sample_rate=(config.audio if config else AudioConfig()).sample_rate,
        loudness=values.loudness,
        min_seconds=values.min_seconds or (config.data.min_seconds if config else 0.4),
        max_seconds=values.max_seconds or (config.data.max_seconds if config else 12.0),
        min_sample_rate=values.min_sample_rate,
    )
    report = preprocess(values.input, values.output, options, values.speaker, values.language,
                        values.validation_fraction, values.jobs)
    log.info("%d clips, %.2f hours, %d rejected: %s", report["clips"], report["hours"], report["rejections"],
             values.output / "report.md")


if __name__ == "__main__":
    cli.run(main)
