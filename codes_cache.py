"""Cached codes of a filelist: an Arrow dataset or Parquet shards beside `codes.json`, which says what they are made of.

While it is made, finished shards wait in `<folder>.partial`, so that an interrupted run goes on where it stopped.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from datasets import Dataset, concatenate_datasets, load_from_disk

from arrow_files import read_rows
from code_shards import CODES as FEATURES
from code_shards import COMMAND, load_shards, shards_of, with_arrays, write_shards
from text_files import read_json

log = logging.getLogger(__name__)

INFO_FILE = "codes.json"
MAX_CODEBOOK_SIZE = 2**15


def load_codes(folder: str | Path, fingerprint: str) -> Dataset:
    """The cached codes in `folder`: rows of FEATURES, whose `codes` are int16 arrays (n_codebooks, frames). An Arrow
    dataset stays on disk until it is read, shards are loaded into memory.

    ValueError if there are none, or if they are another codec's than the one with this fingerprint.
    """
    info = read_info(folder)
    if info is None:
        raise ValueError(f"{folder}: no cached codes; make them with: {COMMAND}")
    if info["fingerprint"] != fingerprint:
        raise ValueError(f"{folder}: the codes are of codec {info['fingerprint']}, not of {fingerprint}; make them "
                         f"anew with: {COMMAND}")
    try:
        if info.get("storage") == "parquet":
            return load_shards(shards_of(str(folder)))
        return with_arrays(read_rows(folder, FEATURES))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: damaged ({error}); delete it, then: {COMMAND}") from error


def read_info(folder: str | Path) -> dict | None:
    """What finished codes were made of, and the clips left out; None if `folder` holds no finished codes."""
    path = Path(folder) / INFO_FILE
    if not path.is_file():
        return None
    try:
        return read_json(path, keys=["fingerprint"])
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); delete {folder}, then: {COMMAND}") from error


def content_hash(filelist: str | Path, recordings: Iterable[Path]) -> str:
    """Hash of a filelist's text and of size and time of every recording, so that a replaced one is noticed."""
    digest = hashlib.sha256(Path(filelist).read_bytes())
    for path in recordings:
        if path.is_file():
            status = path.stat()
            digest.update(f"{path}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


class CodesWriter:
    """Collects shards of codes, then puts them in place of `folder` at once.

    `source` is everything that decides the codes (JSON values); shards of another source are thrown away. With
    `storage` "parquet" in it they become Parquet shards of `shard_clips` clips, whose symbols `encode` counts.
    """

    def __init__(self, folder: str | Path, source: dict, encode: Callable[[str], list[int]] | None = None):
        self.folder, self.source, self.encode = Path(folder), source, encode
        self.partial = self.folder.with_name(self.folder.name + ".partial")
        if self.folder.is_dir() and any(self.folder.iterdir()) and not (self.folder / INFO_FILE).is_file():
            raise ValueError(f"{self.folder}: exists and holds no cached codes; move it, or set data.codes to another "
                             "folder")
        source_file = self.partial / "source.json"
        if self.partial.exists() and not (source_file.is_file() and json.loads(source_file.read_text()) == source):
            log.info("%s: another codec, filelist or setting, started over", self.partial)
            shutil.rmtree(self.partial)
        if not self.partial.exists():
            self.partial.mkdir(parents=True)
            _write_json(source_file, source)

    def has_shard(self, index: int) -> bool:
        """Whether an earlier run has finished this shard."""
        return self._shard(index).is_dir()

    def write_shard(self, index: int, rows: list[dict], skipped: list[str]) -> None:
        """`rows` as in FEATURES; `skipped`: why other clips of this shard are left out."""
        temporary = self._shard(index).with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        if rows:  # the library cannot read a dataset without rows back
            Dataset.from_list(rows, features=FEATURES).save_to_disk(str(temporary / "clips"))
        _write_json(temporary / "skipped.json", skipped)
        temporary.rename(self._shard(index))

    def finish(self, n_shards: int) -> tuple[int, list[str]]:
        """Joins the shards and renames them into place; returns the number of clips and the reasons for the others.

        ValueError if no clip is left.
        """
        shards = [self._shard(index) for index in range(n_shards)]
        skipped = [reason for shard in shards for reason in json.loads((shard / "skipped.json").read_text())]
        filled = [shard / "clips" for shard in shards if (shard / "clips").is_dir()]
        if not filled:
            shutil.rmtree(self.partial)
            raise ValueError(f"{self.source['filelist']}: none of {len(skipped)} clips can be used:\n  "
                             + "\n  ".join(skipped[:10]))
        return self.put(concatenate_datasets([load_from_disk(str(clips)) for clips in filled]), skipped)

    def put(self, codes: Dataset, skipped: list[str]) -> tuple[int, list[str]]:
        """Puts codes in place of the folder's, in the storage of `source`; returns the number of clips and the reasons
        for those left out. ValueError if no clip is left."""
        joined, unread = self.partial / "joined", []
        shutil.rmtree(joined, ignore_errors=True)
        if self.source.get("storage") == "parquet":
            unread = write_shards(codes, joined, self.source, self.encode, self.source["shard_clips"])
        else:
            codes.save_to_disk(str(joined))
        n_clips, skipped = len(codes) - len(unread), skipped + unread
        _write_json(joined / INFO_FILE, {**self.source, "clips": n_clips, "skipped": skipped})
        if self.folder.exists():
            shutil.rmtree(self.folder)
        joined.rename(self.folder)
        shutil.rmtree(self.partial)
        return n_clips, skipped

    def _shard(self, index: int) -> Path:
        return self.partial / f"shard-{index:05d}"


def _write_json(path: Path, values: dict | list) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(values, ensure_ascii=False, indent=1), encoding="utf-8")
    temporary.rename(path)
