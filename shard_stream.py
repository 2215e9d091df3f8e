"""Batches for the language model out of Parquet shards, a function of the batch's number alone.

Shards are put together in pools, each of which is read, shuffled, packed or sorted by length, and cut into batches at
once; every epoch goes through them in another order. How many batches a pool gives follows from the lengths of its
clips, which `open_shards` has read: so a resume reads nothing of what lies before it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from code_shards import Shards, TableRows, read_shards
from data_utils import (
    BatchStream,
    CodeSequences,
    Draw,
    Resumed,
    draw_item,
    leave_signals_to_the_main_process,
    loaded,
)
from lm_data import CURRICULUM_PARTS, RowSequences, collate_rows, collate_single, pack_rows


@dataclass(frozen=True)
class Layout:
    """How clips become rows and batches."""

    batch_size: int
    max_positions: int
    packing: bool
    clip_positions: int
    """That a clip takes beside its symbols and frames."""
    reserve: int = 0
    """Positions kept free in a row for the voice of a clip."""
    voice_probability: float = 0.0
    voice_frames: tuple[int, int] = (1, 1)
    voice_overhead: int = 0

    def positions_for(self, n_symbols: int | np.ndarray, frames: int | np.ndarray) -> int | np.ndarray:
        """Of a clip, without a voice."""
        return n_symbols + frames + self.clip_positions

    def rows(self, lengths: np.ndarray, longest: int, seed: int) -> list[list[int]]:
        """Indices of the clips of up to `longest` positions in rows of one or, packed, of several."""
        clips = np.flatnonzero(lengths <= longest)
        if not self.packing:
            return clips[:, None].tolist()
        sizes = np.minimum(lengths[clips] + self.reserve, self.max_positions)
        return [clips[row].tolist() for row in pack_rows(sizes, self.max_positions, seed)]

    def collate(self, rows: Sequence[list[dict]]) -> dict:
        return collate_rows(rows) if self.packing else collate_single(rows)


@dataclass(frozen=True)
class Pool:
    """Shards whose clips are shuffled together, and which of its batches are wanted."""

    files: list[str]
    seed: int
    longest: int
    """Positions that a clip may take."""
    n_batches: int
    """That every process makes of its own shards."""
    start: int = 0
    stop: int = 0


class _Part:
    """A part of the curriculum: the pools' batches of clips of up to `longest` positions."""

    def __init__(self, first: int, longest: int, seed: int, of_pools: list[list[np.ndarray]], layout: Layout):
        """`first`: number of its first batch; `of_pools`: of each pool the lengths of every process' clips."""
        self.first, self.longest, self.seed, self.of_pools, self.layout = first, longest, seed, of_pools, layout

    @cached_property
    def counts(self) -> list[int]:
        """Batches of each pool. ValueError if there are none."""
        counts = []
        for of_processes in self.of_pools:
            n_rows = [len(self.layout.rows(lengths, self.longest, self.seed)) for lengths in of_processes]
            # no batch may be empty: of a pool with hardly any row for one process, what others have more is left out
            counts.append(min(-(-max(n_rows) // self.layout.batch_size), *n_rows))
        if not any(counts):
            raise ValueError(f"the shards have too few clips of up to {self.longest} positions for "
                             f"{len(self.of_pools[0])} processes: use fewer, or set train.llm.curriculum_steps to 0")
        return counts

    @property
    def batches_per_epoch(self) -> int:
        return sum(self.counts)


class ShardStream:
    """The endless stream of pools, the same for a seed however often it is left and taken up again.

    Every process reads its own shards of each pool, and all make the same number of batches of it. `curriculum_batches`
    as of `RowStream`: until then pools give the clips that are short enough.
    """

    def __init__(
        self, shards: Shards, layout: Layout, seed: int, rank: int = 0, world_size: int = 1, *,
        curriculum_batches: int = 0, buffer_shards: int = 1,
    ):
        n_shards = len(shards.files)
        if n_shards < world_size:
            raise ValueError(f"{n_shards} shards of codes for {world_size} processes: each needs one of its own; lower "
                             "data.shard_clips and run preprocess_codes.py again, or use fewer processes")
        self.layout, self.seed, self.rank, self.world_size = layout, seed, rank, world_size
        order = np.random.default_rng(seed).permutation(n_shards)
        pools = np.array_split(order, max(1, n_shards // (buffer_shards * world_size)))
        self.pools = [[shards.files[i] for i in pool] for pool in pools]
        lengths = layout.positions_for(shards.symbols, shards.frames)
        per_shard = np.split(lengths, np.cumsum(shards.counts)[:-1])
        of_pools = [[np.concatenate([per_shard[i] for i in pool[process::world_size]]) for process in range(world_size)]
                    for pool in pools]
        fitting = np.sort(lengths[lengths <= layout.max_positions])
        n_parts = CURRICULUM_PARTS if curriculum_batches else 1
        self.parts = [
            _Part(curriculum_batches * part // n_parts, int(fitting[-(-len(fitting) * (part + 1) // n_parts) - 1]),
                  seed + part, of_pools, layout)
            for part in range(n_parts)
        ]
        longest = [int(of_shard[of_shard <= layout.max_positions].max(initial=0)) for of_shard in per_shard]
        self.file_of_longest = shards.files[int(np.argmax(longest))]

    @property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch of all clips."""
        return self.parts[-1].batches_per_epoch

    def from_batch(self, number: int) -> Iterator[Pool]:
        """Pools whose batches are those from the `number`-th (counted from the beginning of training) on."""
        ends = [*(part.first for part in self.parts[1:]), math.inf]
        for part, end in zip(self.parts, ends, strict=True):
            while number < end:
                epoch, position = divmod(number - part.first, part.batches_per_epoch)
                yield from self._epoch(part, epoch, position, position + end - number)
                number = min(number + part.batches_per_epoch - position, end)

    def _epoch(self, part: _Part, epoch: int, start: int, stop: float) -> Iterator[Pool]:
        """The pools of one epoch, from its batch `start` to `stop`."""
        first = 0
        for i in np.random.default_rng((part.seed, epoch)).permutation(len(self.pools)).tolist():
            n_batches = part.counts[i]
            begin, end = max(start - first, 0), min(stop - first, n_batches)
            if begin < end:
                seed = hash((part.seed, epoch, i)) & 0x7FFFFFFF
                yield Pool(self.pools[i], seed, part.longest, n_batches, begin, end)
            first += n_batches


class PoolBatches(Dataset):
    """The batches of pools, as numpy arrays: tensors would take a file handle each on their way from a worker."""

    def __init__(self, stream: ShardStream, sequences: Callable[[TableRows], CodeSequences]):
        self.stream, self.layout, self.sequences = stream, stream.layout, sequences

    def __getitem__(self, pool: Pool) -> list[dict] | ValueError:
        # handed on, since DataLoader would bury its sentence in a traceback
        try:
            return list(self.batches_of(pool))
        except ValueError as error:
            return error

    def batches_of(self, pool: Pool) -> Iterator[dict]:
        """Those that this process makes of a pool. ValueError names a damaged shard."""
        table = read_shards(pool.files, self.stream.rank, self.stream.world_size)
        dataset, totals = self._rows(table, pool.longest, pool.seed)
        random = np.random.default_rng(pool.seed)
        order = random.permutation(len(totals))[: pool.n_batches * self.layout.batch_size]
        batches = np.array_split(order, pool.n_batches)
        sorted_together = [batches[i : i + BatchStream.POOL] for i in range(0, pool.n_batches, BatchStream.POOL)]
        batches = [batch for part in sorted_together for batch in _by_length(part, totals)]
        for i in random.permutation(pool.n_batches)[pool.start : pool.stop]:
            rows = [draw_item(dataset, Draw(row, hash((pool.seed, row)) & 0x7FFFFFFF)) for row in batches[i].tolist()]
            yield {key: value.numpy() if torch.is_tensor(value) else value
                   for key, value in self.layout.collate(rows).items()}

    def longest_batch(self) -> dict:
        """As many of the longest rows as one process has in a batch, each clip with a voice, from the shard that has
        the longest clip."""
        dataset, totals = self._rows(read_shards([self.stream.file_of_longest]), self.layout.max_positions, 0)
        longest = np.argsort(totals)[-self.layout.batch_size :].tolist()
        return self.layout.collate([dataset.draw(Draw(row, 0), with_voices=True) for row in longest])

    def _rows(self, table, longest: int, seed: int) -> tuple[RowSequences, np.ndarray]:
        """The rows of a pool, and how many positions each takes."""
        clips, layout = TableRows(table), self.layout
        lengths = layout.positions_for(np.array(clips["symbols"]), np.array(clips["frames"]))
        rows = layout.rows(lengths, longest, seed)
        dataset = RowSequences(self.sequences(clips), rows, lengths.tolist(), layout.max_positions,
                               layout.voice_probability, layout.voice_frames, layout.voice_overhead)
        return dataset, np.array([lengths[row].sum() for row in rows])

    def stream_batches(self, workers: int) -> Callable[[int], Iterable]:
        """What `Run.fit` takes, as of `data_utils.stream_batches`; every worker makes the batches of whole pools."""

        def batches(done: int) -> Iterator[dict]:
            loader = DataLoader(
                self, sampler=Resumed(self.stream, done), batch_size=None, collate_fn=_unchanged, num_workers=workers,
                prefetch_factor=1 if workers else None, generator=torch.Generator(),
                worker_init_fn=leave_signals_to_the_main_process,
            )
            for of_pool in loaded(loader):
                if isinstance(of_pool, ValueError):
                    raise of_pool
                for batch in of_pool:
                    yield {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
                           for key, value in batch.items()}

        return batches


def _by_length(batches: list[np.ndarray], totals: np.ndarray) -> list[np.ndarray]:
    """The same rows in batches of the same sizes, each of rows of similar length."""
    rows = np.concatenate(batches)
    return np.split(rows[np.argsort(totals[rows], kind="stable")], np.cumsum([len(batch) for batch in batches])[:-1])


def _unchanged(batches: list[dict]) -> list[dict]:
    return batches
