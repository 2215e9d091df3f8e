"""Two processes with half the batch each do what one process does: every stage, its checkpoints, logs and caches."""

import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from conftest import run_script, write_config

from checkpoints import read_checkpoint, saved_steps
from codes_cache import load_codes, read_info
from config import load_config
from data_utils import BatchStream
from kill_test import differences_in
from launcher import own_part
from mel_processing import load_audio
from mels_cache import load_mels

ROOT = Path(__file__).parents[1]
STEPS = {"max_steps": 4, "eval_interval": 4, "save_interval": 2, "log_interval": 1, "ema_decay": 0.5}
RVQ = {
    "kind": "mel", "stride": 4, "hidden_size": 16, "encoder_layers": 1, "decoder_layers": 1, "ctc_upsample": 4,
    "bottleneck": {"kind": "rvq", "n_codebooks": 2, "codebook_size": 16, "latent_size": 8, "quantizer_dropout": True},
}
# whole clips, of as many lengths; packed rows, of as many clips: what is averaged differs from process to process
CODEC = STEPS | {"loss_weights": {"mel": 1.0, "mel_delta": 0.5, "commitment": 0.25, "adversarial": 0.1,
                                  "feature_matching": 0.1, "ctc": 0.01}}
LM = STEPS | {"packing": True, "gradient_accumulation": 2, "loss_weights": {"llm": 1.0, "text": 0.5}}
ALIGNED = {
    "aligned": {"hidden_size": 16, "n_layers": 1, "n_heads": 2, "feed_forward_size": 16, "predictor_size": 8,
                "dropout": 0.0, "decoder": {"kind": "parallel", "hidden_size": 16, "n_layers": 1}},
    "aligner": {"hidden_size": 16, "n_layers": 1},
    "train__aligner": STEPS | {"unknown_speaker": 0.0, "diagonal_steps": 2},
    "train__aligned": STEPS,
}
RUNS = {  # model -> stages, and the changes of the config
    "rvq": (["codec"], {"codec": RVQ, "train__codec": CODEC}),
    "lm": (["llm"], {"llm": {"dropout": 0.0}, "train__llm": LM}),
    "split": (["llm"], {"llm": {"dropout": 0.0, "n_layers": 2}, "train__llm": LM | {"shard": True}}),
    "waves": (["vocoder"], {"train__vocoder": STEPS}),
    "durations": (["aligner", "aligned"], ALIGNED),
}
EARLIER = {"llm": ["codec"], "vocoder": ["codec", "llm"]}


def commands(folder: str, batch_size: int) -> list[list[str]]:
    """What is run in `folder`, a copy of the chain, with batches of that size in each process."""
    made = []
    for model, (stages, changes) in RUNS.items():
        changes = json.loads(json.dumps(changes))
        for stage in stages:
            changes[f"train__{stage}"]["batch_size"] = batch_size
        config = str(write_config(f"{folder}/{model}.json", data={"durations": "durations", "mels": "mels"}, **changes))
        for earlier in EARLIER.get(stages[0], []):
            shutil.copytree(f"{folder}/checkpoints/tiny/{earlier}", f"{folder}/checkpoints/{model}/{earlier}")
        scripts = {"aligner": "align"}
        made += [[scripts.get(stage, f"train_{stage}"), "-c", Path(config).name, "-m", model] for stage in stages]
    for model in ("stopped", "whole", "halves"):
        shutil.copytree(f"{folder}/checkpoints/tiny/codec", f"{folder}/checkpoints/{model}/codec")
    write_config(f"{folder}/noisy.json", train__llm=STEPS | {"batch_size": batch_size, "log_interval": 3})
    codes = write_config(f"{folder}/codes.json", data={"codes": "codes"})
    return [
        *made,
        ["told_to_stop", "train_llm", "-c", "lm.json", "-m", "stopped"],
        ["train_llm", "-c", "noisy.json", "-m", "whole"],
        ["train_llm", "-c", "noisy.json", "-m", "halves", "--max-steps", "2"],
        ["train_llm", "-c", "noisy.json", "-m", "halves"],
        ["preprocess_mels", "-c", "durations.json", "-m", "durations"],
        ["preprocess_codes", "-c", codes.name, "-m", "tiny"],
        ["synthesize", "-m", "tiny", "-i", "lines.txt", "-o", "spoken", "--temperature", "0"],
    ]


