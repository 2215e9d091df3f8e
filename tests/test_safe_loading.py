"""A file of every kind that the project reads, made so that it would run code if it were unpickled: it is refused, and
the code leaves no mark."""

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from test_backbones import make_lm
from tiny_encodec import save_tiny_encodec

from checkpoints import newest_checkpoint, read_checkpoint, write_checkpoint
from codes_cache import CodesWriter, load_codes
from config import AudioConfig, VocosConfig
from durations_cache import load_durations, write_durations
from mels_cache import FRAMES_FILE, load_mels, write_mels
from models.encodec import ORIGINAL_FILE, load_encodec
from models.vocoder import Vocos, load_published_vocos
from voice_folder import read_stage

MARK = "harm_was_done"


class Harmful:
    """Unpickled, it makes a folder."""

    def __reduce__(self):
        return os.mkdir, (MARK,)


@pytest.fixture(autouse=True)
def no_harm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path(MARK).exists()


def test_the_mark_is_left_where_code_runs():
    pickle.loads(pickle.dumps(Harmful()))
    assert Path(MARK).is_dir()
    Path(MARK).rmdir()


def refused(load: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load()
    assert "\n" not in str(caught.value)


def test_checkpoints():
    whole = {"stage": "llm", "step": 1, "weights": {}, "training": {}}
    for i, place in enumerate(("weights", "training")):  # sealed with a checksum that is right
        write_checkpoint(whole | {place: Harmful()}, Path(f"checkpoints/G_step{i}.pth"))
        refused(lambda path=f"checkpoints/G_step{i}.pth": read_checkpoint(path), "damaged or not a checkpoint")
    refused(lambda: newest_checkpoint("checkpoints"), "none of 2 checkpoints is whole")
    Path("raw.pth").write_bytes(pickle.dumps(Harmful()))
    refused(lambda: read_checkpoint("raw.pth"), "truncated or not a checkpoint")


def test_mels():
    write_mels("mels", [(Path("a.wav"), np.zeros((3, 80)))], AudioConfig(), {})
    np.save(Path("mels") / FRAMES_FILE, np.array([Harmful()], dtype=object), allow_pickle=True)
    refused(lambda: load_mels("mels", [Path("a.wav")], AudioConfig()), r"mels: damaged \(.*delete it, then: python3")
    (Path("mels") / FRAMES_FILE).write_bytes(pickle.dumps(Harmful()))
    refused(lambda: load_mels("mels", [Path("a.wav")], AudioConfig()), r"mels: damaged \(.*delete it, then: python3")


def durations() -> Callable[[], object]:
    write_durations("cache", [{
        "path": "a.wav", "speaker": "ann", "language": "de", "ipa": "a", "durations": [1, 2, 3], "frames": 6,
        "seconds": 0.1, "score": 0.0,
    }], {"fingerprint": "x"})
    return lambda: load_durations("cache", "x")


def codes() -> Callable[[], object]:
    writer = CodesWriter("cache", {"fingerprint": "x", "filelist": "list"})
    writer.write_shard(0, [{"path": "a.wav", "speaker": "ann", "language": "de", "ipa": "a", "codes": [[1, 2]],
                            "frames": 2, "seconds": 0.1}], [])
    writer.finish(1)
    return lambda: load_codes("cache", "x")


@pytest.mark.parametrize("make", [durations, codes])
def test_arrow_caches(make):
    load = make()
    assert len(load()) == 1
    file, = Path("cache").glob("*.arrow")
    with pyarrow.ipc.open_stream(file.read_bytes()) as reader:
        table = reader.read_all()
    for protocol in (0, 5):  # pyarrow before 14 unpickled such a type when it read a file (CVE-2023-47248)
        field = table.schema.field("path").with_metadata({
            "ARROW:extension:name": "arrow.py_extension_type",
            "ARROW:extension:metadata": pickle.dumps(Harmful(), protocol),
        })
        schema = table.schema.set(0, field).remove_metadata()
        with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
            writer.write_table(pyarrow.table(table.columns, schema=schema))
        refused(load, r"^cache: .* delete it, then: python3")
    file.write_bytes(pickle.dumps(Harmful()))
    refused(load, r"^cache: .* delete it, then: python3")


def test_an_exported_voice():
    folder, content = Path("voice"), pickle.dumps(Harmful())
    folder.mkdir()
    (folder / "llm.safetensors").write_bytes(content)
    stage = {"step": 1, "sha256": hashlib.sha256(content).hexdigest(), "metadata": {"config": {}}}
    (folder / "model.json").write_text(json.dumps({
        "format": "llm-istft-vits voice", "version": 1, "system": "token", "precision": "fp32", "packages": {},
        "stages": {"llm": stage},
    }))
    refused(lambda: read_stage(folder, "llm"), r"llm\.safetensors: holds no weights of a voice")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pretrained_language_model(name):
    lm = make_lm(1, backbone="llama", n_kv_heads=1)
    lm.body.save_pretrained("llama")
    lm.load_pretrained("llama")
    Path("llama/model.safetensors").unlink()
    for write in (lambda path: path.write_bytes(pickle.dumps(Harmful())),
                  lambda path: torch.save({"norm.weight": Harmful()}, path)):
        write(Path("llama") / name)
        refused(lambda: lm.load_pretrained("llama"), "^llama: its weights cannot be read")


def test_encodec():
    folder = save_tiny_encodec(Path("converted"))
    load_encodec(folder)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Harmful()))
    refused(lambda: load_encodec(folder), "damaged")
    Path("original").mkdir()
    torch.save({"encoder.weight": Harmful()}, Path("original") / ORIGINAL_FILE)
    refused(lambda: load_encodec("original"), f"{ORIGINAL_FILE}: damaged")


def test_a_published_vocoder():
    vocoder = Vocos(VocosConfig(hidden_size=8, intermediate_size=8, n_layers=1), AudioConfig())
    torch.save({"backbone.embed.weight": Harmful()}, "vocos.bin")
    refused(lambda: load_published_vocos(vocoder, "vocos.bin"), r"vocos\.bin: not readable as weights")
