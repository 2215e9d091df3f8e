"""The training loop on a toy stage: a linear layer that learns to double, and a discriminator beside it."""

import argparse
import inspect
import logging
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from checkpoints import read_checkpoint, saved_steps
from config import AudioConfig, StageConfig
from optimization import learning_rate_at, moving_average
from random_state import random_state, set_random_state
from training import Run

METADATA = {"config": {"audio": AudioConfig().model_dump()}, "speakers": ["ann"], "codec": {"fingerprint": "a"}}


def arguments(**changes) -> argparse.Namespace:
    defaults = {"model": "toy", "resume": "auto", "weights_from": None, "max_steps": None, "test_mode": False,
                "profile": False}
    return argparse.Namespace(**(defaults | changes))


def make_run(root: Path, metadata: dict | None = None, width: int = 2, discriminator: bool = False, name: str = "codec",
             options: dict | None = None, **stage) -> Run:
    torch.manual_seed(0)
    settings = {"max_steps": 4, "learning_rate": 0.1, "weight_decay": 0.0, "eval_interval": 2, "save_interval": 2}
    settings |= stage
    return Run(
        stage_name=name, stage=StageConfig(**settings), arguments=arguments(**(options or {})), root=root,
        generator=nn.Linear(width, width), discriminator=nn.Linear(2, 1) if discriminator else None,
        metadata=metadata or METADATA,
    )


def step(run: Run, batch: dict) -> dict[str, torch.Tensor]:
    loss = (run.generator(batch["x"]) - 2 * batch["x"]).square().mean()
    run.update("generator", loss)
    return {"loss": loss}


def batches(done: int):
    while True:
        done += 1
        yield toy_batch(torch.randn(8, 2, generator=torch.Generator().manual_seed(done)))


def toy_batch(x: torch.Tensor) -> dict:
    return {"name": [f"{i}.wav" for i in range(len(x))], "x": x}


def fit(run: Run, training_step=step, score=lambda run: {}, stream=batches) -> Run:
    run.fit(stream, 2, next(stream(0)), training_step, score)
    return run


@pytest.mark.parametrize("step_number", [0, 5, 9, 10, 11, 50, 89, 90, 99, 100, 120])
def test_schedules(step_number):
    def rate(schedule: str) -> float:
        stage = StageConfig(schedule=schedule, learning_rate=3.0, warmup_steps=10, max_steps=100, gamma=0.9)
        return learning_rate_at(stage, step_number, steps_per_epoch=7)

    if step_number < 10:
        expected = dict.fromkeys(["constant", "exponential", "cosine", "wsd"], 3.0 * (step_number + 1) / 10)
    else:
        done = min(1.0, (step_number - 10) / 90)
        expected = {
            "constant": 3.0, "exponential": 3.0 * 0.9 ** math.floor(step_number / 7),
            "cosine": 0.3 + 2.7 * (1 + math.cos(math.pi * done)) / 2,
            "wsd": 3.0 if done <= 0.8 else 15.0 * (1 - done),
        }
    for schedule, value in expected.items():
        assert rate(schedule) == pytest.approx(value, abs=1e-12), schedule


def test_moving_average_forgets_its_start():
    update = moving_average(0.9)
    for seen, weight in ((0, 0.9), (1, 1 - 2 / 11), (40, 1 - 41 / 50), (1000, 0.1)):
        average = [torch.zeros(3)]
        update(average, [torch.ones(3)], torch.tensor(seen))
        torch.testing.assert_close(average[0], torch.full((3,), weight))


def test_random_state_round_trip(tmp_path):
    def draw() -> tuple:
        return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1).item()

    random.gauss(0, 1), np.random.randn()  # leaves a second number waiting
    torch.save(random_state(), tmp_path / "state")
    first = draw()
    set_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert draw() == first


def test_it_learns_logs_and_keeps_the_newest_and_the_best(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    scores = iter([9.0, 3.0, 1.0, 2.0, 5.0])
    run = fit(make_run(tmp_path, max_steps=8, keep_last=2, ema_decay=0.5), score=lambda _: {"score": next(scores)})
    folder, logs = tmp_path / "checkpoints/toy/codec", tmp_path / "logs/toy/codec"
    assert saved_steps(folder) == [8, 6]
    assert sorted(p.name for p in folder.iterdir()) == [".lock", "G_best.pth", "G_step6.pth", "G_step8.pth"]
    best = read_checkpoint(folder / "G_best.pth")
    assert best["step"] == 4
    assert "training" not in best
    assert read_checkpoint(folder / "G_step8.pth")["training"]["best"] == 1.0
    assert (run.unwrapped().weight - 2 * torch.eye(2)).abs().max() < 1.8  # began further away
    log = (logs / "train.log").read_text()
    for expected in ("codec generator: 0.00 M parameters", "step 4 validation: score 1", "finished at step 8 of 8",
                     "one step on the longest batch: about", "step 8: gradient_norm/generator"):
        assert expected in log
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logs)).Reload()
    assert {"training/loss", "training/learning_rate", "validation/score"} <= set(events.Tags()["scalars"])
    assert "config/text_summary" in events.Tags()["tensors"]


