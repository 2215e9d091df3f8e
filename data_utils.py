"""Filelists, and what turns them into batches."""

import logging
import math
import os
import re
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from config import DataConfig
from mel_processing import AudioConfig, audio_seconds, frames_for, load_audio
from text_files import read_text

log = logging.getLogger(__name__)

DEFAULT_SPEAKER = "default"
DEFAULT_LANGUAGE = "und"  # ISO 639: undetermined
F0_CONTEXT = 8  # mel frames on either side of a segment that its f0 is found with


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
    clips, problems = parse_filelist(path, needs_text)
    if problems:
        shown = "\n  ".join(problems[:10])
        more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(f"{path}: {len(problems)} bad line(s)\n  {shown}{more}")
    if not clips:
        raise ValueError(f"{path}: the filelist is empty")
    return clips


def parse_filelist(path: str | Path, needs_text: bool = True) -> tuple[list[Clip], list[str]]:
    """The clips of a filelist's good lines, and what is wrong with the others. ValueError if there is no such file."""
    path = Path(path)
    lines = read_text(path, "filelist").splitlines()
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
        elif "\0" in line:
            problems.append(f"line {number}: holds a NUL character; save the filelist as plain text")
        elif not all(map(is_name, fields[1:-1])):
            problems.append(f"line {number}: a speaker or language that is no name: results are named after it, it "
                            "must not hold / or \\")
        elif needs_text and not fields[-1]:
            problems.append(f"line {number}: no text")
        elif fields[0] in seen:
            problems.append(f"line {number}: the same path as line {seen[fields[0]]}: {fields[0]}")
        else:
            seen[fields[0]] = number
            speaker, language = [*fields[1:-1], *(DEFAULT_SPEAKER, DEFAULT_LANGUAGE)[len(fields) - 2:]]
            clips.append(Clip(path.parent / fields[0], fields[-1], speaker, language))
    return clips, problems


def is_name(name: str) -> bool:
    """Whether a speaker or language can be part of the name of a file or folder, and leads to no other folder."""
    return bool(name.strip()) and name not in (".", "..") and not re.search(r"[/\\|\x00-\x1f]", name)


