"""What the runner draws at random, against PyTorch; what it needs to be installed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.layers import sampling as torch_sampling
from onnx_runner.folder import FORMAT, ONNX_FILE, VERSION, read_networks, read_settings
from onnx_runner.random_numbers import TorchRandom
from onnx_runner.sampling import Sampling, choose
from onnx_runner.voice import OnnxVoice

ROOT = Path(__file__).parents[1]
SAMPLINGS = {
    "plain": {"top_k": 0, "repetition_window": 0}, "default": {}, "nucleus": {"top_p": 0.7},
    "cold": {"temperature": 0.3, "top_k": 5}, "greedy": {"temperature": 0},
}


@pytest.mark.parametrize("seed", [0, 1, 2**62 + 5])
def test_random_numbers_are_those_of_pytorch(seed):
    generator, ours = torch.Generator().manual_seed(seed), TorchRandom(seed)
    assert ours.seed() == int(torch.randint(2**62, (1,), generator=generator))
    assert np.array_equal(ours.uniform(7, 3, 2), torch.rand(7, 3, 2, generator=generator).numpy())
    for shape in ((1, 16), (5, 9), (4, 80)):
        expected = torch.randn(*shape, generator=generator).numpy()
        np.testing.assert_allclose(ours.normal(*shape), expected, atol=1e-6)
    assert np.array_equal(ours.uniform(3), torch.rand(3, generator=generator).numpy())


def test_without_a_seed_they_differ():
    assert TorchRandom(None).seed() != TorchRandom(None).seed()


@pytest.mark.parametrize("settings", SAMPLINGS.values(), ids=SAMPLINGS)
def test_codes_are_drawn_as_pytorch_draws_them(settings):
    theirs = torch_sampling.Sampling(**settings)
    ours = Sampling(**vars(theirs))
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(200, 60, generator=generator)
    logits[:, 7] = -torch.inf
    recent = torch.randint(60, (200, theirs.repetition_window), generator=generator)
    recent[::2] = logits[::2].argmax(-1, keepdim=True)
    uniform = torch.rand(200, 2, generator=generator)
    expected = torch_sampling.choose(logits, theirs, recent, uniform)
    assert np.array_equal(choose(logits.numpy(), ours, recent.numpy(), uniform.numpy()), expected.numpy())


@pytest.mark.parametrize(("change", "complaint"), [
    ({"top_p": 0.0}, r"top_p 0\.0: must lie in \(0, 1\]"), ({"temperature": -1}, "temperature, top_k and repetition"),
])
def test_impossible_sampling_is_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        Sampling(**(vars(torch_sampling.Sampling()) | change))


def test_a_folder_without_onnx_files_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no onnx\.json; make one with: python3 export\.py -m MODEL -o .* --onnx"):
        OnnxVoice(tmp_path)
    for content, complaint in (("{", "damaged"), ("[]", "not of this version's format"), ("{}", "not of this version")):
        (tmp_path / "onnx.json").write_text(content)
        with pytest.raises(ValueError, match=rf"onnx\.json: {complaint}"):
            OnnxVoice(tmp_path)


@pytest.mark.parametrize(("files", "complaint"), [
    (["llm"], "names no files"), ({"../other/llm": "0"}, "no name of a file"),
])
def test_files_of_other_folders_are_refused(tmp_path, files, complaint):
    (tmp_path / ONNX_FILE).write_text(json.dumps({"format": FORMAT, "version": VERSION, "files": files}))
    with pytest.raises(ValueError, match=complaint):
        read_networks(tmp_path, read_settings(tmp_path), 1)


def test_all_requirements_name_the_same_versions():
    versions: dict[str, set[str]] = {}
    for path in ROOT.glob("requirements*.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if "==" in line and not line.startswith("#"):
                name, version = line.split("==")
                versions.setdefault(name, set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}
    assert {"numpy", "onnx", "onnxruntime"} <= versions.keys()
