"""What the language model is trained on: rows of one clip or of several packed ones, voices for some of them, and a
curriculum from short clips to all; segments of waves with what it read of them."""

import logging
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from data_utils import BatchStream, CodeSequences, Draw, WaveSegments, collate_items

log = logging.getLogger(__name__)

CURRICULUM_PARTS = 10


def fitting(
    rows, encode: Callable[[str], list[int]], positions_for: Callable[[int, int], int], max_positions: int, name: str
) -> tuple[list[int], list[tuple[int, int]]]:
    """Which rows of cached codes fit the model's positions (the others are counted in the log), and the symbols and
    frames of these. `positions_for`: what so many symbols and frames take. ValueError if none fits."""
    sizes = []
    for row in rows.select_columns(["path", "ipa", "frames"]):
        try:
            sizes.append((len(encode(row["ipa"])), row["frames"]))
        except ValueError as error:
            raise ValueError(f"{row['path']}: {error}; is its text IPA? (see preprocess_ipa.py)") from error
    kept = [i for i, size in enumerate(sizes) if positions_for(*size) <= max_positions]
    if len(kept) < len(rows):
        log.warning("%s: %d of %d clips are longer than the model's %d positions, left out",
                    name, len(rows) - len(kept), len(rows), max_positions)
    if not kept:
        raise ValueError(f"{name}: every clip is longer than llm.max_positions {max_positions}")
    return kept, [sizes[i] for i in kept]


def pack_rows(lengths: Sequence[int], capacity: int, seed: int) -> list[list[int]]:
    """Indices of clips in rows of at most `capacity` positions: the longest first, each into the fullest row that has
    room for it (best fit decreasing), equal ones in random order. ValueError for a clip longer than a row."""
    order = np.random.default_rng(seed).permutation(len(lengths))
    order = order[np.argsort(-np.asarray(lengths)[order], kind="stable")]
    rows: list[list[int]] = []
    rows_with: dict[int, list[int]] = defaultdict(list)  # room -> rows
    rooms: list[int] = []  # its keys that have rows, ascending
    for clip in order.tolist():
        length = int(lengths[clip])
        if length > capacity:
            raise ValueError(f"a clip of {length} positions does not fit into a packed row of {capacity}: leave it out")
        fullest = bisect_left(rooms, length)
        if fullest == len(rooms):
            rows.append([])
            row, room = len(rows) - 1, capacity
        else:
            room = rooms[fullest]
            row = rows_with[room].pop()
            if not rows_with[room]:
                rooms.pop(fullest)
        rows[row].append(clip)
        if not rows_with[room - length]:
            insort(rooms, room - length)
        rows_with[room - length].append(row)
    return rows


class SymbolsOfFrames:
    """Which symbol of its text each code frame of a clip is of, by the durations of align.py."""

    def __init__(self, durations, frames_per_code: float):
        """`durations`: what `load_durations` gives; `frames_per_code`: mel frames that a code frame lasts."""
        self.durations, self.frames_per_code = durations, frames_per_code
        self.index = {path: i for i, path in enumerate(durations["path"])}

    def __call__(self, row: dict) -> torch.Tensor:
        """A row of cached codes -> indices (T,) into its symbols at the middle of each frame, silence before and behind
        the text being of its first and last symbol; -100 throughout for a clip that was not aligned. ValueError if it
        was aligned to another text."""
        frames = np.arange(row["frames"])
        if row["path"] not in self.index:
            return torch.full((len(frames),), -100)
        aligned = self.durations[self.index[row["path"]]]
        if aligned["ipa"] != row["ipa"]:
            raise ValueError(f"{row['path']}: its durations are of another text than its codes; run align.py again")
        ends = np.cumsum(aligned["durations"])  # of the silence before, every symbol, the silence behind
        place = np.searchsorted(ends, (frames + 0.5) * self.frames_per_code, side="right")
        return torch.from_numpy(np.clip(place - 1, 0, len(ends) - 3))


class RowStream:
    """The endless stream of batches of rows, a function of the batch's number alone.

    With a `capacity`, rows are packed up to it, else each is one clip. With `curriculum_batches`, clips come in over so
    many batches: the shortest tenth is drawn from in the first tenth of them, two tenths in the second, and so on.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, rank: int = 0, world_size: int = 1, *,
        capacity: int | None = None, curriculum_batches: int = 0,
    ):
        self.rows: list[list[int]] = []
        """Indices of the clips of every row that a draw can name."""
        self.parts: list[tuple[int, int, BatchStream]] = []
        """First batch, first row and batches of each part of the curriculum."""
        shortest_first = np.argsort(lengths, kind="stable")
        enough = batch_size * world_size  # clips for a batch, which fill as many rows
        if capacity is not None:
            positions = np.cumsum(np.asarray(lengths)[shortest_first])
            enough = int(np.searchsorted(positions, capacity * (enough - 1), side="right")) + 1
        n_parts = CURRICULUM_PARTS if curriculum_batches else 1
        for part in range(n_parts):
            count = max(-(-len(lengths) * (part + 1) // n_parts), min(enough, len(lengths)))
            clips = np.sort(shortest_first[:count])
            sizes = [int(lengths[i]) for i in clips]
            rows = [[i] for i in range(count)] if capacity is None else pack_rows(sizes, capacity, seed)
            totals = [sum(sizes[i] for i in row) for row in rows]
            stream = BatchStream(totals, batch_size, seed + part, rank, world_size)
            self.parts.append((curriculum_batches * part // n_parts, len(self.rows), stream))
            self.rows += [[int(clips[i]) for i in row] for row in rows]

    @property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch of all clips."""
        return self.parts[-1][2].batches_per_epoch

    def longest(self) -> list[Draw]:
        """As many of the longest rows as one process has in a batch."""
        return self._shifted(self.parts[-1][2].longest(), self.parts[-1][1])

    def from_batch(self, number: int) -> Iterator[list[Draw]]:
        """Batches of draws from the `number`-th (counted from the beginning of training) on."""
        ends = [first for first, _, _ in self.parts[1:]]
        for (first, first_row, stream), end in zip(self.parts, [*ends, None], strict=True):
            if end is not None and end <= number:
                continue
            for draws in stream.from_batch(number - first):
                yield self._shifted(draws, first_row)
                number += 1
                if number == end:
                    break

    @staticmethod
    def _shifted(draws: list[Draw], first_row: int) -> list[Draw]:
        return [Draw(first_row + draw.index, draw.seed) for draw in draws]


