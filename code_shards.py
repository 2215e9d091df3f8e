"""Codes as Parquet shards: a corpus that need not fit on one disk, read by `datasets` as it streams past.

A shard is one Parquet file of up to data.shard_clips clips in random order, with columns as in FEATURES, and says in
its own metadata what it was made of. Shards of many machines are one corpus if they agree in that: nothing else joins
them.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value, load_dataset
from datasets.distributed import split_dataset_by_node

COMMAND = "python3 preprocess_codes.py -c CONFIG -m MODEL"
CODES = Features({
    "path": Value("string"), "speaker": Value("string"), "language": Value("string"), "ipa": Value("string"),
    "codes": List(List(Value("int16"))), "frames": Value("int32"), "seconds": Value("float32"),
})
FEATURES = Features(CODES | {"symbols": Value("int32")})
"""Those of cached codes, and how many symbols the text has."""
METADATA_KEY = b"codes"
READERS = 16  # threads that open shards: of a remote store each waits for its own answer
OPTIONS = pads.ParquetFragmentScanOptions(page_checksum_verification=True)


def text_fingerprint(text: dict) -> str:
    """Short hash of what the number of a text's symbols depends on: the table of `frontend.state()`."""
    decisive = {key: text.get(key) for key in ("frontend", "symbols", "table")}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def write_shards(
    codes: Dataset, folder: str | Path, source: dict, encode: Callable[[str], list[int]], clips_per_shard: int,
) -> list[str]:
    """Writes cached codes as `shard-<n>.parquet` in `folder`; returns why clips are left out (`encode` refused them).

    `source` (JSON values) goes into every shard. The order is random, and the same for the same clips, so that every
    shard is a sample of them all. ValueError if no clip is left.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(0).permutation(len(codes))
    rows, skipped, written = codes.with_format("arrow"), [], 0
    schema = FEATURES.arrow_schema.with_metadata({METADATA_KEY: json.dumps(source).encode()})
    for number, start in enumerate(range(0, len(order), clips_per_shard)):
        table = rows[order[start : start + clips_per_shard]]
        symbols, kept = [], []
        for i, (path, ipa) in enumerate(zip(table["path"].to_pylist(), table["ipa"].to_pylist(), strict=True)):
            try:
                symbols.append(len(encode(ipa)))
                kept.append(i)
            except ValueError as error:
                skipped.append(f"{path}: {error}; is its text IPA? (see preprocess_ipa.py)")
        if not kept:
            continue
        table = table.take(pa.array(kept)).append_column("symbols", pa.array(symbols, pa.int32())).cast(schema)
        # one row group: what is read at once; a checksum a page, so that a damaged one is noticed
        pq.write_table(table, Path(folder) / f"shard-{number:05d}.parquet", row_group_size=len(table),
                       compression="zstd", write_page_checksum=True)
        written += len(kept)
    if not written:
        raise ValueError(f"{folder}: no clip has a text that can be read, first {skipped[0]}")
    return skipped


@dataclass(frozen=True)
class Shards:
    """Shards that belong together, and of their clips what must be known before they are read: 8 bytes each."""

    files: list[str]
    counts: np.ndarray
    """Clips of each shard."""
    symbols: np.ndarray
    """Of every clip, shard after shard (N,)."""
    frames: np.ndarray
    """Of every clip (N,)."""
    voices: Counter
    """Clips of each (speaker, language)."""


def open_shards(patterns: Sequence[str], fingerprint: str, text: str) -> Shards:
    """The shards that `patterns` name: files, folders, globs, or URLs of these that fsspec reads; in order.

    ValueError names a pattern without shards, a file that is damaged or none of ours, one whose codes are of another
    codec than that of `fingerprint`, and one whose symbols were counted by another text frontend than that of `text`.
    """
    files = [file for pattern in patterns for file in shards_of(pattern)]
    twice = [file for file, count in Counter(files).items() if count > 1]
    if twice:
        raise ValueError(f"data.code_shards: names {twice[0]} twice; name every shard once")
    with ThreadPoolExecutor(min(READERS, len(files))) as pool:
        opened = list(pool.map(lambda file: _open_shard(file, fingerprint, text), files))
    symbols, frames, voices = zip(*opened, strict=True)
    counts = np.array([len(of_shard) for of_shard in symbols])
    return Shards(files, counts, np.concatenate(symbols), np.concatenate(frames), sum(voices, Counter()))


def shards_of(pattern: str) -> list[str]:
    """The Parquet files of a file, folder, glob or URL, in order of their names. ValueError if there are none."""
    try:
        system, path = fsspec.core.url_to_fs(pattern)
        path = f"{path.rstrip('/')}/*.parquet" if system.isdir(path) else path
        found = [path] if system.exists(path) else sorted(system.glob(path))
    except (ValueError, ImportError, OSError) as error:
        raise ValueError(f"{pattern}: cannot be opened ({error}); for a URL install the fsspec package of its kind "
                         "and give it the rights") from error
    if not found:
        raise ValueError(f"{pattern}: no shards of codes; make them with data.codes_storage \"parquet\" and: {COMMAND}")
    return [system.unstrip_protocol(path) if "://" in pattern else path for path in found]


def read_shards(files: Sequence[str], rank: int = 0, world_size: int = 1) -> pa.Table:
    """The clips of one of `world_size` processes: whole shards, each of one process. ValueError names a damaged one."""
    try:
        stream = load_dataset("parquet", data_files=list(files), split="train", streaming=True, features=FEATURES,
                              fragment_scan_options=OPTIONS)
        stream = split_dataset_by_node(stream, rank, world_size, strategy="shards")
        return pa.concat_tables(stream.with_format("arrow").iter(batch_size=2**20))
    except (pa.ArrowException, OSError, ValueError) as error:
        for file in files:  # the library does not say which
            _read(file, None)
        raise ValueError(f"{', '.join(files)}: cannot be streamed ({error})") from error


def load_shards(files: Sequence[str]) -> Dataset:
    """All clips of some shards, in memory, as `codes_cache.load_codes` gives them."""
    return with_arrays(Dataset(read_shards(files).select(list(CODES))))


def with_arrays(rows: Dataset) -> Dataset:
    """Rows whose `codes` come as int16 arrays (n_codebooks, frames)."""
    return rows.with_format("numpy", columns=["codes"], output_all_columns=True, dtype="int16")


class TableRows:
    """The clips of a table, as rows of FEATURES with `codes` as int16 arrays (n_codebooks, frames), and its columns."""

    def __init__(self, table: pa.Table):
        self.table = table.combine_chunks()
        codes = pc.list_flatten(self.table["codes"]).combine_chunks()  # a codebook each
        self._codes = pc.list_flatten(codes).to_numpy()
        self._starts = np.concatenate([[0], np.cumsum(pc.list_value_length(codes).to_numpy())])
        self._books = np.concatenate([[0], np.cumsum(pc.list_value_length(self.table["codes"]).to_numpy())])
        names = ("path", "speaker", "language", "ipa", "frames", "symbols")
        self._columns = {name: self.table[name].to_pylist() for name in names}

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[dict]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: int | str) -> dict | list:
        if isinstance(key, str):
            return self._columns[key]
        first, end = self._books[key : key + 2]
        codes = self._codes[self._starts[first] : self._starts[end]].reshape(end - first, -1)
        return {name: column[key] for name, column in self._columns.items()} | {"codes": codes}


def _open_shard(file: str, fingerprint: str, text: str) -> tuple[np.ndarray, np.ndarray, Counter]:
    """Symbols and frames of every clip (n,), and how many clips each (speaker, language) has."""
    table = _read(file, ["symbols", "frames", "speaker", "language"])
    source = json.loads(table.schema.metadata[METADATA_KEY])
    if source["fingerprint"] != fingerprint:
        raise ValueError(f"{file}: the codes are of codec {source['fingerprint']}, not of {fingerprint}; make them "
                         f"anew with: {COMMAND}")
    if source["text"] != text:
        raise ValueError(f"{file}: its symbols were counted by another text frontend ({source['text']}, not {text}); "
                         f"make it anew with: {COMMAND}")
    groups = table.group_by(["speaker", "language"]).aggregate([([], "count_all")]).to_pylist()
    voices = Counter({(row["speaker"], row["language"]): row["count_all"] for row in groups})
    return table["symbols"].to_numpy(), table["frames"].to_numpy(), voices


def _read(file: str, columns: list[str] | None) -> pa.Table:
    try:
        with fsspec.open(file, "rb") as opened:
            table = pq.ParquetFile(opened, page_checksum_verification=True).read(columns)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file}: damaged or no Parquet file ({reason}); copy it again, or make it anew with: "
                         f"{COMMAND}") from error
    if METADATA_KEY not in (table.schema.metadata or {}):
        raise ValueError(f"{file}: no shard of codes of this project; leave it out of data.code_shards")
    return table
