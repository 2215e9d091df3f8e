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
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

import cli
from config import load_config
from data_utils import DEFAULT_LANGUAGE, Clip, write_filelist
from preprocessing.clips import Options, Outcome, process
from preprocessing.recordings import Recording, find_recordings
from preprocessing.report import write_report

log = logging.getLogger(__name__)

MOST_JOBS = 1024


def process_all(recordings: list[Recording], options: Options, out: Path, jobs: int) -> list[Outcome]:
    """One outcome per recording, in order; finished ones are taken from the journal if nothing changed."""
    clips_folder, journal = out / "clips", out / "finished.jsonl"
    clips_folder.mkdir(parents=True, exist_ok=True)
    finished, old_clips = _read_journal(journal)
    outcomes: dict[int, Outcome] = {}
    waiting: list[tuple[int, str]] = []
    first_of: dict[str, int] = {}
    for index, recording in enumerate(recordings):
        # names that differ in case alone are one file on some systems
        first = first_of.setdefault(recording.name.lower(), index)
        if first != index:
            same = f"the same name as recording {first + 1}, {recordings[first].path or recordings[first].name}"
            outcomes[index] = Outcome(rejected=[("duplicate id", same)])
            continue
        key = _fingerprint(recording, options)
        old = finished.get(recording.name)
        if old and old.key == key and all((clips_folder / clip["name"]).is_file() for clip in old.clips):
            outcomes[index] = old
        else:
            waiting.append((index, key))
    if len(waiting) < len(first_of):
        log.info("%d of %d recordings are finished already", len(first_of) - len(waiting), len(first_of))

    with journal.open("a", encoding="utf-8") as file, ProcessPoolExecutor(min(jobs, max(1, len(waiting)))) as pool:
        tasks = {pool.submit(process, recordings[i], key, options, clips_folder): i for i, key in waiting}
        try:
            for task in tqdm(as_completed(tasks), total=len(tasks), unit="recording", disable=not tasks):
                index = tasks[task]
                outcomes[index] = task.result()
                file.write(_journal_line(recordings[index], outcomes[index]))
                file.flush()
        except BrokenProcessPool as error:
            raise ValueError("a process was killed, most likely for memory; run again with fewer --jobs") from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise

    for clip in old_clips - {clip["name"] for outcome in outcomes.values() for clip in outcome.clips}:
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


def _read_journal(journal: Path) -> tuple[dict[str, Outcome], set[str]]:
    """The last outcome of every recording, and every clip ever written."""
    outcomes, clips = {}, set()
    for line in journal.read_text(encoding="utf-8").split("\n") if journal.is_file() else []:
        if not line.endswith("}"):  # the last line of an interrupted run
            continue
        values = json.loads(line)
        name = values.pop("recording")
        outcomes[name] = Outcome(**values)
        clips.update(clip["name"] for clip in outcomes[name].clips)
    return outcomes, clips


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
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"--validation-fraction {validation_fraction:g} must be at least 0 and less than 1")
    if not 1 <= jobs <= MOST_JOBS:
        raise ValueError(f"--jobs {jobs} must be 1 to {MOST_JOBS}")
    filelists = [out / name for name in ("filelist.txt", "train.txt", "validation.txt")]
    if source.resolve() in [filelist.resolve() for filelist in filelists]:
        raise ValueError(f"{source}: would be overwritten by its result; give another -o")
    recordings = find_recordings(source, out / "clips", speaker, language)
    outcomes = process_all(recordings, options, out, jobs)
    report = write_report(out, recordings, outcomes, asdict(options))
    clips = [Clip(out / "clips" / clip["name"], r.text, r.speaker, r.language)
             for r, outcome in zip(recordings, outcomes, strict=True) for clip in outcome.clips]
    if not clips:
        counts = ", ".join(f"{len(entries)} {reason}" for reason, entries in report["rejected"].items())
        raise ValueError(f"{source}: no clip is left ({counts}); {out / 'report.md'} names each")
    training, validation = hold_out(clips, validation_fraction)
    for filelist, chosen in zip(filelists, (clips, training, validation), strict=True):
        write_filelist(filelist, chosen)
    return report


def parse_arguments(arguments: Iterable[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--input", type=Path, required=True, help="folder of recordings, or a filelist")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for clips/, filelists and report")
    parser.add_argument("-c", "--config", type=Path, help="sample rate, shortest and longest clip are read from it")
    parser.add_argument("--speaker", help="of every clip (default: the filelist's, or the folder's name)")
    parser.add_argument("--language", help=f"of every clip (default: the filelist's, or {DEFAULT_LANGUAGE})")
    parser.add_argument("--validation-fraction", type=float, default=0.02, help="the last clips are held out")
    parser.add_argument("--loudness", type=float, default=Options.loudness, help="LUFS of every clip (default -23)")
    parser.add_argument("--min-seconds", type=float, help="shortest clip (default: config's, or 0.4)")
    parser.add_argument("--max-seconds", type=float, help="longest clip (default: config's, or 12)")
    parser.add_argument("--min-sample-rate", type=int, default=Options.min_sample_rate,
                        help="in Hz; recordings under it are rejected (default 16000)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    return parser.parse_args(arguments)


def main() -> None:
    values = parse_arguments()
    options = Options(loudness=values.loudness, min_sample_rate=values.min_sample_rate)
    if values.config:
        config = load_config(values.config)
        options = replace(options, sample_rate=config.audio.sample_rate, min_seconds=config.data.min_seconds,
                          max_seconds=config.data.max_seconds)
    limits = {"min_seconds": values.min_seconds, "max_seconds": values.max_seconds}
    options = replace(options, **{name: value for name, value in limits.items() if value is not None})
    report = preprocess(values.input, values.output, options, values.speaker, values.language,
                        values.validation_fraction, values.jobs)
    log.info("%d clips, %.2f hours, %d rejected: %s", report["clips"], report["hours"], report["rejections"],
             values.output / "report.md")


if __name__ == "__main__":
    cli.run(main)