def test_accumulated_batches_are_one_large_batch(tmp_path):
    def halves(done: int):
        for batch in batches(done // 2):
            yield from map(toy_batch, batch["x"].split(4))

    whole = fit(make_run(tmp_path / "whole", max_steps=3))
    parts = fit(make_run(tmp_path / "parts", max_steps=3, gradient_accumulation=2), stream=halves)
    assert parts.batches == 2 * whole.batches
    torch.testing.assert_close(parts.unwrapped().state_dict(), whole.unwrapped().state_dict())


def test_gradients_are_clipped(tmp_path):
    norms = []

    def watched(run, batch):
        losses = step(run, {"name": [], "x": 1e3 * batch["x"]})
        norms.extend(run.values.get("gradient_norm/generator", [])[-1:])
        return losses

    before = make_run(tmp_path, max_steps=1, grad_clip=1e-9)
    weight = before.unwrapped().weight.detach().clone()
    fit(before, watched)
    assert norms[0] > 1e3
    assert not torch.equal(before.unwrapped().weight, weight)  # AdamW's step does not depend on the scale


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_steps_that_are_not_finite_are_skipped_and_stop_the_run(tmp_path, caplog, network):
    def broken(run, batch, bad=lambda step: True):
        if network == "discriminator":
            step(run, batch)
        else:
            run.update("discriminator", run.discriminator(batch["x"]).mean())
        net = run.generator if network == "generator" else run.discriminator
        loss = net(batch["x"]).mean() * (math.nan if bad(run.step) else 1)
        run.update(network, loss)
        return {"bad": loss}

    run = make_run(tmp_path / "some", discriminator=True, max_steps=30)
    with caplog.at_level(logging.WARNING):
        fit(run, lambda run, batch: broken(run, batch, bad=lambda step: step % 3))
    assert run.skipped.total == 20
    expected = f"step 1 skipped: loss nan, gradient norm nan of the {network} (1 so far); clips: 0.wav, 1.wav"
    assert expected in caplog.text
    assert all(torch.isfinite(value).all() for value in run.unwrapped(network).state_dict().values())

    run = make_run(tmp_path / "all", discriminator=True, max_steps=30)
    message = (rf"the {network}'s gradients were not finite 20 times in a row, last at step 19, clips: 0\.wav, .*; "
               r"look at these clips, lower train\.codec\.learning_rate")
    with pytest.raises(ValueError, match=message):
        fit(run, broken)
    assert saved_steps(run.folder)[0] == 18
    run = make_run(tmp_path / "all", discriminator=True, max_steps=20)  # the folder is free again
    assert fit(run, lambda run, batch: broken(run, batch, lambda _: False)).step == 20


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    run = make_run(tmp_path)
    with pytest.raises(ValueError, match=r"checkpoints/toy/codec: another run is training here; wait for it"):
        make_run(tmp_path)
    fit(run)
    fit(make_run(tmp_path, max_steps=6))
    assert saved_steps(run.folder) == [6, 4, 2]


def test_test_mode_and_max_steps(tmp_path):
    assert make_run(tmp_path / "a", max_steps=50, options={"test_mode": True}).max_steps == 10
    assert make_run(tmp_path / "b", max_steps=50, options={"max_steps": 7}).max_steps == 7
    assert fit(make_run(tmp_path / "c", options={"max_steps": 3})).step == 3


def test_precision(tmp_path):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    with pytest.raises(ValueError, match=r"train\.codec\.precision fp16 needs a GPU; use bf16 or fp32"):
        make_run(tmp_path, precision="fp16")
    assert not list(tmp_path.iterdir())
    dtypes = set()

    def watched(run, batch):
        dtypes.add(run.generator(batch["x"]).dtype)
        return step(run, batch)

    run = make_run(tmp_path, precision="bf16")
    run.generator.register_forward_pre_hook(lambda *_: dtypes.add(torch.get_autocast_dtype("cpu")))
    fit(run, watched)
    AcceleratorState._reset_state(True)
    assert torch.bfloat16 in dtypes
    assert run.unwrapped().weight.dtype == torch.float32


def test_missing_wandb_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"train\.codec\.wandb needs the package: pip install wandb"):
        make_run(tmp_path, wandb=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(tmp_path, number):
    code = """
import sys, time; sys.path[:0] = [{tests!r}, {root!r}]
from test_training import fit, make_run, step
from pathlib import Path
import cli
def slow(run, batch):
    time.sleep(0.05)
    if run.step == 3: print("ready", flush=True)
    return step(run, batch)
cli.run(lambda: fit(make_run(Path("."), max_steps=10_000, save_interval=5000), slow))
"""
    root = Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, "-c", code.format(tests=str(root), root=str(root.parent))], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    step_number, = saved_steps(tmp_path / "checkpoints/toy/codec")
    assert 3 < step_number < 100
    assert f"{number.name}: saving after this step" in errors
    assert f"stopped at step {step_number} of 10000" in errors
    assert make_run(tmp_path).step == step_number


