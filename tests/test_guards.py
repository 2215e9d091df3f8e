"""What a run does when a step fails, on the toy stage."""

import logging
import math
import re
import resource

import pytest
import torch
from test_training import METADATA, Counter, arguments, fit, make_run, step, toy_batch
from torch import nn

from checkpoints import newest_checkpoint, saved_steps
from config import CodecStage, LLMStage, StageConfig
from data_utils import BatchStream, Draw, stream_batches
from guards import is_out_of_memory, memory_advice
from training import Run


def out_of_memory(most: int, tried: list[int], training_step=step):
    """A step for which memory suffices if its batch has at most so many clips."""
    def limited(run: Run, batch: dict):
        tried.append(len(batch["x"]))
        if len(batch["x"]) > most:
            run.generator(batch["x"])  # a failed pass moves buffers and draws random numbers
            torch.rand(3)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return training_step(run, batch)

    return limited


def noisy_gan(run: Run, batch: dict) -> dict[str, torch.Tensor]:
    fake = run.generator(batch["x"])
    run.update("discriminator", run.discriminator(fake.detach()).square().mean())
    with run.frozen("discriminator") as discriminator:
        loss = (fake - 2 * batch["x"]).square().mean() + discriminator(fake).mean()
        run.update("generator", loss)
    return {"loss": loss}


def test_halved_batches_are_the_whole_batch(tmp_path, caplog):
    whole, parts, tried = fit(make_run(tmp_path / "whole", max_steps=6, log_interval=2)), None, []
    with caplog.at_level(logging.WARNING):
        parts = fit(make_run(tmp_path / "parts", max_steps=6, log_interval=2, halve_batches=True),
                    out_of_memory(3, tried))
    assert tried == [8, 4, 2] + [2] * 24  # found with the first, and kept to
    assert "every batch is taken in 4 parts from now on" in caplog.text
    torch.testing.assert_close(parts.unwrapped().state_dict(), whole.unwrapped().state_dict())
    logged = [re.search(r"step 4: .*, loss (\S+),", (tmp_path / name / "logs/toy/codec/train.log").read_text())[1]
              for name in ("whole", "parts")]
    assert logged[0] == logged[1]
    resumed = make_run(tmp_path / "parts", max_steps=8, halve_batches=True)
    assert resumed.parts == 4
    resumed.close()


def test_memory_that_runs_out_between_two_networks(tmp_path):
    """The discriminator has its step already, which must not be taken twice."""
    def short_of_memory(run: Run, batch: dict):
        fake = run.generator(batch["x"])
        run.update("discriminator", run.discriminator(fake.detach()).square().mean())
        if len(batch["x"]) > 4 and not run._trial:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")
        with run.frozen("discriminator") as discriminator:
            loss = (fake - 2 * batch["x"]).square().mean() + discriminator(fake).mean()
            run.update("generator", loss)
        return {"loss": loss}

    settings = {"discriminator": True, "max_steps": 1, "halve_batches": True}
    whole = fit(make_run(tmp_path / "whole", **settings), noisy_gan)
    parts = fit(make_run(tmp_path / "parts", **settings), short_of_memory)
    for name in ("generator", "discriminator"):
        torch.testing.assert_close(parts.unwrapped(name).state_dict(), whole.unwrapped(name).state_dict())


def test_memory_that_does_not_suffice_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"codec: memory does not suffice for one step on the longest clips: 0\.wav, "
                       r".*; lower train\.codec\.batch_size .* or lower data\.max_seconds"):
        fit(make_run(tmp_path / "off"), out_of_memory(7, []))
    with pytest.raises(ValueError, match=r"does not suffice for one step on the longest clips: 0\.wav"):
        fit(make_run(tmp_path / "one", halve_batches=True), out_of_memory(0, []))

    def later(run: Run, batch: dict):
        return (out_of_memory(0, []) if run.step == 3 and not run._trial else step)(run, batch)

    with pytest.raises(ValueError, match=r"memory does not suffice for step 3: 0\.wav"):
        fit(make_run(tmp_path / "later", max_steps=6), later)
    assert saved_steps(tmp_path / "later/checkpoints/toy/codec") == [2]


def test_advice_names_the_settings_of_the_stage():
    assert "train.codec.segment_frames" in memory_advice("codec", CodecStage())
    assert "precision to bf16" in memory_advice("codec", CodecStage())
    advice = memory_advice("llm", LLMStage(packing=True, precision="bf16"))
    assert "llm.max_positions, set llm.gradient_checkpointing" in advice
    assert "precision" not in advice
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_a_skipped_step_leaves_no_trace_in_buffers(tmp_path):
    torch.manual_seed(0)
    stage = StageConfig(max_steps=6, eval_interval=9, save_interval=9, max_skipped=3)
    run = Run(stage_name="codec", stage=stage, arguments=arguments(), root=tmp_path, generator=Counter(),
              metadata=METADATA)

    def sometimes(run: Run, batch: dict):
        loss = step_loss(run, batch) * (math.inf if run.step in (1, 2) else 1)
        run.update("generator", loss)
        return {"loss": loss}

    def step_loss(run: Run, batch: dict):
        return run.generator(batch["x"]).square().mean()

    fit(run, sometimes)
    assert run.unwrapped().passes == 4  # of 6 steps
    assert (run.skipped.total, run.skipped.in_row["generator"]) == (2, 0)
    assert "skipped_steps 2" in (tmp_path / "logs/toy/codec/train.log").read_text()


