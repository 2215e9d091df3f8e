"""The one training loop: precision, accumulation, clipping, EMA, logging, checkpoints and exact resume.

A stage script builds its networks and hands over two functions: `training_step(run, batch)`, which calls
`run.update(...)` for each optimizer and returns `{name: loss}`, and `validate(run)`, which logs and returns
`{name: value}`. Everything else is the same for every stage.
"""

import argparse
import importlib.util
import logging
import math
import random
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, ProjectConfiguration
from torch import Tensor, nn
from tqdm import tqdm

from batch_parts import clips_in
from config import StageConfig
from launcher import process_count
from optimization import learning_rate_at
from processes import alone, any_of, from_main, join, on_cpu, wait
from random_state import random_state, set_random_state
from run_logs import RunLogs
from run_state import lock_folder
from run_steps import RunSteps
from step_clock import StepClock
from step_memory import state_gigabytes

log = logging.getLogger(__name__)


class Run(RunSteps):
    """One training run of one stage: its networks, optimizers, counters, logs and checkpoints."""

    def __init__(
        self, *, stage_name: str, stage: StageConfig, arguments: argparse.Namespace, generator: nn.Module,
        discriminator: nn.Module | None = None, metadata: dict, root: str | Path = ".", scored_by: str = "loss",
        blocks: str | None = None,
    ):
        """`metadata` is stored in every G checkpoint beside the weights (config, text, speakers, ...). `scored_by`:
        what the validation's score is; after a resume the best one until then counts only if it was the same. `blocks`:
        the name of the generator's ModuleList by which several processes split it between them; None: each has all."""
        max_steps = min(stage.max_steps, arguments.max_steps or stage.max_steps)
        max_steps = min(10, max_steps) if arguments.test_mode else max_steps
        _check_machine(stage_name, stage)
        folder, log_folder = (Path(root) / kind / arguments.model / stage_name for kind in ("checkpoints", "logs"))
        folder.mkdir(parents=True, exist_ok=True)
        join()
        accelerator = Accelerator(
            cpu=process_count() > 1 and on_cpu(),
            mixed_precision={"fp32": "no"}.get(stage.precision, stage.precision),
            gradient_accumulation_steps=stage.gradient_accumulation,
            log_with=["tensorboard", *(["wandb"] if stage.wandb else [])],
            project_config=ProjectConfiguration(logging_dir=str(log_folder.parent)),
        )
        launched_as = accelerator.distributed_type
        if launched_as not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
            raise ValueError(f"accelerate's distributed_type is {launched_as.value}: use one of "
                             "configs/accelerate (MULTI_GPU); for FSDP set train.llm.shard in the JSON config")
        if stage.halve_batches and accelerator.num_processes > 1:
            raise ValueError(f"train.{stage_name}.halve_batches is for one process, as the others would wait for it; "
                             "set it to false, and lower batch_size")
        # the other processes write nothing: they share the main one's folder
        self._lock = lock_folder(folder) if accelerator.is_main_process else None
        self.logs = RunLogs(log_folder, accelerator)
        seed = stage.seed + accelerator.process_index  # the same noise and dropout in all would be noise in none
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)

        networks = {"generator": generator} | ({"discriminator": discriminator} if discriminator is not None else {})
        self._stop, self._profile = False, arguments.profile
        try:
            super().__init__(
                max_steps=max_steps, stage_name=stage_name, stage=stage, arguments=arguments, networks=networks,
                metadata=metadata, scored_by=scored_by, folder=folder, accelerator=accelerator,
                blocks=blocks if accelerator.num_processes > 1 else None,
            )
        except ValueError:
            self._release()
            raise
        self.logs.start(stage_name, arguments.model, metadata["config"], self.step)
        self._report()

    # --- networks -----------------------------------------------------------------------------------------------

    @property
    def generator(self) -> nn.Module:
        """The network being trained, as prepared for the device(s)."""
        return self._networks["generator"]

    @property
    def discriminator(self) -> nn.Module:
        """The discriminators, as prepared for the device(s)."""
        return self._networks["discriminator"]

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def to_device(self, batch: dict) -> dict:
        """The batch with its tensors on the run's device."""
        return {key: value.to(self.device) if torch.is_tensor(value) else value for key, value in batch.items()}

    def validation_network(self) -> nn.Module:
        """The generator that synthesis would use (the moving average where there is one), whole."""
        return self._plain or (self.ema.module if self.ema else self.unwrapped())

    # --- the loop -----------------------------------------------------------------------------------------------

    def fit(
        self, batches: Callable[[int], Iterable], steps_per_epoch: int, longest_batch: dict,
        training_step: Callable[["Run", object], dict[str, Tensor]], validate: Callable[["Run"], dict[str, float]],
        weigh: Callable[[dict], float] = clips_in,
    ) -> None:
        """Trains to `max_steps`. `batches(n)` gives the endless stream of batches from the n-th on; `longest_batch`
        is tried first, so that memory that does not suffice is known at once. `weigh`: how much of a batch's losses a
        part of it has, where it is taken in parts.

        Saves on SIGTERM and Ctrl-C and returns; a second one ends the process at once. `validate` is called with the
        networks in eval mode and without gradients; its value "score" (lower is better), if it gives one, decides which
        checkpoint is kept as best.
        """
        previous = {number: signal.signal(number, self._request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self.measure_memory(longest_batch, training_step)
            self._train(batches, steps_per_epoch, training_step, validate, weigh)
            wait()  # what comes next may read what the main process has saved
        except OSError as error:  # of the logs, on a full disk; checkpoints say so themselves
            raise ValueError(f"{self.folder}: training ended at step {self.step} ({error}); its checkpoints are kept; "
                             "when that is mended, the same command goes on from the last one") from error
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self.close()

    def _train(
        self, batches: Callable, steps_per_epoch: int, training_step: Callable, validate: Callable, weigh: Callable,
    ) -> None:
        stream = iter(batches(self.batches))
        bar = tqdm(total=self.max_steps, initial=self.step, unit="step", desc=self.stage_name, dynamic_ncols=True,
                   disable=not self.accelerator.is_main_process)
        try:
            if self.step == 0:
                self.validate(validate)
            started, started_step = time.perf_counter(), self.step
            self._clock = StepClock(self.device) if self._profile else None
            while self.step < self.max_steps and not self._stopping():
                self._set_learning_rate(steps_per_epoch)
                self.train_step(stream, training_step, weigh)
                bar.update()
                last = self.step == self.max_steps
                if self.step % self.stage.log_interval == 0 or last:
                    rate = (self.step - started_step) / (time.perf_counter() - started)
                    with self._timed("logging"):
                        self._log_step(bar, rate)
                if self.step % self.stage.eval_interval == 0 or last:
                    with self._timed("validation"):
                        self.validate(validate)
                if self._saves_now(steps_per_epoch):
                    with self._timed("saving"):
                        self.save()
        finally:
            # its workers end with it, and must not live on with this frame, which a library may have kept
            del stream
        bar.close()
        if self._saved_step != self.step:
            self.save()
        if self._clock:
            log.info("where the time went:\n%s", self._clock.table(self.step - started_step))
        log.info("%s at step %d of %d", "stopped" if self._stop else "finished", self.step, self.max_steps)

    def _saves_now(self, steps_per_epoch: int) -> bool:
        epochs = self.stage.save_epochs
        if epochs:
            return self.step % (epochs * max(1, steps_per_epoch // self.stage.gradient_accumulation)) == 0
        return self.step % self.stage.save_interval == 0

    def validate(self, validate: Callable[["Run"], dict[str, float]]) -> None:
        """Runs the stage's validation on the main process without touching the random state of training; the others
        wait for it."""
        for network in self._networks.values():
            network.eval()
        if self._plain:
            weights, average = self.whole_weights()
            self._plain.load_state_dict(average or weights)
        score = math.inf
        if self.accelerator.is_main_process:
            state = random_state()
            with torch.no_grad(), alone(), self._on_device(self._plain):
                values = {name: float(value) for name, value in validate(self).items()}
            set_random_state(state)
            self.logs.write_validation(self.step, values)
            score = values.get("score", math.inf)
        score = from_main(score)
        if self.step and score < self.best:
            self.best = score
            self.save(best=True)

    @contextmanager
    def _on_device(self, network: nn.Module | None) -> Iterator[None]:
        """A network that is otherwise kept on the CPU."""
        if network:
            network.to(self.device)
        yield
        if network:
            network.to("cpu")

    def _stopping(self) -> bool:
        """Whether any process was told to stop, so that all do after the same step."""
        stop = any_of(self._stop)
        if stop:  # else a signal that has just come would be forgotten
            self._stop = True
        return stop

    def save(self, best: bool = False) -> None:
        """As `RunState.save`; the curves up to here are on disk, too."""
        self.logs.flush()
        super().save(best)

    def close(self) -> None:
        """Ends the logs and gives the folder free for another run."""
        try:
            for tracker in self.accelerator.trackers:
                tracker.finish()
        finally:
            self._release()

    def _release(self) -> None:
        self.logs.close()
        if self._lock:
            self._lock.release()

    def _request_stop(self, number, _frame) -> None:
        log.info("%s: saving after this step, then stopping", signal.Signals(number).name)
        self._stop = True
        signal.signal(number, signal.SIG_DFL)

    def _set_learning_rate(self, steps_per_epoch: int) -> None:
        rate = learning_rate_at(self.stage, self.step, max(1, steps_per_epoch))
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate

    # --- logs ---------------------------------------------------------------------------------------------------

    def _log_step(self, bar: tqdm, rate: float) -> None:
        means = self.logs.write_step(
            self.step, self.values, learning_rate=self.optimizers["generator"].param_groups[0]["lr"],
            steps_per_second=rate, skipped_steps=self.skipped.total,
        )
        self.values.clear()
        bar.set_postfix({name: f"{value:.3g}" for name, value in means.items() if "/" not in name})

    def log_audio(self, name: str, wave: Tensor, sample_rate: int) -> None:
        """A clip (samples,) in TensorBoard."""
        self.logs.writer.add_audio(name, wave.detach().cpu().float().clamp(-1, 1).unsqueeze(0), self.step, sample_rate)

    def log_figure(self, name: str, figure) -> None:
        """A matplotlib figure in TensorBoard."""
        self.logs.writer.add_figure(name, figure, self.step)

    def _report(self) -> None:
        gigabytes = 0.0
        for name, network in self._networks.items():
            total = sum(p.numel() for p in network.parameters())
            trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
            gigabytes += state_gigabytes(network, ema=bool(self.ema) and name == "generator")
            log.info("%s %s: %.2f M parameters, %.2f M trained", self.stage_name, name, total / 1e6, trained / 1e6)
        log.info("weights, gradients and optimizer: %.2f GB on %s", gigabytes, self.device)
        log.info("%s from step %d to %d, %s, logs in %s", self.stage_name, self.step, self.max_steps,
                 self.stage.precision, self.logs.folder)
        if self.scored_by != "loss":
            log.info("the best checkpoint is chosen by %s", self.scored_by)


def _check_machine(stage_name: str, stage: StageConfig) -> None:
    where = f"train.{stage_name}"
    if stage.precision == "fp16" and not torch.cuda.is_available():
        raise ValueError(f"{where}.precision fp16 needs a GPU; use bf16 or fp32")
    if stage.wandb and importlib.util.find_spec("wandb") is None:
        raise ValueError(f"{where}.wandb needs the package: pip install wandb (or set it to false)")