class RowSequences(Dataset):
    """Rows of clips, each at random with a voice: the last frames of another clip of its speaker; half of the clips
    that have one have no speaker (-1) besides."""

    def __init__(
        self, clips: CodeSequences, rows: Sequence[Sequence[int]], lengths: Sequence[int], max_positions: int,
        voice_probability: float = 0.0, voice_frames: tuple[int, int] = (1, 1), voice_overhead: int = 0,
    ):
        """`lengths`: positions of each clip, of which a row has up to `max_positions`. `voice_frames`: fewest and most
        frames of a voice, which takes `voice_overhead` positions more."""
        self.clips, self.rows, self.lengths, self.max_positions = clips, rows, lengths, max_positions
        self.voice_probability, self.voice_frames, self.overhead = voice_probability, voice_frames, voice_overhead
        self.speakers = list(clips.rows["speaker"]) if voice_probability else []
        self.of_speaker: dict[str, list[int]] = defaultdict(list)
        for i, speaker in enumerate(self.speakers):
            self.of_speaker[speaker].append(i)

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, draw: Draw, with_voices: bool = False) -> list[dict]:
        """The clips of a row: {text, codes, voice, offset, speaker, language, name}. `with_voices`: one for every clip,
        as far as there is room."""
        random = np.random.default_rng(draw.seed)
        row, items, offset = self.rows[draw.index], [], 0
        room = self.max_positions - sum(self.lengths[i] for i in row)
        for index in row:
            item, taken = self.clips[index], 0
            item |= {"voice": item["codes"][:, :0], "offset": offset}
            if self.voice_probability and (with_voices or random.random() < self.voice_probability):
                voice = self._voice(index, room - self.overhead, random)
                if voice is not None:
                    taken = voice.shape[1] + self.overhead
                    item |= {"voice": voice} | ({"speaker": -1} if random.random() < 0.5 else {})
            items.append(item)
            offset += self.lengths[index] + taken
            room -= taken
        return items

    def paths(self, draw: Draw) -> list[str]:
        return [self.clips.rows[i]["path"] for i in self.rows[draw.index]]

    def _voice(self, index: int, room: int, random: np.random.Generator) -> torch.Tensor | None:
        """The last frames (n_codebooks, frames) of another clip of the speaker of clip `index`, if there is one and
        room for it."""
        *others, last = self.of_speaker[self.speakers[index]]
        if not others:
            return None
        other = others[int(random.integers(len(others)))]
        codes = self.clips[last if other == index else other]["codes"]
        fewest, most = self.voice_frames
        frames = min(int(random.integers(fewest, most + 1)), room, codes.shape[1])
        return codes[:, -frames:] if frames >= fewest else None


class SpokenSegments(Dataset):
    """Random segments of clips, each with the text and the codes of its whole clip."""

    def __init__(self, segments: WaveSegments, sequences: CodeSequences):
        """Both of the same clips, in the same order."""
        self.segments, self.sequences = segments, sequences

    def __len__(self) -> int:
        return len(self.segments)

    def draw(self, draw: Draw) -> dict:
        return self.segment(draw.index, self.segments.first_frame(draw))

    def paths(self, draw: Draw) -> list[str]:
        return self.segments.paths(draw)

    def segment(self, index: int, first_frame: int) -> dict:
        """{wave (samples,), text, codes (n_codebooks, frames), speaker, language, start, name}: the segment of clip
        `index` that begins at mel frame `start` of it."""
        return self.segments.segment(index, first_frame) | self.sequences[index] | {"start": float(first_frame)}


def collate_rows(rows: Sequence[list[dict]]) -> dict:
    """Rows of clips -> the batch of all their clips (see `collate_items`), with the `row` and `offset` of each."""
    batch = collate_items([item for row in rows for item in row])
    return batch | {"row": torch.tensor([i for i, row in enumerate(rows) for _ in row])}


def collate_single(rows: Sequence[list[dict]]) -> dict:
    """Rows of one clip -> the batch of these clips."""
    batch = collate_items([item for row in rows for item in row])
    del batch["offset"]
    return batch
