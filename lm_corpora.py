"""The corpus that the language model is trained on: a table of cached codes, or Parquet shards that stream past."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
from datasets import Dataset

from code_shards import Shards, load_shards, open_shards, text_fingerprint
from codes_cache import load_codes, read_info
from config import DataConfig
from data_utils import stream_batches
from lm_data import RowSequences, RowStream, fitting
from shard_stream import Layout, PoolBatches, ShardStream
from text import Frontend

log = logging.getLogger(__name__)

Batches = tuple[Callable[[int], Iterable], int, dict]
"""What `Run.fit` takes: the batches from the n-th on, how many an epoch has, and the longest of them."""
BOUND = 0.995  # of the clips stay under the frames a symbol that bound synthesis


class TableCorpus:
    """Cached codes, as `load_codes` gives them."""

    def __init__(self, rows: Dataset):
        self.rows = rows
        self.voices = Counter(zip(rows["speaker"], rows["language"], strict=True))
        """Clips of each (speaker, language)."""

    def head(self, count: int) -> "TableCorpus":
        """Its first clips alone."""
        return TableCorpus(self.rows.select(range(min(count, len(self.rows)))))

    def fit(self, frontend: Frontend, layout: Layout) -> float:
        """Leaves out clips that do not fit the model; returns the frames a symbol that few clips have more of."""
        kept, self.sizes = fitting(
            self.rows, frontend.encode, layout.positions_for, layout.max_positions, "training")
        self.rows = self.rows.select(kept)
        return float(np.quantile([frames / n_symbols for n_symbols, frames in self.sizes], BOUND))

    def batches(
        self, layout: Layout, sequences: Callable, seed: int, rank: int, world_size: int, curriculum_batches: int,
        data: DataConfig,
    ) -> Batches:
        """`sequences`: from rows to `CodeSequences`."""
        lengths = [layout.positions_for(*size) for size in self.sizes]
        stream = RowStream(
            [min(length + layout.reserve, layout.max_positions) for length in lengths], layout.batch_size, seed, rank,
            world_size, capacity=layout.max_positions if layout.packing else None,
            curriculum_batches=curriculum_batches,
        )
        dataset = RowSequences(sequences(self.rows), stream.rows, lengths, layout.max_positions,
                               layout.voice_probability, layout.voice_frames, layout.voice_overhead)
        longest = layout.collate([dataset.draw(draw, with_voices=True) for draw in stream.longest()])
        return stream_batches(dataset, stream, layout.collate, data.workers), stream.batches_per_epoch, longest


class ShardCorpus:
    """Parquet shards, of which no process reads more than it trains on."""

    def __init__(self, shards: Shards):
        self.shards, self.voices = shards, shards.voices
        log.info("streaming %d clips in %d shards", len(shards.frames), len(shards.files))

    def head(self, count: int) -> TableCorpus:
        """The first clips of its first shard."""
        return TableCorpus(load_shards(self.shards.files[:1])).head(count)

    def fit(self, _frontend: Frontend, layout: Layout) -> float:
        """As of `TableCorpus`; the clips that do not fit are left out as they come."""
        n_clips = len(self.shards.frames)
        kept = layout.positions_for(self.shards.symbols, self.shards.frames) <= layout.max_positions
        if not kept.any():
            raise ValueError(f"training: every clip is longer than llm.max_positions {layout.max_positions}")
        if not kept.all():
            log.warning("training: %d of %d clips are longer than the model's %d positions, left out",
                        n_clips - int(kept.sum()), n_clips, layout.max_positions)
        return float(np.quantile(self.shards.frames[kept] / self.shards.symbols[kept], BOUND))

    def batches(
        self, layout: Layout, sequences: Callable, seed: int, rank: int, world_size: int, curriculum_batches: int,
        data: DataConfig,
    ) -> Batches:
        """As of `TableCorpus`."""
        stream = ShardStream(self.shards, layout, seed, rank, world_size, curriculum_batches=curriculum_batches,
                             buffer_shards=data.buffer_shards)
        batches = PoolBatches(stream, sequences)
        return batches.stream_batches(data.workers), stream.batches_per_epoch, batches.longest_batch()


def open_corpus(data: DataConfig, fingerprint: str, frontend: Frontend) -> TableCorpus | ShardCorpus:
    """The training clips that the config names. ValueError as of `load_codes` and `open_shards`."""
    folder = f"{data.codes}/training"
    info = read_info(folder)
    if data.code_shards is None and (info is None or info.get("storage") != "parquet"):
        return TableCorpus(load_codes(folder, fingerprint))
    patterns = [folder] if data.code_shards is None else data.code_shards
    return ShardCorpus(open_shards(patterns, fingerprint, text_fingerprint(frontend.state())))
