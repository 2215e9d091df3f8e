import errno
import logging
import os
import pickle
import random
import zipfile
from contextlib import suppress

import pytest
import torch
from torch import nn

import checkpoints
from checkpoints import (
    checkpoint_path,
    load_weights,
    network_weights,
    newest_checkpoint,
    read_checkpoint,
    remove_unfinished,
    require_checkpoint,
    saved_steps,
    write_checkpoint,
)


def content(step: int, has_discriminator: bool = False) -> dict:
    return {
        "stage": "vocoder", "step": step, "weights": {"w": torch.full((50,), float(step))}, "ema": None,
        "config": {"audio": {"sample_rate": 22050}}, "speakers": ["ann"], "has_discriminator": has_discriminator,
        "training": {"random": (1, 2, None), "best": float("inf")},
    }


def save(folder, step: int, pair: bool = False) -> None:
    if pair:
        discriminator = {"stage": "vocoder", "step": step, "weights": {}, "training": {}}
        write_checkpoint(discriminator, checkpoint_path(folder, "D", step))
    write_checkpoint(content(step, pair), checkpoint_path(folder, "G", step))


def same(first, second) -> bool:
    if torch.is_tensor(first):
        return torch.is_tensor(second) and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return first == second


def test_round_trip_leaves_no_temporary_file(tmp_path):
    save(tmp_path / "new" / "folder", 7)
    assert same(read_checkpoint(tmp_path / "new" / "folder" / "G_step7.pth"), content(7))
    assert os.listdir(tmp_path / "new" / "folder") == ["G_step7.pth"]


def test_steps_are_ordered_as_numbers(tmp_path):
    for step in (90, 1000, 200):
        save(tmp_path, step)
    (tmp_path / "G_best.pth").write_bytes(b"")
    (tmp_path / "G_step12.pth.tmp").write_bytes(b"")
    assert saved_steps(tmp_path) == [1000, 200, 90]
    assert newest_checkpoint(tmp_path)[0]["step"] == 1000


def test_nothing_there(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "missing") is None
    with pytest.raises(ValueError, match=r"no checkpoint; train one first: python3 train_codec\.py"):
        require_checkpoint(tmp_path, "python3 train_codec.py")
    with pytest.raises(ValueError, match=r"G_step1\.pth: no such checkpoint"):
        read_checkpoint(tmp_path / "G_step1.pth")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_files_are_named_and_passed_over(tmp_path, caplog, share):
    save(tmp_path, 1)
    save(tmp_path, 2)
    newest = tmp_path / "G_step2.pth"
    newest.write_bytes(newest.read_bytes()[: int(share * newest.stat().st_size)])
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(tmp_path)[0]["step"] == 1
    assert "G_step2.pth: truncated" in caplog.text


def test_a_flipped_bit_anywhere_is_noticed(tmp_path):
    save(tmp_path, 3)
    path, whole = tmp_path / "G_step3.pth", (tmp_path / "G_step3.pth").read_bytes()
    draw = random.Random(0)
    for position in [*range(0, len(whole), 4), *range(len(whole) - 90, len(whole))]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"^{path}: .*use an") as caught:
            read_checkpoint(path)
        assert "\n" not in str(caught.value)


def test_checkpoints_from_before_the_checksum_are_read(tmp_path):
    path = tmp_path / "G_step3.pth"
    torch.save(content(3), path)
    assert same(read_checkpoint(path), content(3))
    whole = path.read_bytes()
    for position in range(0, len(whole), 16):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with suppress(ValueError):
            assert same(read_checkpoint(path), content(3))  # a bit that means nothing (padding, dates)


