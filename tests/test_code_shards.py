"""Parquet shards hold what the Arrow cache holds; stale, damaged and foreign ones are refused by name."""

from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from code_shards import TableRows, open_shards, read_shards, shards_of
from codes_cache import CodesWriter, load_codes

SOURCE = {"fingerprint": "aaaa", "filelist": "train.txt", "storage": "parquet", "shard_clips": 7, "text": "bbbb"}
PATHS = [f"{i}.wav" for i in range(40)]


def clip(i: int, n_codebooks: int = 2) -> dict:
    random = np.random.default_rng(i)
    frames = int(random.integers(3, 40))
    codes = random.integers(0, 1000, (n_codebooks, frames)).astype(np.int16)
    return {"path": PATHS[i], "speaker": "ann" if i % 3 else "bob", "language": "en-us" if i % 3 else "de",
            "ipa": "a" * int(random.integers(2, 30)), "codes": codes, "frames": frames, "seconds": frames / 75}


def encode(ipa: str) -> list[int]:
    if ipa == "?":
        raise ValueError("no symbol is known")
    return [1] * len(ipa)


def write(folder: Path, clips: list[dict], **source) -> Path:
    writer = CodesWriter(folder, SOURCE | source, encode)
    writer.write_shard(0, clips, [])
    writer.finish(1)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("shards") / "codes", [clip(i) for i in range(40)])


def test_shards_hold_what_the_arrow_cache_holds(folder, tmp_path):
    arrow = load_codes(write(tmp_path / "arrow", [clip(i) for i in range(40)], storage="arrow"), "aaaa")
    files = shards_of(str(folder))
    assert [len(pq.read_table(file)) for file in files] == [7] * 5 + [5]
    streamed, loaded = TableRows(read_shards(files)), load_codes(folder, "aaaa")
    assert sorted(streamed["path"]) == sorted(PATHS)
    assert streamed["path"] != PATHS  # a shard is a sample of all
    by_path = {row["path"]: row for row in arrow}
    for one, other in zip(streamed, loaded, strict=True):
        wanted = by_path[one["path"]]
        assert one.pop("symbols") == len(one["ipa"])
        for got in (one, other):
            assert got["codes"].dtype == np.int16
            assert np.array_equal(got.pop("codes"), wanted["codes"])
            assert got == {name: wanted[name] for name in got}


def test_what_is_known_before_reading(folder):
    shards = open_shards([str(folder)], "aaaa", "bbbb")
    rows = TableRows(read_shards(shards.files))
    assert shards.counts.tolist() == [7] * 5 + [5]
    assert (shards.symbols.tolist(), shards.frames.tolist()) == (rows["symbols"], rows["frames"])
    assert shards.voices == {("bob", "de"): 14, ("ann", "en-us"): 26}


@pytest.mark.parametrize("n_processes", [1, 2, 4])
def test_processes_read_shards_of_their_own_and_all_of_them(folder, n_processes):
    files = shards_of(str(folder))
    parts = [read_shards(files, rank, n_processes)["path"].to_pylist() for rank in range(n_processes)]
    assert sorted(path for part in parts for path in part) == sorted(PATHS)


def test_files_globs_and_urls(folder):
    memory = fsspec.filesystem("memory")
    for file in folder.glob("*.parquet"):
        memory.pipe(f"/corpus/{file.name}", file.read_bytes())
    files = sorted(map(str, folder.glob("*.parquet")))
    assert shards_of(f"{folder}/shard-0000[12].parquet") == files[1:3]
    assert shards_of(files[3]) == [files[3]]
    remote = open_shards(["memory://corpus/*.parquet"], "aaaa", "bbbb")
    assert read_shards(remote.files).equals(read_shards(files))


def test_clips_without_a_known_symbol_are_left_out(tmp_path):
    writer = CodesWriter(tmp_path / "codes", SOURCE, encode)
    writer.write_shard(0, [clip(0), clip(1) | {"ipa": "?"}], ["2.wav: silent"])
    count, skipped = writer.finish(1)
    assert (count, skipped) == (1, ["2.wav: silent", "1.wav: no symbol is known; is its text IPA? (see "
                                                     "preprocess_ipa.py)"])
    with pytest.raises(ValueError, match=r"no clip has a text that can be read, first 1\.wav: no symbol is known"):
        write(tmp_path / "none", [clip(1) | {"ipa": "?"}])


def test_what_does_not_fit_is_refused_by_name(folder, tmp_path):
    with pytest.raises(ValueError, match=r"shard-00000\.parquet: the codes are of codec aaaa, not of cccc; make them "):
        open_shards([str(folder)], "cccc", "bbbb")
    with pytest.raises(ValueError, match=r"shard-00000\.parquet: its symbols were counted by another text frontend"):
        open_shards([str(folder)], "aaaa", "cccc")
    with pytest.raises(ValueError, match=r"nowhere: no shards of codes; make them with data\.codes_storage"):
        open_shards([str(tmp_path / "nowhere")], "aaaa", "bbbb")
    with pytest.raises(ValueError, match=r"code_shards: names .*shard-00000\.parquet twice"):
        open_shards([str(folder), f"{folder}/shard-00000.parquet"], "aaaa", "bbbb")
    pq.write_table(pa.table({"symbols": [1], "frames": [1], "speaker": [""], "language": [""]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x\.parquet: no shard of codes of this project; leave it out"):
        open_shards([str(tmp_path / "x.parquet")], "aaaa", "bbbb")
    with pytest.raises(ValueError, match=r"elsewhere://x: cannot be opened \(.*install the fsspec package"):
        shards_of("elsewhere://x")


def test_a_damaged_shard_is_named(folder, tmp_path):
    good, bad = (Path(file) for file in shards_of(str(folder))[:2])
    damaged = tmp_path / bad.name
    content = bytearray(bad.read_bytes())
    place = content.find(b"PAR1") + 300  # within a page, which only its checksum tells
    content[place] ^= 255
    for broken in (content, content[:500]):
        damaged.write_bytes(broken)
        with pytest.raises(ValueError, match=r"shard-00001\.parquet: damaged or no Parquet file .* copy it again"):
            read_shards([str(good), str(damaged)])
