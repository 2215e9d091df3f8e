"""Checkpoints, exported voices and caches: real ones with damaged bytes, and written anew with other content."""

import copy
import hashlib
import json
import math
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import run_script
from fuzzing import changed_json, damaged, tried
from hypothesis import given
from hypothesis import strategies as st

from checkpoints import read_checkpoint, saved_steps, write_checkpoint
from codes_cache import load_codes, read_info
from config import load_config
from durations_cache import durations_fingerprint, load_durations, write_durations
from mels_cache import load_mels, write_mels
from synthesis.synthesizer import Synthesizer
from voice_folder import MODEL_FILE

STAGES = ["codec", "llm", "vocoder"]


@pytest.fixture(scope="module")
def model(_built_chain, tmp_path_factory) -> Path:
    """A folder with the model "tiny", of the last checkpoint of every stage, to be spoilt."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for stage in STAGES:
        (folder / "tiny" / stage).mkdir(parents=True)
        for path in (_built_chain / "checkpoints" / "tiny" / stage).glob("*_step4.pth"):
            shutil.copy(path, folder / "tiny" / stage)
    assert speak("tiny", folder)  # compiles the step of a language model, for which no input is to blame
    return folder


@pytest.fixture(scope="module")
def voice(_built_chain, model, tmp_path_factory) -> Path:
    """The same as an exported voice."""
    folder = tmp_path_factory.mktemp("voices") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(_built_chain)
        run_script("export", "-m", "tiny", "-o", folder)
    return folder


def speak(model: str, checkpoints: Path) -> bool:
    """Whether a model speaks, and what it says is sound."""
    synthesizer = Synthesizer(model, checkpoints, device="cpu")
    return bool(synthesizer.speak("a", "de", input_type="ipa", seed=1, retries=0).samples.isfinite().all())


@given(stage=st.sampled_from(STAGES), data=st.data())
def test_bytes_of_checkpoints(model, stage, data):
    path = model / "tiny" / stage / "G_step4.pth"
    spoilt = model / "spoilt.pth"
    spoilt.write_bytes(data.draw(damaged(path.read_bytes())))
    tried(read_checkpoint, spoilt, names=spoilt)
    assert saved_steps(path.parent) == [4]


@st.composite
def changed_content(draw: st.DrawFn, content: dict) -> dict:
    """A checkpoint's content with something else in it."""
    content = copy.copy(content)
    change = draw(st.sampled_from(["weights", "metadata", "metadata", "config"]))
    if change == "config":
        content["config"] = draw(changed_json(content["config"], most=1))
    elif change == "metadata":
        names = [name for name in content if name not in ("weights", "ema", "training", "config")]
        plain = {name: content[name] for name in names}
        content = {name: value for name, value in content.items() if name not in names}
        changed = draw(changed_json(plain, most=2))
        content |= changed if isinstance(changed, dict) else {"stage": changed, "step": 4}
    else:
        which = "ema" if content.get("ema") else "weights"
        weights = dict(content[which])
        name = draw(st.sampled_from(sorted(weights)))
        content[which], old = weights, weights.pop(name)
        weights[draw(st.sampled_from([name, name, name, "other", ""]))] = draw(st.sampled_from([
            old.half(), old.double(), old.to(torch.complex64), old * math.nan, old * math.inf, old[:0], old.flatten(),
            old[None], torch.zeros(()), old.to_sparse(), old.to("meta"), None, 3, "weight", [old], old.to(torch.int64),
            torch.quantize_per_tensor(old.float(), 0.1, 0, torch.qint8), old.bool(),
        ]))
    return content


@given(stage=st.sampled_from(STAGES), data=st.data())
def test_contents_of_checkpoints(model, stage, data):
    whole = (model / "tiny" / stage / "G_step4.pth").read_bytes()
    path = model / "tiny" / stage / "G_step4.pth"
    content = read_checkpoint(path)
    del content["training"]
    try:
        write_checkpoint(data.draw(changed_content(content)), path)
        loaded = tried(Synthesizer, "tiny", model, device="cpu", names=model)
        if loaded is not None:
            tried(speak, "tiny", model)
    finally:
        path.write_bytes(whole)