def test_what_a_killed_run_leaves_is_removed(tmp_path):
    for step in (1, 2):
        save(tmp_path, step, pair=True)
    (tmp_path / "G_step2.pth").rename(tmp_path / "G_step2.pth.tmp")  # between D and G
    (tmp_path / "G_best.pth.tmp").write_bytes(b"")
    (tmp_path / "notes.tmp").write_bytes(b"")
    remove_unfinished(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["D_step1.pth", "G_step1.pth", "notes.tmp"]


def test_a_flipped_bit_in_the_weights_is_passed_over(tmp_path, caplog):
    save(tmp_path, 1)
    save(tmp_path, 2)
    path = tmp_path / "G_step2.pth"
    data = bytearray(path.read_bytes())
    weights = torch.full((50,), 2.0).numpy().tobytes()
    data[data.index(weights) + 40] ^= 1
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(tmp_path)[0]["step"] == 1
    assert "G_step2.pth: damaged (its checksum differs)" in caplog.text


def test_a_pair_without_its_discriminator_is_passed_over(tmp_path, caplog):
    save(tmp_path, 1, pair=True)
    save(tmp_path, 2, pair=True)
    (tmp_path / "D_step2.pth").unlink()
    with caplog.at_level(logging.WARNING):
        generator, discriminator = newest_checkpoint(tmp_path)
    assert (generator["step"], discriminator["step"]) == (1, 1)
    assert "D_step2.pth: no such checkpoint" in caplog.text
    (tmp_path / "D_step1.pth").write_bytes(b"not one")
    with pytest.raises(ValueError, match="none of 2 checkpoints is whole"):
        newest_checkpoint(tmp_path)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm_was_done",)


def test_foreign_files_are_refused_and_their_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"stage": "llm", "step": 1, "weights": Harmful()}, "code.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Harmful()))
    (tmp_path / "text.pth").write_text("weights: none")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save({"state_dict": {"w": torch.zeros(1)}}, "other.pth")
    torch.save(torch.zeros(3), "tensor.pth")
    torch.save({"stage": "llm", "step": 1, "weights": {}}, "old.pth", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile("archive.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    for path in sorted(tmp_path.glob("*.pth")):
        with pytest.raises(ValueError, match=f"{path.name}: .*checkpoint") as caught:
            read_checkpoint(path)
        assert "\n" not in str(caught.value)
    assert not os.path.exists("harm_was_done")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("unexpected pos 64")])
@pytest.mark.parametrize("where", ["fsync", "save"])
def test_a_full_disk_leaves_the_checkpoints_that_are_there(tmp_path, monkeypatch, error, where):
    save(tmp_path, 1)
    before = (tmp_path / "G_step1.pth").read_bytes()

    def fail(*_):
        raise error

    monkeypatch.setattr(checkpoints.os if where == "fsync" else checkpoints.torch, where, fail)
    for step in (1, 2):
        with pytest.raises(ValueError, match=rf"G_step{step}\.pth: could not be saved \(.*; free disk space"):
            save(tmp_path, step)
    assert os.listdir(tmp_path) == ["G_step1.pth"]
    assert (tmp_path / "G_step1.pth").read_bytes() == before


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(ValueError, match=r"G_step1\.pth: could not be saved"):
        save(tmp_path / "folder", 1)


def test_the_moving_average_speaks():
    assert network_weights({"weights": {"w": 1}, "ema": {"w": 2}}) == {"w": 2}
    assert network_weights({"weights": {"w": 1}, "ema": None}) == {"w": 1}
    assert network_weights({"weights": {"w": 1}}) == {"w": 1}


def test_weights_that_do_not_fit_are_named_in_one_line():
    network, other = nn.Linear(3, 2), nn.Linear(3, 2)
    load_weights(network, other.state_dict(), "file")
    assert torch.equal(network.weight, other.weight)
    before = network.weight.clone()
    with pytest.raises(ValueError, match=r"^file: .*: weight is \(2, 4\) in the file, \(2, 3\) here$"):
        load_weights(network, nn.Linear(4, 2).state_dict(), "file")
    with pytest.raises(ValueError, match=r"^file: .*: bias is missing; extra is unknown here$"):
        load_weights(network, {"weight": before, "extra": before}, "file")
    with pytest.raises(ValueError, match=r"and 2 more$"):
        load_weights(network, {name: before for name in "abc"}, "file")
    assert torch.equal(network.weight, before)
