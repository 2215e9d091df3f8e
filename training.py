"""The one training loop: precision, accumulation, clipping, EMA, logging, checkpoints and exact resume.

A stage script builds its networks and hands over two functions: `training_step(run, batch)`, which calls
`run.update(...)` for each optimizer and returns `{name: loss}`, and `validate(run)`, which logs and returns
`{name: value}`. Everything else is the same for every stage.
"""

import argparse
import importlib.util
import json
import logging
import math
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from filelock import FileLock, Timeout
from torch import Tensor, nn
from tqdm import tqdm

from checkpoints import (
    BEST_FILE,
    checkpoint_path,
    load_weights,
    network_weights,
    newest_checkpoint,
    read_checkpoint,
    saved_steps,
    write_checkpoint,
)
from config import StageConfig
from fine_tuning import renamed_rows
from optimization import learning_rate_at, moving_average
from random_state import random_state, set_random_state
from step_clock import StepClock
from voice_folder import read_stage

log = logging.getLogger(__name__)

MAX_SKIPPED_STEPS = 20


def stage_arguments(description: str) -> argparse.ArgumentParser:
    """The command line that every training script has."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("-c", "--config", required=True, help="JSON config, e.g. configs/ipa_tts.json")
    parser.add_argument("-m", "--model", required=True, help="name of the model: checkpoints/<model>, logs/<model>")
    parser.add_argument("--resume", default="auto", help="auto (go on where a checkpoint is), none, or a G file")
    parser.add_argument("--weights-from", metavar="G_FILE",
                        help="start from the weights of another run, or of an exported voice's folder (fine-tuning)")
    parser.add_argument("--max-steps", type=positive, help="stop at this step instead of the config's max_steps")
    parser.add_argument("--test-mode", action="store_true", help="10 steps on a handful of clips")
    parser.add_argument("--profile", action="store_true", help="say at the end where a step's time goes")
    return parser


def positive(value: str) -> int:
    """For argparse: a whole number over 0."""
    if int(value) < 1:
        raise argparse.ArgumentTypeError(f"{value}: must be at least 1")
    return int(value)


def state_gigabytes(network: nn.Module, ema: bool) -> float:
    """GB for weights, gradients, both AdamW moments and the moving average, all float32."""
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    total = sum(p.numel() for p in network.parameters())
    return 4 * (total + 3 * trained + (total if ema else 0)) / 1e9


class Run:
    """One training run of one stage: its networks, optimizers, counters, logs and checkpoints."""

    def __init__(
        self, *, stage_name: str, stage: StageConfig, arguments: argparse.Namespace, generator: nn.Module,
        discriminator: nn.Module | None = None, metadata: dict, root: str | Path = ".", scored_by: str = "loss",
    ):
        """`metadata` is stored in every G checkpoint beside the weights (config, text, speakers, ...). `scored_by`:
        what the validation's score is; after a resume the best one until then counts only if it was the same."""
        self.stage_name, self.stage, self.metadata, self.scored_by = stage_name, stage, metadata, scored_by
        self.max_steps = min(stage.max_steps, arguments.max_steps or stage.max_steps)
        if arguments.test_mode:
            self.max_steps = min(10, self.max_steps)
        self._check_machine()
        self.folder = Path(root) / "checkpoints" / arguments.model / stage_name
        self.log_folder = Path(root) / "logs" / arguments.model / stage_name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log_folder.mkdir(parents=True, exist_ok=True)

        trackers = ["tensorboard", *(["wandb"] if stage.wandb else [])]
        self.accelerator = Accelerator(
            mixed_precision={"fp32": "no"}.get(stage.precision, stage.precision),
            gradient_accumulation_steps=stage.gradient_accumulation,
            log_with=trackers, project_config=ProjectConfiguration(logging_dir=str(self.log_folder.parent)),
        )
        # the other processes write nothing: they share the main one's folder
        main = self.accelerator.is_main_process
        if not main:
            logging.getLogger().setLevel(logging.WARNING)
        self._lock = self._acquire_lock() if main else None
        log_path = self.log_folder / "train.log"
        self._log_file = logging.FileHandler(log_path, encoding="utf-8") if main else logging.NullHandler()
        self._log_file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger().addHandler(self._log_file)
        torch.manual_seed(stage.seed)
        random.seed(stage.seed)
        np.random.seed(stage.seed)

        self._networks = {"generator": generator, "discriminator": discriminator}
        self._networks = {name: network for name, network in self._networks.items() if network is not None}
        self.step = self.batches = self.skipped = 0
        self._skipped_in_row = dict.fromkeys(self._networks, 0)
        self.best = math.inf
        self._stop = self._trial = False
        self._step_log: dict[str, list] = defaultdict(list)
        self._profile, self._clock = arguments.profile, None
        try:
            self._start_from(arguments)
        except ValueError:
            self._release()
            raise

        self.optimizers = {
            name: torch.optim.AdamW(
                [p for p in network.parameters() if p.requires_grad],
                stage.learning_rate, stage.betas, weight_decay=stage.weight_decay,
            )
            for name, network in self._networks.items()
        }
        for name in self._networks:
            prepared = self.accelerator.prepare(self._networks[name], self.optimizers[name])
            self._networks[name], self.optimizers[name] = prepared
        self.ema = None
        if stage.ema_decay:
            self.ema = torch.optim.swa_utils.AveragedModel(
                self.unwrapped("generator"), multi_avg_fn=moving_average(stage.ema_decay)
            ).eval()
        self._restore_training_state()
        self._saved_step = self.step
        # TensorBoard takes the first name for its folder, W&B for its project
        self.accelerator.init_trackers(stage_name, init_kwargs={"wandb": {"name": arguments.model}})
        if self.accelerator.is_main_process:
            text = json.dumps(metadata["config"], indent=2, ensure_ascii=False)
            self._writer.add_text("config", f"```json\n{text}\n```", self.step)
        self._report()

    def _check_machine(self) -> None:
        where = f"train.{self.stage_name}"
        if self.stage.precision == "fp16" and not torch.cuda.is_available():
            raise ValueError(f"{where}.precision fp16 needs a GPU; use bf16 or fp32")
        if self.stage.wandb and importlib.util.find_spec("wandb") is None:
            raise ValueError(f"{where}.wandb needs the package: pip install wandb (or set it to false)")

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

    def unwrapped(self, name: str = "generator") -> nn.Module:
        """The plain network, without what distributed training wraps around it."""
        return self.accelerator.unwrap_model(self._networks[name])

    def validation_network(self) -> nn.Module:
        """The generator that synthesis would use (the moving average where there is one)."""
        return self.ema.module if self.ema else self.unwrapped()

    @contextmanager
    def frozen(self, name: str):
        """The plain network with gradients passing through it, none kept for its own weights."""
        network = self.unwrapped(name)
        network.requires_grad_(False)
        try:
            yield network
        finally:
            network.requires_grad_(True)

    def update(self, name: str, loss: Tensor) -> None:
        """One backward pass and, at the end of an accumulation, one optimizer step of network `name`.

        A loss or gradient that is not finite skips the step; after 20 in a row the run stops with a ValueError.
        """
        optimizer = self.optimizers[name]
        with self._timed("backward"):
            self.accelerator.backward(loss)
        with self._timed("optimizer"):
            self._optimizer_step(name, optimizer)

    def _optimizer_step(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        if self._trial:
            optimizer.zero_grad()
            return
        if self.accelerator.sync_gradients:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            norm = float(self.accelerator.clip_grad_norm_(parameters, self.stage.grad_clip))
            self._step_log[f"gradient_norm/{name}"].append(norm)
            if math.isfinite(norm):
                self._skipped_in_row[name] = 0
            else:
                self._skip(name, norm)
                if self.accelerator.scaler is None:  # the scaler skips by itself, and lowers its scale
                    optimizer.zero_grad()
                    return
        optimizer.step()
        optimizer.zero_grad()

    def _skip(self, name: str, norm: float) -> None:
        self.skipped += 1
        self._skipped_in_row[name] += 1
        log.warning("step %d skipped: gradient norm %s of the %s (%d so far)", self.step, norm, name, self.skipped)
        if self._skipped_in_row[name] >= MAX_SKIPPED_STEPS:
            raise ValueError(
                f"the {name}'s gradients were not finite {MAX_SKIPPED_STEPS} times in a row, last at step {self.step}: "
                f"lower train.{self.stage_name}.learning_rate or grad_clip, or use precision fp32 or bf16; the last "
                "checkpoint is kept"
            )

    # --- the loop -----------------------------------------------------------------------------------------------

    def fit(
        self, batches: Callable[[int], Iterable], steps_per_epoch: int, longest_batch: dict,
        training_step: Callable[["Run", object], dict[str, Tensor]], validate: Callable[["Run"], dict[str, float]],
    ) -> None:
        """Trains to `max_steps`. `batches(n)` gives the endless stream of batches from the n-th on; `longest_batch`
        is tried first, so that memory that does not suffice is known at once.

        Saves on SIGTERM and Ctrl-C and returns; a second one ends the process at once. `validate` is called with the
        networks in eval mode and without gradients; its value "score" (lower is better), if it gives one, decides which
        checkpoint is kept as best.
        """
        previous = {number: signal.signal(number, self._request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._measure_memory(longest_batch, training_step)
            self._train(batches, steps_per_epoch, training_step, validate)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self.close()

    def _train(self, batches: Callable, steps_per_epoch: int, training_step: Callable, validate: Callable) -> None:
        stream = iter(batches(self.batches))
        bar = tqdm(total=self.max_steps, initial=self.step, unit="step", desc=self.stage_name, dynamic_ncols=True,
                   disable=not self.accelerator.is_main_process)
        try:
            if self.step == 0:
                self.validate(validate)
            started, started_step = time.perf_counter(), self.step
            self._clock = StepClock(self.device) if self._profile else None
            while self.step < self.max_steps and not self._stop:
                self._set_learning_rate(steps_per_epoch)
                self.train_step(stream, training_step)
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

    def train_step(self, stream: Iterator, training_step: Callable[["Run", object], dict[str, Tensor]]) -> None:
        """One step of the optimizers, on as many batches as are accumulated."""
        networks = list(self._networks.values())
        for network in networks:
            network.train()
        for _ in range(self.stage.gradient_accumulation):
            with self._timed("loading"):
                batch = next(stream)
            # what is not backward or optimizer in it
            with self.accelerator.accumulate(*networks), self._timed("forward"):
                for name, value in training_step(self, batch).items():
                    self._step_log[name].append(value.detach())
            self.batches += 1
        self.step += 1
        if self.ema:
            with self._timed("optimizer"):
                self.ema.update_parameters(self.unwrapped())

    def _saves_now(self, steps_per_epoch: int) -> bool:
        epochs = self.stage.save_epochs
        if epochs:
            return self.step % (epochs * max(1, steps_per_epoch // self.stage.gradient_accumulation)) == 0
        return self.step % self.stage.save_interval == 0

    def _timed(self, part: str) -> AbstractContextManager:
        return self._clock.part(part) if self._clock else nullcontext()

    def validate(self, validate: Callable[["Run"], dict[str, float]]) -> None:
        """Runs the stage's validation on the main process without touching the random state of training."""
        if not self.accelerator.is_main_process:
            return
        for network in self._networks.values():
            network.eval()
        state = random_state()
        with torch.no_grad():
            values = {name: float(value) for name, value in validate(self).items()}
        set_random_state(state)
        self.accelerator.log({f"validation/{name}": value for name, value in values.items()}, step=self.step)
        log.info("step %d validation: %s", self.step, ", ".join(f"{k} {v:.4g}" for k, v in values.items()))
        score = values.get("score", math.inf)
        if self.step and score < self.best:
            self.best = score
            self.save(best=True)

    def close(self) -> None:
        """Ends the logs and gives the folder free for another run."""
        self.accelerator.end_training()
        self._release()

    def _release(self) -> None:
        logging.getLogger().removeHandler(self._log_file)
        self._log_file.close()
        if self._lock:
            self._lock.release()

    def _measure_memory(self, batch: dict, training_step: Callable) -> None:
        """Logs what one step on the longest batch holds in memory; weights and random states stay as they are."""
        held: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            held[tensor.data_ptr()] = max(held.get(tensor.data_ptr(), 0), tensor.nbytes)
            return tensor

        state, step = random_state(), self.step
        buffers = [buffer for network in self._networks.values() for buffer in network.buffers()]
        before = [buffer.clone() for buffer in buffers]  # a codebook moves in a forward pass
        self._trial, self.step = True, self.max_steps  # the last step has all losses
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for network in self._networks.values():
            network.train()
        try:
            with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
                training_step(self, batch)
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"{self.stage_name}: one step on the longest clips does not fit into memory ({error}); lower "
                f"train.{self.stage_name}.batch_size (and raise gradient_accumulation), use precision fp16 or bf16, "
                "or lower data.max_seconds"
            ) from error
        set_random_state(state)
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
        self._trial, self.step = False, step
        if self.device.type == "cuda":
            moments = sum(8 * p.numel() for net in self._networks.values() for p in net.parameters() if p.requires_grad)
            gigabytes = (torch.cuda.max_memory_allocated() + moments) / 1e9
        else:
            weights = {p.data_ptr() for network in self._networks.values() for p in network.parameters()}
            gigabytes = self._state_gigabytes + sum(size for ptr, size in held.items() if ptr not in weights) / 1e9
        log.info("one step on the longest batch: about %.2f GB of memory in all", gigabytes)

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
        means = {name: float(torch.tensor(values).mean()) for name, values in self._step_log.items()}
        self._step_log.clear()
        bar.set_postfix({name: f"{value:.3g}" for name, value in means.items() if "/" not in name})
        means["learning_rate"] = self.optimizers["generator"].param_groups[0]["lr"]
        means["steps_per_second"] = rate
        self.accelerator.log({f"training/{name}": value for name, value in means.items()}, step=self.step)
        self._log_file.handle(logging.makeLogRecord({"msg": f"step {self.step}: " + ", ".join(
            f"{name} {value:.5g}" for name, value in means.items())}))

    @property
    def _writer(self):
        return self.accelerator.get_tracker("tensorboard", unwrap=True)

    def log_audio(self, name: str, wave: Tensor, sample_rate: int) -> None:
        """A clip (samples,) in TensorBoard."""
        self._writer.add_audio(name, wave.detach().cpu().float().clamp(-1, 1).unsqueeze(0), self.step, sample_rate)

    def log_figure(self, name: str, figure) -> None:
        """A matplotlib figure in TensorBoard."""
        self._writer.add_figure(name, figure, self.step)

    def _report(self) -> None:
        self._state_gigabytes = 0.0
        for name, network in self._networks.items():
            total = sum(p.numel() for p in network.parameters())
            trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
            self._state_gigabytes += state_gigabytes(network, ema=bool(self.ema) and name == "generator")
            log.info("%s %s: %.2f M parameters, %.2f M trained", self.stage_name, name, total / 1e6, trained / 1e6)
        log.info("weights, gradients and optimizer: %.2f GB on %s", self._state_gigabytes, self.device)
        log.info("%s from step %d to %d, %s, logs in %s", self.stage_name, self.step, self.max_steps,
                 self.stage.precision, self.log_folder)
        if self.scored_by != "loss":
            log.info("the best checkpoint is chosen by %s", self.scored_by)

    # --- checkpoints --------------------------------------------------------------------------------------------

    def save(self, best: bool = False) -> None:
        """Writes the pair of this step (or `G_best.pth` alone), and removes the oldest beyond `keep_last`."""
        if not self.accelerator.is_main_process:
            return
        content = {
            **self.metadata, "stage": self.stage_name, "step": self.step, "weights": self.unwrapped().state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "has_discriminator": "discriminator" in self._networks,
        }
        if best:
            write_checkpoint(content, self.folder / BEST_FILE)
            return
        scaler = self.accelerator.scaler
        content["training"] = {
            "optimizer": self.optimizers["generator"].state_dict(), "batches": self.batches, "best": self.best,
            "scored_by": self.scored_by, "scaler": scaler.state_dict() if scaler else None, "random": random_state(),
        }
        if content["has_discriminator"]:
            # D before G: a G file is the sign that its pair is whole
            write_checkpoint(
                {"stage": self.stage_name, "step": self.step, "weights": self.unwrapped("discriminator").state_dict(),
                 "training": {"optimizer": self.optimizers["discriminator"].state_dict()}},
                checkpoint_path(self.folder, "D", self.step),
            )
        write_checkpoint(content, checkpoint_path(self.folder, "G", self.step))
        self._saved_step = self.step
        for step in saved_steps(self.folder)[self.stage.keep_last:]:
            for network in ("G", "D"):
                checkpoint_path(self.folder, network, step).unlink(missing_ok=True)

    def _start_from(self, arguments: argparse.Namespace) -> None:
        """Loads the weights to go on with, or to start from, before the optimizers are made."""
        self._restored = None
        if arguments.resume == "auto":
            self._restored = newest_checkpoint(self.folder)
        elif arguments.resume == "none":
            if saved_steps(self.folder):
                raise ValueError(f"{self.folder}: holds checkpoints; resume them, move them away, or take another -m")
        else:
            path = Path(arguments.resume)
            generator = read_checkpoint(path)
            if "training" not in generator:
                raise ValueError(f"{path}: holds no state of training; resume a G_step file, or start from its weights "
                                 "with --weights-from")
            adversarial = generator.get("has_discriminator")
            self._restored = generator, read_checkpoint(path.with_name("D" + path.name[1:])) if adversarial else None
        if self._restored:
            generator, discriminator = self._restored
            source = self.folder if arguments.resume == "auto" else arguments.resume
            self._check_fits(generator, source, ["speakers", "languages", "text", "codec", "joint"])
            load_weights(self._networks["generator"], generator["weights"], source)
            if discriminator:
                load_weights(self._networks["discriminator"], discriminator["weights"], source)
        elif arguments.weights_from:
            path = Path(arguments.weights_from)
            checkpoint = read_stage(path, self.stage_name) if path.is_dir() else read_checkpoint(path)
            self._check_fits(checkpoint, arguments.weights_from, ["text", "codec"])
            weights = renamed_rows(network_weights(checkpoint), checkpoint, self.metadata)
            load_weights(self._networks["generator"], weights, arguments.weights_from)

    def _check_fits(self, checkpoint: dict, source: object, keys: list[str]) -> None:
        """ValueError if a checkpoint is another stage's, or differs from this run in its audio or in one of `keys`."""
        if "config" not in checkpoint:
            raise ValueError(f"{source}: holds discriminators; name the G file beside it")
        if checkpoint["stage"] != self.stage_name:
            raise ValueError(f"{source}: a checkpoint of stage {checkpoint['stage']}, this is {self.stage_name}")
        theirs, ours = ({"audio": content["config"]["audio"], **content} for content in (checkpoint, self.metadata))
        different = [key for key in ["audio", *keys] if theirs.get(key) != ours.get(key)]
        if different:
            raise ValueError(f"{source}: was trained with other {' and '.join(different)} than this run has; use the "
                             "config and the data that it was trained with, or train anew under another -m")

    def _restore_training_state(self) -> None:
        if not self._restored:
            return
        generator, discriminator = self._restored
        state = generator["training"]
        self.step, self.batches = generator["step"], state["batches"]
        if state.get("scored_by", "loss") == self.scored_by:
            self.best = state["best"]
        self.optimizers["generator"].load_state_dict(state["optimizer"])
        if discriminator:
            self.optimizers["discriminator"].load_state_dict(discriminator["training"]["optimizer"])
        if self.ema:
            self.ema.module.load_state_dict(generator["ema"] or generator["weights"])
            self.ema.n_averaged.fill_(self.step)
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        set_random_state(state["random"])
        self._restored = None

    def _acquire_lock(self) -> FileLock:
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(f"{self.folder}: another run is training here; wait for it, or take another -m") from error
        return lock
