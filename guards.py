"""What a training run does about a step that fails: losses and gradients that are not finite, too little memory."""

import logging
import math
from collections import defaultdict

import torch
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from config import StageConfig

log = logging.getLogger(__name__)

NAMED_CLIPS = 8  # in one line


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of torch says that memory does not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def memory_advice(stage_name: str, stage: StageConfig) -> str:
    """Which settings of a stage to change so that a step takes less memory."""
    where = f"train.{stage_name}"
    lower = f"lower {where}.batch_size (and raise gradient_accumulation by as much, or set {where}.halve_batches)"
    if hasattr(stage, "segment_frames"):
        lower += f", lower {where}.segment_frames"
    if getattr(stage, "packing", False):
        lower += ", lower llm.max_positions"
    if stage_name in ("llm", "aligned"):
        lower += f", set {stage_name}.gradient_checkpointing"
    precise = f", set {where}.precision to bf16 or fp16" if stage.precision == "fp32" else ""
    return f"{lower}{precise}, or lower data.max_seconds"


def named(clips: list[str]) -> str:
    """The first few of the clips, for a log."""
    more = len(clips) - NAMED_CLIPS
    return ", ".join(clips[:NAMED_CLIPS]) + (f" and {more} more" if more > 0 else "")


class SkippedSteps:
    """Counts the steps whose losses or gradients are not finite, and ends a run of them."""

    def __init__(self, stage_name: str, most_in_row: int):
        self.stage_name, self.most_in_row = stage_name, most_in_row
        self.total = 0
        self.in_row: dict[str, int] = defaultdict(int)
        """Of each network."""
        self._losses: dict[str, list[tuple[Tensor, list[str]]]] = defaultdict(list)

    def add_loss(self, network: str, loss: Tensor, clips: list[str]) -> None:
        """Remembers a loss of a network's next step, and the clips that it is of."""
        self._losses[network].append((loss.detach(), clips))

    def forget(self) -> None:
        """A step is tried anew."""
        self._losses.clear()

    def is_finite(self, network: str, step: int, norm: float, accelerator: Accelerator) -> bool:
        """Whether a network's step can be taken, in all processes, by its gradient `norm` and the losses since its last
        step; if not, the step is counted and its clips are named. ValueError after too many in a row."""
        losses = self._losses.pop(network)
        finite = torch.stack([loss for loss, _ in losses]).isfinite()  # (batches,)
        all_finite = finite.all() & math.isfinite(norm)
        if accelerator.num_processes > 1:
            all_finite = accelerator.reduce(all_finite.float(), "sum") == accelerator.num_processes
        if all_finite:
            self.in_row[network] = 0
            return True
        self.total += 1
        self.in_row[network] += 1
        # where a loss tells, it tells which clips
        tells = not finite.all()
        clips = [name for (_, names), good in zip(losses, finite.tolist(), strict=True) if not (tells and good)
                 for name in names]
        log.warning("step %d skipped: loss %s, gradient norm %s of the %s (%d so far); clips: %s", step,
                    ", ".join(f"{loss:.4g}" for loss, _ in losses), norm, network, self.total, named(clips))
        if self.in_row[network] >= self.most_in_row:
            raise ValueError(
                f"the {network}'s gradients were not finite {self.most_in_row} times in a row, last at step {step}, "
                f"clips: {named(clips)}; look at these clips, lower train.{self.stage_name}.learning_rate or "
                "grad_clip, or use precision fp32 or bf16; the last checkpoint is kept"
            )
        return False

    def state(self) -> dict:
        """For a checkpoint."""
        return {"total": self.total, "in_row": dict(self.in_row)}

    def load_state(self, state: dict) -> None:
        """Goes on from what `state` gave."""
        self.total = state["total"]
        self.in_row.update(state["in_row"])