@pytest.fixture(scope="module")
def _both(_built_chain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    for name in ("one", "two"):
        shutil.copytree(_built_chain, folder / name, ignore=shutil.ignore_patterns("logs", "*.lock"))
        lines = [f"line{i}.wav|A man sat down{' again' * i}.\n" for i in range(3)]
        (folder / name / "lines.txt").write_text("".join(lines))
    level = logging.root.level
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("preprocess_codes.SHARD_SIZE", 2)
        patch.chdir(folder)
        alone, together = commands("one", 4), commands("two", 2)
        patch.chdir(folder / "one")
        logging.root.setLevel(logging.INFO)  # for train.log
        for command in alone:
            if not {"stopped", "whole", "halves"} & set(command):
                run_script(*command)
        logging.root.setLevel(level)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    ran = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch",
         "--config_file", ROOT / "configs/accelerate/2_cpu_processes.yaml", "--main_process_port", str(port),
         ROOT / "tests/commands_in_turn.py", json.dumps(together)],
        cwd=folder / "two", env=environment, capture_output=True, text=True, timeout=900,
    )
    assert ran.returncode == 0, ran.stderr
    return folder


@pytest.fixture
def both(_both, monkeypatch) -> Path:
    """A folder with what one process did in `one` and two processes in `two`, as the current one."""
    monkeypatch.chdir(_both)
    return _both


def vector(weights: dict) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in weights.values()])


def assert_close(first: dict, second: dict, start: dict) -> None:
    """Tensors that differ by less than a thousandth of the way from where they started."""
    assert {name: value.shape for name, value in first.items()} == {name: v.shape for name, v in second.items()}
    moved = (vector(first) - vector(start)).norm()
    assert moved > 0
    assert (vector(first) - vector(second)).norm() < 1e-3 * moved


def moments(checkpoint: dict) -> dict:
    """Of the optimizer, by weight."""
    states = checkpoint["training"]["optimizer"]["state"]
    return {(index, name): value for index, state in states.items() for name, value in state.items()}


@pytest.mark.parametrize(("model", "stage", "networks"), [
    ("rvq", "codec", "GD"), ("lm", "llm", "G"), ("split", "llm", "G"), ("waves", "vocoder", "GD"),
    ("durations", "aligner", "G"), ("durations", "aligned", "G"),
])
def test_two_processes_train_as_one(both, model, stage, networks):
    for network in networks:
        start, one, two = (
            read_checkpoint(f"{kind}/checkpoints/{model}/{stage}/{network}_step{step}.pth")
            for kind, step in (("one", 2), ("one", 4), ("two", 4))
        )
        for kind in ("weights", "ema"):
            if one.get(kind):
                assert_close(one[kind], two[kind], start[kind])
        state = moments(one)
        assert_close(state, moments(two), {name: torch.zeros_like(value) for name, value in state.items()})
    losses = [logged_losses(Path(kind, "logs", model, stage, "train.log")) for kind in ("one", "two")]
    assert len(losses[0]) == len(losses[1]) == 4
    for first, second in zip(*losses, strict=True):
        assert first == pytest.approx(second, rel=1e-3, abs=1e-4)


def logged_losses(log: Path) -> list[dict[str, float]]:
    """Losses and gradient norms of every step."""
    steps = re.findall(r"step \d+: (.*)", log.read_text())
    pairs = (re.findall(r"(\S+) ([-+.\de]+)(?:,|$)", step) for step in steps)
    return [{name: float(value) for name, value in step if name != "steps_per_second"} for step in pairs]


