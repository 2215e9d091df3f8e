from pathlib import Path

import numpy as np
import pytest

from codes_cache import CodesWriter, load_codes, read_info

SOURCE = {"fingerprint": "aaaa", "filelist": "train.txt"}


def row(frames: int) -> dict:
    codes = np.arange(2 * frames, dtype=np.int16).reshape(2, frames)
    return {"path": f"{frames}.wav", "speaker": "ann", "language": "en-us", "ipa": "aɪ", "codes": codes,
            "frames": frames, "seconds": frames / 75}


@pytest.fixture
def folder(tmp_path) -> Path:
    writer = CodesWriter(tmp_path / "codes", SOURCE)
    writer.write_shard(1, [], ["b.wav: silent"])
    writer.write_shard(0, [row(3), row(5)], [])
    assert writer.finish(2) == (2, ["b.wav: silent"])
    return tmp_path / "codes"


def test_codes_come_back_as_they_were_written(folder):
    rows = load_codes(folder, "aaaa")
    assert rows["frames"][:] == [3, 5]
    for got, frames in zip(rows, (3, 5), strict=True):
        wanted = row(frames)
        assert got["codes"].dtype == np.int16
        assert np.array_equal(got.pop("codes"), wanted.pop("codes"))
        assert got == pytest.approx(wanted)
    assert read_info(folder) == SOURCE | {"clips": 2, "skipped": ["b.wav: silent"]}


def test_missing_codes_are_refused_with_the_command(tmp_path):
    with pytest.raises(ValueError, match=r"no cached codes.*preprocess_codes\.py"):
        load_codes(tmp_path / "codes", "aaaa")
    CodesWriter(tmp_path / "codes", SOURCE).write_shard(0, [row(3)], [])
    with pytest.raises(ValueError, match="no cached codes"):  # unfinished
        load_codes(tmp_path / "codes", "aaaa")


def test_codes_of_another_codec_are_refused(folder):
    with pytest.raises(ValueError, match=r"of codec aaaa, not of bbbb; make them anew.*preprocess_codes\.py"):
        load_codes(folder, "bbbb")


def test_damaged_codes_are_refused(folder):
    table = next(folder.glob("*.arrow"))
    table.write_bytes(table.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        load_codes(folder, "aaaa")
    table.unlink()
    with pytest.raises(ValueError, match="damaged"):
        load_codes(folder, "aaaa")
    (folder / "codes.json").write_text("{")
    with pytest.raises(ValueError, match=r"codes\.json: damaged"):
        load_codes(folder, "aaaa")