def write_filelist(path: str | Path, clips: Iterable[Clip]) -> None:
    """Writes `path|speaker|language|text` lines, paths relative to the filelist's folder, all or nothing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{os.path.relpath(c.path, path.parent)}|{c.speaker}|{c.language}|{c.text}\n" for c in clips]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(lines), encoding="utf-8")
    temporary.replace(path)


def clips_of_length(clips: Sequence[Clip], data: DataConfig, filelist: str) -> list[Clip]:
    """The clips of `min_seconds` to `max_seconds`; the others are counted in the log.

    ValueError names a clip that is missing or damaged as far as its header tells, or says that none is left.
    """
    kept = [clip for clip in clips if data.min_seconds <= audio_seconds(clip.path) <= data.max_seconds]
    limits = f"data.min_seconds {data.min_seconds:g} to data.max_seconds {data.max_seconds:g}"
    if not kept:
        raise ValueError(f"{filelist}: none of {len(clips)} clips lies within {limits}")
    if len(kept) < len(clips):
        log.warning("%s: %d of %d clips left out, not within %s", filelist, len(clips) - len(kept), len(clips), limits)
    return kept


def in_turns(speakers: Sequence[str], count: int) -> list[int]:
    """Indices of the first `count` clips if their speakers take turns: the first of each, the second of each, ..."""
    nth: Counter[str] = Counter()
    turns = []
    for i, speaker in enumerate(speakers):
        turns.append((nth[speaker], i))
        nth[speaker] += 1
    return [i for _, i in sorted(turns)[:count]]


def main_languages(speakers: Sequence[str], languages: Sequence[str]) -> dict[str, str]:
    """For every speaker of the clips (given as columns), the language of most of their clips."""
    return most_common_languages(Counter(zip(speakers, languages, strict=True)))


def most_common_languages(clips: Mapping[tuple[str, str], int]) -> dict[str, str]:
    """The same from how many clips each (speaker, language) has."""
    largest: dict[str, tuple[int, str]] = {}
    for (speaker, language), count in clips.items():
        largest[speaker] = max(largest.get(speaker, (0, "")), (count, language))
    return {speaker: largest[speaker][1] for speaker in sorted(largest)}


def check_known(names: Iterable[str], known: Sequence[str], what: str, source: str) -> None:
    """ValueError if clips of `source` have a speaker or language (`what`) that is not among those trained."""
    strangers = sorted(set(names) - set(known))
    if strangers:
        raise ValueError(f"{source}: {what} {', '.join(map(repr, strangers))} is not among those trained: "
                         f"{', '.join(known)}; leave those clips out")


@dataclass(frozen=True)
class Draw:
    """Which item of a dataset, and the seed of its random choices: the same in any worker, after any resume."""

    index: int
    seed: int


class BatchStream:
    """The endless stream of training batches, the same for a seed however often it is left and taken up again.

    Every epoch is shuffled anew; batches hold items of similar length. Each of `world_size` processes takes its own
    part of every global batch of `batch_size * world_size` items, which are those of one process with such batches.
    """

    POOL = 16  # batches that are sorted by length together: more saves padding, fewer mixes better

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, rank: int = 0, world_size: int = 1):
        self.lengths, self.seed, self.rank = np.asarray(lengths), seed, rank
        if len(lengths) < world_size:
            raise ValueError(f"{len(lengths)} clips (or packed rows) to train on, and {world_size} processes, each of "
                             "which needs one: start fewer")
        # parts of the same size: what is averaged over a part then weighs the same in every process
        self.batch_size = min(batch_size, len(lengths) // world_size)
        self.global_size = self.batch_size * world_size
        self.batches_per_epoch = len(lengths) // self.global_size

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """The global batches (arrays of indices) of one epoch; clips that fill no whole batch are left out of it."""
        random = np.random.default_rng((self.seed, epoch))
        order = random.permutation(len(self.lengths))[: self.batches_per_epoch * self.global_size]
        pool = self.global_size * self.POOL
        batches = []
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += np.split(part, len(part) // self.global_size)
        return [batches[i] for i in random.permutation(len(batches))]

    def longest(self) -> list[Draw]:
        """As many of the longest items as one process has in a batch."""
        return [Draw(int(i), 0) for i in np.argsort(self.lengths)[-self.batch_size :]]

    def from_batch(self, number: int) -> Iterator[list[Draw]]:
        """Batches of draws from the `number`-th (counted over all epochs) on."""
        while True:
            epoch, position = divmod(number, self.batches_per_epoch)
            for batch in self.epoch(epoch)[position:]:
                part = batch[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
                yield [Draw(int(i), hash((self.seed, epoch, int(i))) & 0x7FFFFFFF) for i in part]
                number += 1


def stream_batches(dataset: Dataset, stream: BatchStream, collate: Callable, workers: int) -> Callable[[int], Iterable]:
    """What `Run.fit` takes: a function from the number of batches done to the batches that follow.

    These raise ValueError, naming the clip, for one that cannot be read or prepared, whichever process has met it.
    `dataset` has `draw(draw)`, the item, and `paths(draw)`, of which clips it is.
    """

    def batches(done: int) -> Iterator[dict]:
        loader = DataLoader(
            _Batches(dataset, collate), sampler=Resumed(stream, done), batch_size=None, num_workers=workers,
            # its own, so that the random state of training is the same with and without a resume
            generator=torch.Generator(), worker_init_fn=leave_signals_to_the_main_process,
        )
        for batch in loaded(loader):
            if isinstance(batch, ValueError):
                raise batch
            yield batch

    return batches


class _Batches(Dataset):
    """What DataLoader indexes with lists of draws. What goes wrong with a clip is handed on as a ValueError, since
    DataLoader would bury its sentence in a traceback, and other errors do not name the clip."""

    def __init__(self, dataset: Dataset, collate: Callable):
        self.dataset, self.collate = dataset, collate

    def __getitem__(self, draws: list[Draw]) -> dict | ValueError:
        try:
            return self.collate([draw_item(self.dataset, draw) for draw in draws])
        except ValueError as error:
            return error


def draw_item(dataset: Dataset, draw: Draw) -> Any:
    """What `dataset.draw(draw)` gives. ValueError names the clip, or the clips, that cannot be read or prepared."""
    try:
        return dataset.draw(draw)
    except Exception as error:  # whatever a recording or a line of text can bring about
        paths = dataset.paths(draw)
        if isinstance(error, ValueError) and any(path in str(error) for path in paths):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise ValueError(f"{' or '.join(paths)}: cannot be prepared for training ({type(error).__name__}: {error}, in "
                         f"{Path(place.filename).name} line {place.lineno}); mend or replace the recording, or leave "
                         "it out of the filelist") from error


def loaded(loader: DataLoader) -> Iterator:
    """What a loader gives. ValueError where one of its processes was killed."""
    # an iterator of its own, whose errors are not those of who takes the batches
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            raise ValueError(f"a process that loads data has ended ({str(error).splitlines()[0]}): did memory suffice? "
                             "Lower data.workers, or the stage's batch_size") from error
        yield batch


def leave_signals_to_the_main_process(_worker: int) -> None:
    """What a data worker does first."""
    # a terminal or a job scheduler sends them to all; the run needs its workers until it has saved
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class Resumed(Sampler):
    """What `stream.from_batch(done)` gives."""

    def __init__(self, stream: BatchStream, done: int):
        self.stream, self.done = stream, done

    def __iter__(self):
        return self.stream.from_batch(self.done)


class WaveSegments(Dataset):
    """Random segments of `n_samples` of the clips, with their speaker; shorter clips end in silence.

    With `codes` (one (n_codebooks, frames) array a clip) also the codes around the segment: `context` frames more on
    either side, and where in them the segment starts. With `mels` (one (frames, n_mels) array a clip) also the
    segment of these. With `f0_of` (wave (samples,) -> f0 (frames,)) also the f0 of the segment's frames.
    """

    def __init__(
        self, clips: Sequence[Clip], speakers: Sequence[str], audio: AudioConfig, segment_frames: int,
        codes: Sequence[np.ndarray] | None = None, code_frame_rate: float = 0.0, context: int = 16,
        mels: Sequence[np.ndarray] | None = None, f0_of: Callable[[Tensor], Tensor] | None = None,
    ):
        self.clips, self.audio, self.n_frames = clips, audio, segment_frames
        self.speakers = {name: i for i, name in enumerate(speakers)}
        self.codes, self.codes_per_frame, self.context = codes, code_frame_rate / audio.frame_rate, context
        self.mels, self.f0_of = mels, f0_of
        self.seconds = [audio_seconds(clip.path) for clip in clips]

    def __len__(self) -> int:
        return len(self.clips)

    def draw(self, draw: Draw) -> dict:
        """{wave (samples,), speaker, name}, with codes {codes (n_codebooks, window), code_length, start}, with mels
        {predicted_mel (n_mels, frames)}, with f0 {f0 (frames,)}."""
        return self.segment(draw.index, self.first_frame(draw))

    def paths(self, draw: Draw) -> list[str]:
        return [str(self.clips[draw.index].path)]

    def first_frame(self, draw: Draw) -> int:
        """The mel frame of the clip that the drawn segment begins at."""
        random = np.random.default_rng(draw.seed)
        total = int(self.seconds[draw.index] * self.audio.frame_rate)
        return int(random.integers(0, max(1, total - self.n_frames + 1)))

    def segment(self, index: int, first_frame: int) -> dict:
        """The segment of clip `index` that begins at mel frame `first_frame`."""
        clip, hop, rate = self.clips[index], self.audio.hop_length, self.audio.sample_rate
        n_samples = self.n_frames * hop
        n_mel_frames = frames_for(n_samples, self.audio)
        # a pitch is seen in some periods on either side
        before, after = (min(F0_CONTEXT, first_frame), F0_CONTEXT) if self.f0_of else (0, 0)
        n_loaded = (before + self.n_frames + after) * hop
        loaded = load_audio(clip.path, rate, (first_frame - before) * hop / rate, n_loaded / rate)[:n_loaded]
        loaded = F.pad(loaded, (0, n_loaded - len(loaded)))
        wave = loaded[before * hop :][:n_samples]
        item = {"wave": wave, "speaker": self.speakers[clip.speaker], "name": str(clip.path)}
        if self.f0_of:
            item["f0"] = self.f0_of(loaded)[before:][:n_mel_frames]
        if self.mels is not None:
            mel = torch.from_numpy(self.mels[index][first_frame : first_frame + n_mel_frames].astype(np.float32)).T
            silence = math.log(self.audio.floor)
            item["predicted_mel"] = F.pad(mel, (0, n_mel_frames - mel.shape[1]), value=silence)
        if self.codes is None:
            return item
        window = int(self.n_frames * self.codes_per_frame) + 2 + 2 * self.context
        first_code = max(0, int(first_frame * self.codes_per_frame) - self.context)
        codes = torch.as_tensor(self.codes[index][:, first_code : first_code + window]).long()
        start = first_frame - first_code / self.codes_per_frame
        padded = F.pad(codes, (0, window - codes.shape[1]))
        return item | {"codes": padded, "code_length": codes.shape[1], "start": start}


class WaveClips(Dataset):
    """Whole clips with their symbol ids and speaker."""

    def __init__(self, clips: Sequence[Clip], symbols: Sequence[list[int]], speakers: Sequence[str], sample_rate: int):
        """`symbols`: the ids of each clip's text."""
        self.clips, self.symbols, self.sample_rate = clips, symbols, sample_rate
        self.speakers = {name: i for i, name in enumerate(speakers)}
        self.seconds = [audio_seconds(clip.path) for clip in clips]

    def __len__(self) -> int:
        return len(self.clips)

    def draw(self, draw: Draw) -> dict:
        return self[draw.index]

    def paths(self, draw: Draw) -> list[str]:
        return [str(self.clips[draw.index].path)]

    def __getitem__(self, index: int) -> dict:
        clip = self.clips[index]
        return {
            "wave": load_audio(clip.path, self.sample_rate), "text": torch.tensor(self.symbols[index]),
            "speaker": self.speakers[clip.speaker], "name": str(clip.path),
        }


