"""Learning-rate schedules and the moving average of the weights."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from config import StageConfig


def learning_rate_at(stage: StageConfig, step: int, steps_per_epoch: int) -> float:
    """Learning rate of optimizer step `step` (from 0): linear warm-up, then the stage's schedule."""
    if step < stage.warmup_steps:
        return stage.learning_rate * (step + 1) / stage.warmup_steps
    progress = min(1.0, (step - stage.warmup_steps) / max(1, stage.max_steps - stage.warmup_steps))
    scale = {
        "constant": 1.0,
        "exponential": stage.gamma ** (step // steps_per_epoch),
        "cosine": 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)),
        "wsd": min(1.0, (1 - progress) / 0.2),
    }[stage.schedule]
    return stage.learning_rate * scale


def moving_average(decay: float) -> Callable:
    """Update for AveragedModel; the decay grows from 0.1 to its value, so that the start is soon forgotten."""

    def update(averaged: list[Tensor], current: list[Tensor], n_averaged: Tensor | int) -> None:
        weight = 1 - min(decay, (1 + float(n_averaged)) / (10 + float(n_averaged)))
        torch._foreach_lerp_(averaged, current, weight)

    return update
