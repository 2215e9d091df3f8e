"""One step of training: backward passes, accumulation, clipping, the optimizers; what is skipped and what is halved."""

import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn

from batch_parts import clips_in, split_batch
from guards import is_out_of_memory, memory_advice, named
from processes import add_up_
from random_state import random_state, set_random_state
from run_state import RunState
from sharding import whole
from step_clock import StepClock
from step_memory import SavedTensors, step_gigabytes

log = logging.getLogger(__name__)


class RunSteps(RunState):
    """The steps of a run on its networks."""

    def __init__(self, *, max_steps: int, **state):
        """`max_steps`: the last step; `state`: what `RunState` takes."""
        self.max_steps, self._trial = max_steps, False
        self._stepped: set[str] = set()
        """Networks that have taken the present step."""
        self._buffers: dict[str, list[Tensor]] = {}
        """What the networks' moving buffers were before it."""
        self._clips, self._share = [], 1.0
        self._clock: StepClock | None = None
        super().__init__(**state)

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

        A loss or gradient that is not finite skips the step; after `max_skipped` in a row the run stops with a
        ValueError.
        """
        if name in self._stepped:  # before memory ran out in the same step
            return
        self.skipped.add_loss(name, loss, self._clips)
        with self._timed("backward"):
            self.accelerator.backward(loss if self._share == 1 else loss * self._share)
        with self._timed("optimizer"):
            self._optimizer_step(name, self.optimizers[name])

    def _optimizer_step(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        if self._trial:
            optimizer.zero_grad()
            return
        if not self.accelerator.sync_gradients:
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = float(whole(self.accelerator.clip_grad_norm_(parameters, self.stage.grad_clip)))
        self.values[f"gradient_norm/{name}"].append(norm)
        finite = self.skipped.is_finite(name, self.step, norm, self.accelerator)
        if not finite:
            optimizer.zero_grad()
            self._restore_buffers(name)
        if finite or self.accelerator.scaler:  # a scaler skips by itself, and must be told to lower its scale
            optimizer.step()
        optimizer.zero_grad()
        self._stepped.add(name)

    def train_step(
        self, stream: Iterator, training_step: Callable[["RunSteps", object], dict[str, Tensor]],
        weigh: Callable[[dict], float] = clips_in,
    ) -> None:
        """One step of the optimizers, on as many batches as are accumulated."""
        for network in self._networks.values():
            network.train()
        with self._timed("loading"):
            batches = [next(stream) for _ in range(self.stage.gradient_accumulation)]
        self._stepped.clear()
        self._buffers = {name: [b.clone() for b in moving_buffers(net)] for name, net in self._networks.items()}
        self._with_enough_memory(lambda: self._train_on(batches, training_step, weigh), batches)
        self.batches += len(batches)
        self.step += 1
        if self.ema:
            with self._timed("optimizer"):
                self.ema.update_parameters(self.unwrapped())

    def _train_on(self, batches: list[dict], training_step: Callable, weigh: Callable) -> None:
        networks, losses = self._networks.values(), defaultdict(list)
        parts = [[(batch, 1.0)] if self.parts == 1 else split_batch(batch, self.parts, weigh) for batch in batches]
        # counted from here, since a step that is tried anew has other parts
        self.accelerator.step, self.accelerator.gradient_accumulation_steps = 0, sum(map(len, parts))
        weights = [share * weight for of_batch, weight in zip(parts, self._weights(batches, weigh), strict=True)
                   for _, share in of_batch]
        for (part, _), weight in zip(itertools.chain.from_iterable(parts), weights, strict=True):
            self._clips = part.get("name", [])
            self._share = weight * self.accelerator.gradient_accumulation_steps / len(batches)
            # what is not backward or optimizer in it
            with self.accelerator.accumulate(*networks), self._timed("forward"):
                for name, value in training_step(self, part).items():
                    losses[name].append(value.detach() * self._share if self._share != 1 else value.detach())
        for name, values in losses.items():
            self.values[name] += values

    def _weights(self, batches: list[dict], weigh: Callable) -> list[float]:
        """How much each of the accumulated batches counts (1 on average), as if all processes' were one batch."""
        if len(batches) == 1:
            return [1.0]
        totals = torch.tensor([float(weigh(batch)) for batch in batches], device=self.device)
        add_up_(totals)
        return (totals / totals.mean()).tolist()

    def _with_enough_memory(self, attempt: Callable[[], None], batches: list[dict]) -> None:
        """Calls `attempt`, with batches in ever more parts as long as memory does not suffice and the stage allows."""
        state = random_state() if self.stage.halve_batches else None
        while True:
            try:
                attempt()
                return
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).splitlines()[0]
            # what the failed pass held is free from here on
            most = max(map(clips_in, batches))
            what = "one step on the longest clips" if self._trial else f"step {self.step}"
            if not self.stage.halve_batches or self.parts >= most:
                clips = [name for batch in batches for name in batch.get("name", [])]
                raise ValueError(
                    f"{self.stage_name}: memory does not suffice for {what}: {named(clips)} ({reason}); "
                    + memory_advice(self.stage_name, self.stage)
                )
            self.parts = min(2 * self.parts, most)
            log.warning("%s: memory does not suffice (%s); every batch is taken in %d parts from now on", what, reason,
                        self.parts)
            self.skipped.forget()
            for name, optimizer in self.optimizers.items():
                optimizer.optimizer.zero_grad()  # the plain one's: the other keeps gradients amid an accumulation
                if name not in self._stepped:
                    self._restore_buffers(name)
            set_random_state(state)
            clear_device_cache(garbage_collection=True)

    def _restore_buffers(self, name: str) -> None:
        """Puts back what a network's buffers were before this step, as codebooks move in a forward pass."""
        with torch.no_grad():
            for buffer, before in zip(moving_buffers(self._networks[name]), self._buffers[name], strict=True):
                buffer.copy_(before)

    def _timed(self, part: str) -> AbstractContextManager:
        return self._clock.part(part) if self._clock else nullcontext()

    def measure_memory(self, batch: dict, training_step: Callable) -> None:
        """Logs what one step on the longest batch holds in memory."""
        held = SavedTensors()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

        def attempt() -> None:
            with held.hooks():
                for part, _ in split_batch(batch, self.parts)[-1:] if self.parts > 1 else [(batch, 1.0)]:
                    training_step(self, part)

        with self._trial_step():
            self._with_enough_memory(attempt, [batch])
        log.info("one step on the longest batch: about %.2f GB of memory in all",
                 step_gigabytes(self._networks.values(), bool(self.ema), held, self.device))

    @contextmanager
    def _trial_step(self) -> Iterator[None]:
        """A step in it leaves weights, buffers and random states as they are."""
        state, step = random_state(), self.step
        self._buffers = {name: [b.clone() for b in moving_buffers(net)] for name, net in self._networks.items()}
        for network in self._networks.values():
            network.train()
        # accelerate's state outlives a run that failed amid an accumulation
        self.accelerator.sync_gradients = True
        self._trial, self.step = True, self.max_steps  # the last step has all losses
        yield
        set_random_state(state)
        for name in self._networks:
            self._restore_buffers(name)
        self.skipped.forget()
        self._trial, self.step = False, step


def moving_buffers(network: nn.Module) -> list[Tensor]:
    """The buffers that are saved, and thus no constants: what training moves beside the weights."""
    return [buffer for module in network.modules() for name, buffer in module.named_buffers(recurse=False)
            if name not in module._non_persistent_buffers_set]