class CodeSequences(Dataset):
    """Clips as symbol ids and codes, for the language model."""

    def __init__(
        self, rows, encode: Callable[[str], list[int]], speakers: Sequence[str], languages: Sequence[str],
        alignment: Callable[[dict], Tensor] | None = None,
    ):
        """`rows`: what `load_codes` gives; `alignment`: from a row to the symbol that each code frame is of (T,)."""
        self.rows, self.encode, self.alignment = rows, encode, alignment
        self.speakers = {name: i for i, name in enumerate(speakers)}
        self.languages = {name: i for i, name in enumerate(languages)}

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, draw: Draw) -> dict:
        return self[draw.index]

    def paths(self, draw: Draw) -> list[str]:
        return [self.rows[draw.index]["path"]]

    def __getitem__(self, index: int) -> dict:
        row = self.rows[index]
        item = {
            "text": torch.tensor(self.encode(row["ipa"])), "codes": torch.as_tensor(np.array(row["codes"])).long(),
            "speaker": self.speakers[row["speaker"]], "language": self.languages[row["language"]],
            "name": row["path"],
        }
        return item | ({"alignment": self.alignment(row)} if self.alignment else {})


def collate_items(items: Sequence[dict]) -> dict:
    """Items -> batch: waves stacked, numbers as tensors, text and codes padded with 0 beside their lengths."""
    batch = {"name": [item["name"] for item in items]}
    for key in items[0].keys() - {"name"}:
        values = [item[key] for item in items]
        if not torch.is_tensor(values[0]):
            batch[key] = torch.tensor(values)
            continue
        lengths = torch.tensor([value.shape[-1] for value in values])
        longest = int(lengths.max())
        batch[key] = torch.stack([F.pad(value, (0, longest - value.shape[-1])) for value in values])
        batch[f"{key}_lengths"] = lengths
    return batch

