"""The whole chain on a tiny config, built once and shared by all tests and test processes."""

import importlib
import json
import logging
import shutil
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, Phase, settings

import cli

# pytest --hypothesis-profile=thorough is for a search over night; a test run has a few inputs, always the same ones
settings.register_profile("suite", max_examples=25, derandomize=True, database=None, deadline=None,
                          phases=[Phase.explicit, Phase.generate],  # to shrink an input can take minutes
                          suppress_health_check=list(HealthCheck))
settings.register_profile("thorough", settings.get_profile("suite"), max_examples=3000, derandomize=False)
settings.load_profile("suite")

TINY_CONFIG = {
    "data": {
        "training_filelist": "data/train_ipa.txt", "validation_filelist": "data/validation_ipa.txt",
        "codes": "data/codes", "workers": 0,
    },
    "codec": {
        "kind": "mel", "stride": 4, "bottleneck": {"kind": "fsq", "levels": [4, 4], "n_codebooks": 2},
        "hidden_size": 16, "encoder_layers": 1, "decoder_layers": 1,
    },
    "llm": {"hidden_size": 16, "n_layers": 1, "n_heads": 2, "max_positions": 512, "dropout": 0.1},
    "token_decoder": {"hidden_size": 8, "n_layers": 2},
    "vocoder": {
        "kind": "multiband_istft", "hidden_size": 8, "resblock_kernel_sizes": [3], "resblock_dilations": [1],
    },
    "discriminators": {"periods": [2], "period_channels": [2, 2], "fft_sizes": [512], "resolution_channels": 1},
    "train": {
        "codec": {"batch_size": 2, "segment_frames": 32, "ema_decay": 0.5},
        "llm": {"batch_size": 2, "ema_decay": 0.5},
        "vocoder": {"conditioning": "codes", "batch_size": 2, "segment_frames": 16, "adversarial_start": 2},
    },
}
for _stage in TINY_CONFIG["train"].values():
    _stage |= {"max_steps": 4, "eval_interval": 4, "save_interval": 2}


def run_script(name: str, *arguments: object) -> None:
    """Runs a script's `main` as its command line does; SystemExit 2 for a user's mistake."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        cli.run(importlib.import_module(name).main)


def tiny_config(**changes: dict) -> dict:
    """TINY_CONFIG with sections merged, or replaced where they name a kind; `a__b` is section b of a."""
    config = json.loads(json.dumps(TINY_CONFIG))
    for path, values in changes.items():
        *parents, last = path.split("__")
        section = config
        for parent in parents:
            section = section[parent]
        section[last] = values if "kind" in values else section.get(last, {}) | values
    return config


def write_config(path: str | Path = "config.json", **changes: dict) -> Path:
    Path(path).write_text(json.dumps(tiny_config(**changes)))
    return Path(path)


@pytest.fixture(scope="session")
def _built_chain(tmp_path_factory):
    # the parent is the same for all processes of pytest-xdist
    shared = tmp_path_factory.getbasetemp()
    if shared.name.startswith("popen-"):
        shared = shared.parent
    folder = shared / "chain"
    with FileLock(shared / "chain.lock"), pytest.MonkeyPatch.context() as patch:
        if not (folder / "finished").exists():
            level = logging.root.level
            logging.root.setLevel(logging.INFO)  # for train.log; an attribute would leave the loggers' cache as it is
            folder.mkdir()
            patch.chdir(folder)
            config = write_config()
            run_script("make_demo_corpus", "-o", "data", "--sentences", "12")
            for part in ("train", "validation"):
                run_script("preprocess_ipa", "-i", f"data/{part}.txt", "-o", f"data/{part}_ipa.txt", "--jobs", "1")
            run_script("train_codec", "-c", config, "-m", "tiny")
            run_script("preprocess_codes", "-c", config, "-m", "tiny")
            run_script("train_llm", "-c", config, "-m", "tiny")
            run_script("train_vocoder", "-c", config, "-m", "tiny")
            logging.root.setLevel(level)
            (folder / "finished").touch()
    return folder


@pytest.fixture
def chain(_built_chain, monkeypatch) -> Path:
    """The chain's folder as the current one, not to be changed: config.json, data, checkpoints/tiny (4 steps each)."""
    monkeypatch.chdir(_built_chain)
    return _built_chain


@pytest.fixture
def own_chain(_built_chain, tmp_path, monkeypatch) -> Path:
    """A copy of the chain as the current folder, free to be changed."""
    folder = tmp_path / "chain"
    shutil.copytree(_built_chain, folder, ignore=shutil.ignore_patterns("logs", "*.lock"))
    monkeypatch.chdir(folder)
    return folder
