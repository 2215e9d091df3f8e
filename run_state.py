"""What a checkpoint of a training run holds and a resumed run goes on with: networks, optimizers, moving average,
counters, curves, random states.
"""

import argparse
import copy
import logging
import math
from collections import defaultdict
from pathlib import Path

import torch
from accelerate import Accelerator
from filelock import FileLock, Timeout
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from checkpoints import (
    BEST_FILE,
    checkpoint_path,
    load_weights,
    network_weights,
    newest_checkpoint,
    read_checkpoint,
    remove_unfinished,
    saved_steps,
    set_aside_after,
    write_checkpoint,
)
from config import StageConfig
from fine_tuning import renamed_rows
from guards import SkippedSteps
from optimization import moving_average
from processes import of_all
from random_state import random_state, set_random_state
from sharding import load_whole, load_whole_optimizer, shard, whole
from voice_folder import read_stage

log = logging.getLogger(__name__)


def lock_folder(folder: Path) -> FileLock:
    """The lock of a run on its folder of checkpoints; ValueError if another run has it."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"{folder}: another run is training here; wait for it, or take another -m") from error
    return lock


class RunState:
    """Networks and optimizers of a run and how far it has come, saved to and resumed from a folder."""

    def __init__(
        self, *, stage_name: str, stage: StageConfig, arguments: argparse.Namespace, networks: dict[str, nn.Module],
        metadata: dict, scored_by: str, folder: Path, accelerator: Accelerator, blocks: str | None = None,
    ):
        """Begins anew or goes on, as `arguments.resume` and `arguments.weights_from` say. `blocks`: the generator is
        split between processes, by the blocks in its ModuleList of that name."""
        self.stage_name, self.stage, self.metadata, self.scored_by = stage_name, stage, metadata, scored_by
        self.folder, self.accelerator, self._networks = folder, accelerator, networks
        self.step = self.batches = 0
        self.best = math.inf
        self.skipped = SkippedSteps(stage_name, stage.max_skipped)
        self.parts = 1
        """In how many a batch is taken, so that memory suffices."""
        self.values: dict[str, list] = defaultdict(list)
        """Losses and gradient norms of every step since the last that was logged."""
        restored = self._start_from(arguments)
        if accelerator.is_main_process and restored:
            set_aside_after(folder, restored[0]["step"])
        self._plain = self.ema = None
        if blocks:
            self._split(blocks)
        self.optimizers = {
            name: torch.optim.AdamW(
                [p for p in network.parameters() if p.requires_grad],
                stage.learning_rate, stage.betas, weight_decay=stage.weight_decay,
            )
            for name, network in self._networks.items()
        }
        for name in self._networks:
            if blocks:
                self.optimizers[name] = self.accelerator.prepare(self.optimizers[name])
                continue
            prepared = self.accelerator.prepare(self._networks[name], self.optimizers[name])
            self._networks[name], self.optimizers[name] = prepared
            if isinstance(prepared[0], DistributedDataParallel):
                # all buffers are constants, or kept alike by their own layers
                prepared[0].forward_sync_buffers = False
        if stage.ema_decay and not blocks:
            self.ema = self._average_of(self.unwrapped())
        if restored:
            self._restore_training_state(*restored)
        self._check_same_start(arguments)
        self._saved_step = self.step

    def unwrapped(self, name: str = "generator") -> nn.Module:
        """The plain network, without what distributed training wraps around it."""
        return self.accelerator.unwrap_model(self._networks[name])

    def whole_weights(self) -> tuple[dict, dict | None]:
        """The generator's weights and their moving average, gathered where they are split. For all processes."""
        average = whole(self.ema.module.state_dict()) if self.ema else None
        return whole(self.unwrapped().state_dict()), average

    def save(self, best: bool = False) -> None:
        """Writes the pair of this step (or `G_best.pth` alone), and removes the oldest beyond `keep_last`: the main
        process does, with what it needs of the others."""
        weights, average = self.whole_weights()
        optimizer = None if best else whole(self.optimizers["generator"].state_dict())
        randoms = [] if best else of_all(random_state())
        values = of_all({name: [float(value) for value in values] for name, values in self.values.items()})
        if not self.accelerator.is_main_process:
            self._saved_step = self._saved_step if best else self.step
            return
        content = {
            **self.metadata, "stage": self.stage_name, "step": self.step, "weights": weights, "ema": average,
            "has_discriminator": "discriminator" in self._networks,
        }
        if best:
            write_checkpoint(content, self.folder / BEST_FILE)
            return
        scaler = self.accelerator.scaler
        content["training"] = {
            "optimizer": optimizer, "batches": self.batches, "best": self.best, "scored_by": self.scored_by,
            "scaler": scaler.state_dict() if scaler else None, "random": randoms[0], "random_of_others": randoms[1:],
            "skipped": self.skipped.state(), "parts": self.parts,
            "values": {name: [sum(step) / len(values) for step in zip(*(own[name] for own in values), strict=True)]
                       for name in values[0]},
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

    def _split(self, blocks: str) -> None:
        """Splits the generator and its moving average between processes; a whole one is kept for validation."""
        network = self._networks["generator"]
        self._plain = copy.deepcopy(network).requires_grad_(False).eval()
        parts = [network]
        if self.stage.ema_decay:
            self.ema = self._average_of(network)
            parts.append(self.ema.module)
        for part in parts:
            shard(part, list(part.get_submodule(blocks)), self.accelerator.device, self.stage.precision)

    def _average_of(self, network: nn.Module) -> torch.optim.swa_utils.AveragedModel:
        return torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=moving_average(self.stage.ema_decay)).eval()

    def _check_same_start(self, arguments: argparse.Namespace) -> None:
        steps = of_all(self.step)
        if len(set(steps)) > 1:
            raise ValueError(f"{self.folder}: the processes find steps {steps} there: put it where all machines see "
                             f"the same files, or copy it to all (--resume {arguments.resume})")

    def _start_from(self, arguments: argparse.Namespace) -> tuple[dict, dict | None] | None:
        """Loads the weights to go on with, or to start from, before the optimizers are made; gives the (G, D) pair
        that is resumed."""
        restored = None
        if self.accelerator.is_main_process:
            remove_unfinished(self.folder)
        if arguments.resume == "auto":
            restored = newest_checkpoint(self.folder)
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
            restored = generator, read_checkpoint(path.with_name("D" + path.name[1:])) if adversarial else None
        if restored:
            generator, discriminator = restored
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
        return restored

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

    def _restore_training_state(self, generator: dict, discriminator: dict | None) -> None:
        state = generator["training"]
        self.step, self.batches = generator["step"], state["batches"]
        if state.get("scored_by", "loss") == self.scored_by:
            self.best = state["best"]
        load_whole_optimizer(self.optimizers["generator"], state["optimizer"])
        if discriminator:
            self.optimizers["discriminator"].load_state_dict(discriminator["training"]["optimizer"])
        if self.ema:
            load_whole(self.ema.module, generator["ema"] or generator["weights"])
            self.ema.n_averaged.fill_(self.step)
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if "skipped" in state:  # not in the checkpoints of earlier versions
            self.skipped.load_state(state["skipped"])
            self.parts = state["parts"]
            self.values.update(state["values"])
        own = [state["random"], *state.get("random_of_others", [])][self.accelerator.process_index :]
        if own:  # else this process is one more than there were
            set_random_state(own[0])