def test_one_process_goes_on_where_two_stopped(both, tmp_path, monkeypatch):
    """A signal to one process stops both after the same step; what they saved is resumed by any number."""
    assert saved_steps(both / "two/checkpoints/stopped/llm") == [2]
    folder = shutil.copytree(both / "two/checkpoints/stopped", tmp_path / "checkpoints/stopped")
    saved = read_checkpoint(folder / "llm/G_step2.pth")["training"]
    assert len(saved["random_of_others"]) == 1
    assert not torch.equal(saved["random"]["torch"], saved["random_of_others"][0]["torch"])
    for name in ("data", "lm.json"):
        (tmp_path / name).symlink_to(both / "one" / name)
    monkeypatch.chdir(tmp_path)
    run_script("train_llm", "-c", "lm.json", "-m", "stopped")
    start, whole, resumed = (read_checkpoint(path)["weights"] for path in (
        folder / "llm/G_step2.pth", both / "one/checkpoints/lm/llm/G_step4.pth", folder / "llm/G_step4.pth"))
    assert_close(whole, resumed, start)


def test_two_processes_resume_to_the_same_bits(both):
    whole, halves = (read_checkpoint(f"two/checkpoints/{model}/llm/G_step4.pth") for model in ("whole", "halves"))
    for checkpoint in (whole, halves):
        del checkpoint["training"]["best"]  # the halves are validated in the middle, too
    assert not differences_in(whole, halves, "G")


def test_one_cache_of_codes_mels_and_durations(both):
    for part in ("training", "validation"):
        info = read_info(f"two/codes/{part}")
        one, two = (load_codes(f"{kind}/codes/{part}", info["fingerprint"]) for kind in ("one", "two"))
        assert list(one["path"]) == list(two["path"])
        assert all(np.array_equal(a, b) for a, b in zip(one["codes"], two["codes"], strict=True))
        names = [sorted(clip["path"] for clip in json.loads(Path(kind, "mels", part, "mels.json").read_text())["clips"])
                 for kind in ("one", "two")]
        assert names[0] == names[1] == sorted(one["path"])
        audio = load_config("one/durations.json").audio
        for first, second in zip(*(load_mels(f"{kind}/mels/{part}", names[0], audio) for kind in ("one", "two")),
                                 strict=True):
            np.testing.assert_allclose(first, second, atol=0.02)
    assert sorted(path.name for path in Path("two/mels").iterdir()) == ["training", "validation"]
    assert not list(Path("two/codes").glob("*.partial"))


def test_every_line_is_spoken_once(both):
    for name in ("line0", "line1", "line2"):
        one, two = (load_audio(Path(kind, "spoken", f"{name}.wav"), 22050) for kind in ("one", "two"))
        torch.testing.assert_close(one, two, atol=1e-3, rtol=0)


def test_each_item_is_one_processes_own(monkeypatch):
    items, parts = list(range(11)), []
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        parts.append(own_part(items))
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("n_clips", "world_size"), [(5, 2), (7, 3), (4, 4), (33, 4)])
def test_parts_of_a_batch_are_of_one_size(n_clips, world_size):
    streams = [BatchStream(list(range(n_clips)), 4, 1, rank, world_size) for rank in range(world_size)]
    batches = [next(stream.from_batch(0)) for stream in streams]
    assert len({len(batch) for batch in batches}) == 1
    drawn = [draw.index for batch in batches for draw in batch]
    assert len(drawn) == len(set(drawn)) == streams[0].global_size
    with pytest.raises(ValueError, match=f"{n_clips} clips .* and {n_clips + 1} processes"):
        BatchStream(list(range(n_clips)), 4, 1, 0, n_clips + 1)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_the_ready_configs(path):
    config = load_config_from_file(str(path))
    machines, processes = {"1_gpu": (1, 1), "8_gpus": (1, 8), "2x8_gpus": (2, 16), "2_cpu_processes": (1, 2)}[path.stem]
    assert (config.num_machines, config.num_processes) == (machines, processes)
    assert (config.distributed_type.value == "MULTI_GPU") == (processes > 1)
    launch_command_parser().parse_args(["--config_file", str(path), "train_llm.py", "-c", "config.json", "-m", "a"])