@given(data=st.data())
def test_exported_voices(voice, data):
    kind = data.draw(st.sampled_from(["bytes", "values", "values", "weights", "tensors"]))
    stage = data.draw(st.sampled_from(["llm", "vocoder"]))
    model, weights = voice / MODEL_FILE, voice / f"{stage}.safetensors"
    before = {path: path.read_bytes() for path in (model, weights)}
    try:
        if kind == "bytes":
            path = data.draw(st.sampled_from([model, weights]))
            path.write_bytes(data.draw(damaged(before[path])))
        elif kind == "values":
            values = json.loads(before[model])
            model.write_text(json.dumps(data.draw(changed_json(values, most=2))))
        else:
            content = data.draw(damaged(before[weights]))
            if kind == "tensors":
                content = safetensors.torch.save(data.draw(changed_tensors(safetensors.torch.load(before[weights]))))
            values = json.loads(before[model])
            values["stages"][stage]["sha256"] = hashlib.sha256(content).hexdigest()
            weights.write_bytes(content)
            model.write_text(json.dumps(values))
        if tried(Synthesizer, str(voice), device="cpu", names=voice) is not None:
            tried(speak, str(voice), voice.parent)
    finally:
        for path, content in before.items():
            path.write_bytes(content)


@st.composite
def changed_tensors(draw: st.DrawFn, tensors: dict) -> dict:
    tensors = dict(tensors)
    name = draw(st.sampled_from(sorted(tensors)))
    old = tensors.pop(name)
    change = draw(st.sampled_from(["remove", "int8", "shape", "nan", "type", "name"]))
    if change != "remove":
        tensors[name + "x" * (change == "name")] = {
            "int8": old.to(torch.int8), "shape": old[None].clone(), "nan": old.float() * math.nan, "name": old,
            "type": old.to(torch.int64),
        }.get(change, old.double())
    return tensors


@pytest.fixture(scope="module")
def caches(_built_chain, tmp_path_factory) -> Path:
    """Codes, durations and mels of a few clips."""
    folder = tmp_path_factory.mktemp("caches")
    shutil.copytree(_built_chain / "data" / "codes" / "training", folder / "codes")
    shutil.copy(_built_chain / "config.json", folder)
    rows = [{"path": f"{i}.wav", "speaker": "ella", "language": "de", "ipa": "ab", "durations": [1, 2, 3, 4],
             "frames": 10, "seconds": 0.1, "score": 0.5} for i in range(5)]
    write_durations(folder / "durations", rows, {"fingerprint": durations_fingerprint({}, {"symbols": []})})
    audio = load_config(_built_chain / "config.json").audio
    write_mels(folder / "mels", [(Path(f"{i}.wav"), torch.zeros(9, audio.n_mels).numpy()) for i in range(5)], audio, {})
    return folder


@given(data=st.data())
def test_caches(caches, data):
    kind = data.draw(st.sampled_from(["codes", "durations", "mels"]))
    files = sorted(path for path in (caches / kind).rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    before = path.read_bytes()
    spoilt = caches / "spoilt"
    shutil.rmtree(spoilt, ignore_errors=True)
    shutil.copytree(caches / kind, spoilt)
    content = data.draw(damaged(before))
    if path.suffix == ".json" and data.draw(st.booleans()):
        content = json.dumps(data.draw(changed_json(json.loads(before)))).encode()
    (spoilt / path.relative_to(caches / kind)).write_bytes(content)
    if data.draw(st.integers(0, 9)) == 0:
        (spoilt / path.relative_to(caches / kind)).unlink()
    tried(read_all, kind, spoilt, names=spoilt)


def read_all(kind: str, folder: Path) -> int:
    """Every row of a cache, read as training does."""
    if kind == "mels":
        audio = load_config(folder.parent / "config.json").audio
        return sum(mel.shape == (9, audio.n_mels) for mel in load_mels(folder, [Path("0.wav"), Path("4.wav")], audio))
    if kind == "durations":
        rows = load_durations(folder, durations_fingerprint({}, {"symbols": []}))
        return sum(sum(row["durations"]) == row["frames"] for row in rows)
    fingerprint = read_info(folder.parent / "codes")["fingerprint"]
    return sum(row["codes"].shape[1] == row["frames"] for row in load_codes(folder, fingerprint))
