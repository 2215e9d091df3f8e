"""Speech systems, one module each; which one a model is, its stages tell."""

from pathlib import Path

import torch

from synthesis.aligned_system import AlignedSystem
from synthesis.speech import Part, Speech, System
from synthesis.token_system import TokenSystem

__all__ = ["Part", "Speech", "System", "is_trained", "load_system"]

SYSTEMS: list[type] = [AlignedSystem, TokenSystem]
"""Each has `is_trained(folder)`; the first one that is trained speaks, the last one says what is missing."""


def is_trained(folder: Path) -> bool:
    """Whether a model's folder has all stages that some system needs."""
    return any(system.is_trained(folder) for system in SYSTEMS)


def load_system(folder: Path, device: torch.device, precision: str | None = None) -> System:
    """The speech system that a model's folder holds, of checkpoints or an exported voice. `precision` of the language
    model's matrices: "fp32", "int8", or None for what the folder is made for.

    ValueError if no system is complete, if its stages do not fit each other, saying which, or if this one does not
    speak in this precision on this device.
    """
    system = next((system for system in SYSTEMS if system.is_trained(folder)), SYSTEMS[-1])
    return system(folder, device, precision)
