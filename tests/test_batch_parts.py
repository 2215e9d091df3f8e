import pytest
import torch

from batch_parts import split_batch
from data_utils import collate_items
from lm_data import collate_rows


def item(i: int) -> dict:
    return {"name": f"{i}.wav", "text": torch.arange(1, i + 2), "codes": torch.full((2, 3 * (i + 1)), i), "speaker": i}


def test_parts_are_the_batches_of_their_clips():
    items = [item(i) for i in (4, 0, 2, 1, 3)]
    parts = split_batch(collate_items(items), 2)
    assert [share for _, share in parts] == [3 / 5, 2 / 5]
    for (part, _), theirs in zip(parts, (items[:3], items[3:]), strict=True):
        expected = collate_items(theirs)
        assert part.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(part[key], value) if torch.is_tensor(value) else part[key] == value
    assert len(split_batch(collate_items(items), 64)) == 5
    by_frames = split_batch(collate_items(items), 2, lambda part: float(part["codes_lengths"].sum()))
    assert [share for _, share in by_frames] == [pytest.approx((15 + 3 + 9) / 45), pytest.approx((6 + 12) / 45)]


def test_packed_rows_stay_whole():
    rows = [[item(1) | {"offset": 0}, item(2) | {"offset": 9}], [item(3) | {"offset": 0}], [item(0) | {"offset": 0}]]
    (first, weight), (second, _) = split_batch(collate_rows(rows), 2)
    assert first["name"] == ["1.wav", "2.wav", "3.wav"]
    assert first["row"].tolist() == [0, 0, 1]
    assert (second["row"].tolist(), second["offset"].tolist()) == ([0], [0])
    assert second["codes"].shape == (1, 2, 3)
    assert weight == 3 / 4