class Counter(nn.Linear):
    """Counts its passes, as a codebook keeps statistics, and knows whether it trains."""

    def __init__(self):
        super().__init__(2, 2)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes += self.training
        return super().forward(x)


def test_the_trial_for_memory_and_validation_leave_buffers_alone(tmp_path):
    seen = []

    def validate(run):
        network = run.validation_network()
        network(torch.zeros(1, 2))
        seen.append((float(network.passes), network.training))
        return {}

    torch.manual_seed(0)
    run = Run(stage_name="codec", stage=StageConfig(max_steps=4, eval_interval=2, ema_decay=0.5), arguments=arguments(),
              root=tmp_path, generator=Counter(), metadata=METADATA)
    fit(run, score=validate)
    assert seen == [(0.0, False), (2.0, False), (4.0, False)]
    assert run.unwrapped().passes == 4


TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
from test_training import Counter, METADATA, Run, StageConfig, arguments, fit, toy_batch

torch.manual_seed(0)
run = Run(stage_name="codec", stage=StageConfig(max_steps=4, save_interval=4), arguments=arguments(), metadata=METADATA,
          root=sys.argv[1], generator=Counter())
assert run.accelerator.num_processes == 2
rank = run.accelerator.process_index

def batches(done):
    while True:
        done += 1
        yield toy_batch(torch.randn(8, 2, generator=torch.Generator().manual_seed(10 * done + rank)))

fit(run, stream=batches)
torch.save(run.unwrapped().weight.data, f"{sys.argv[1]}/weight{rank}.pth")
"""


def test_two_processes_train_one_network_and_one_of_them_writes(tmp_path):
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": paths, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                    str(tmp_path / "two.py"), str(tmp_path)], env=environment, check=True, timeout=200)
    first, second = (torch.load(tmp_path / f"weight{rank}.pth", weights_only=True) for rank in (0, 1))
    assert torch.equal(first, second)
    saved = read_checkpoint(tmp_path / "checkpoints/toy/codec/G_step4.pth")
    assert torch.equal(saved["weights"]["weight"], first)
    log = (tmp_path / "logs/toy/codec/train.log").read_text()
    assert log.count("step 4: ") == 1


def test_the_stream_ends_with_training_even_if_its_frame_is_kept(tmp_path):
    ended, kept = [], []

    def stream(done: int):
        try:
            yield from batches(done)
        finally:
            ended.append(done)

    def validate(run: Run) -> dict[str, float]:
        kept.append(inspect.stack())  # as a library does that looks who has called it
        return {}

    run = make_run(tmp_path)
    run.fit(stream, 2, next(batches(0)), step, validate)
    assert len(kept) == 3
    assert ended == [0]


def test_a_profile_names_the_parts_of_a_step(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    fit(make_run(tmp_path, options={"profile": True}))
    for part in ("loading", "forward", "backward", "optimizer", "logging", "validation", "saving"):
        assert re.search(rf"{part} +[\d.]+ ms a step", caplog.text), part


def test_checkpoints_every_so_many_epochs(tmp_path):
    fit(make_run(tmp_path, max_steps=12, save_epochs=3, save_interval=1, keep_last=9))  # 2 steps an epoch
    assert saved_steps(tmp_path / "checkpoints/toy/codec") == [12, 6]
