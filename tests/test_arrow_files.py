"""Tests of rows read from Arrow files."""

import json

import pytest
from datasets import Dataset, Features, List, Value

from arrow_files import read_rows

FEATURES = Features({"path": Value("string"), "codes": List(Value("int16"))})


@pytest.fixture
def folder(tmp_path):
    rows = [{"path": f"clip {i}", "codes": list(range(i))} for i in range(9)]
    Dataset.from_list(rows, features=FEATURES).save_to_disk(str(tmp_path))
    return tmp_path


def test_rows_come_back(folder):
    rows = read_rows(folder, FEATURES)
    assert [(row["path"], len(row["codes"])) for row in rows] == [(f"clip {i}", i) for i in range(9)]


def test_offsets_that_lead_out_of_the_file_are_refused(folder):
    (data,) = folder.glob("*.arrow")
    offsets = b"".join((6 * i).to_bytes(4, "little") for i in range(9))  # where the paths begin
    content = data.read_bytes()
    assert offsets in content
    data.write_bytes(content.replace(offsets, offsets[:16] + b"\xff\xff\xff\x7f" + offsets[20:]))
    with pytest.raises(ValueError, match="not readable: "):
        read_rows(folder, FEATURES)


def test_other_columns_and_descriptions_are_refused(folder):
    with pytest.raises(ValueError, match="its columns are path, codes"):
        read_rows(folder, Features({"path": Value("string")}))
    other = json.dumps({"features": {"path": {"_type": "x"}}})
    for name, content in (("state.json", "{}"), ("dataset_info.json", other)):
        (folder / name).write_text(content)
        with pytest.raises(ValueError, match="not readable: "):
            read_rows(folder, FEATURES)