def test_a_loss_that_is_not_finite_skips_though_its_gradient_is(tmp_path, caplog):
    def endless(run: Run, batch: dict):
        first = batch["name"][0] == "4.wav"
        loss = run.generator(batch["x"]).mean() + (math.inf if first and run.step == 2 else 0.0)
        run.update("generator", loss)
        return {"loss": loss}

    def halves(done: int):
        while True:
            done += 1
            whole = toy_batch(torch.randn(8, 2, generator=torch.Generator().manual_seed(done)))
            yield {key: value[:4] for key, value in whole.items()}
            yield {key: value[4:] for key, value in whole.items()}

    with caplog.at_level(logging.WARNING):
        run = fit(make_run(tmp_path, gradient_accumulation=2), endless, stream=halves)
    assert run.skipped.total == 1
    assert re.search(r"step 2 skipped: loss \S+, inf, gradient norm 0\.\d+ of the generator \(1 so far\); "
                     r"clips: 4\.wav, 5\.wav, 6\.wav, 7\.wav\n", caplog.text)


def test_what_is_counted_survives_a_resume(tmp_path):
    def broken(run: Run, batch: dict):
        run.update("generator", run.generator(batch["x"]).mean() * math.nan)
        return {}

    fit(make_run(tmp_path, max_steps=2, max_skipped=3), broken)
    with pytest.raises(ValueError, match="not finite 3 times in a row, last at step 2"):
        fit(make_run(tmp_path, max_steps=9, max_skipped=3), broken)


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(tmp_path):
    """The kernel refuses what goes beyond a limit, as it does on a full disk."""
    run = make_run(tmp_path, max_steps=8, width=2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def validate(run: Run) -> dict:
        if run.step == 4:  # the pair of step 2 is there; from here on no file can grow
            resource.setrlimit(resource.RLIMIT_FSIZE, (256, before[1]))
        return {}

    try:
        with pytest.raises((ValueError, OSError), match=r"could not be saved .*free disk space, then resume|File too"):
            fit(run, score=validate)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in run.folder.glob("*.pth*")] == ["G_step2.pth"]
    assert newest_checkpoint(run.folder)[0]["step"] == 2
    assert fit(make_run(tmp_path, max_steps=8)).step == 8


class Clips:
    def __init__(self, error: Exception):
        self.error = error

    def draw(self, draw: Draw) -> dict:
        if draw.index == 2:
            raise self.error
        return {"name": "fine.wav"}

    def paths(self, draw: Draw) -> list[str]:
        return [f"clips/{draw.index}.wav"]


@pytest.mark.parametrize(("error", "workers"), [
    (KeyError("codes"), 0), (ValueError("no sound"), 0), (RuntimeError("bad sound"), 1),
])
def test_an_error_in_a_clip_names_it(error, workers):
    batches = stream_batches(Clips(error), BatchStream([1.0] * 4, 1, 0), list, workers)
    with pytest.raises(ValueError, match=rf"clips/2\.wav: cannot be prepared for training \({type(error).__name__}: .*"
                       r"in test_guards\.py line \d+\); mend or replace the recording"):
        for _ in zip(range(4), batches(0), strict=False):
            pass


def test_a_clip_that_its_error_names_is_not_named_twice():
    batches = stream_batches(Clips(ValueError("clips/2.wav: too short")), BatchStream([1.0] * 4, 1, 0), list, 0)
    with pytest.raises(ValueError, match=r"^clips/2\.wav: too short$"):
        for _ in zip(range(4), batches(0), strict=False):
            pass


class Killed(Clips):
    def draw(self, draw: Draw) -> dict:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_data_process_is_said():
    batches = stream_batches(Killed(ValueError()), BatchStream([1.0] * 4, 1, 0), list, 1)
    with pytest.raises(ValueError, match=r"a process that loads data has ended \(.*Lower data\.workers"):
        next(iter(batches(0)))


def test_halving_is_for_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr("training.Accelerator.num_processes", 2)
    with pytest.raises(ValueError, match=r"train\.codec\.halve_batches is for one process"):
        make_run(tmp_path, halve_batches=True)
    assert isinstance(make_run(tmp_path).unwrapped(), nn.Linear)
