"""Draws codes from logits as `models.layers.sampling` does, whose docstrings say what each setting means."""

from dataclasses import dataclass

import numpy as np

MAX_TEMPERATURE = 10.0
MAX_WINDOW = 10_000


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn; the defaults are in `onnx.json`. Temperature 0 is greedy."""

    temperature: float
    top_k: int
    top_p: float
    repetition_window: int
    repetition_threshold: float

    def __post_init__(self):
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p}: must lie in (0, 1]")
        if not (0 <= self.temperature <= MAX_TEMPERATURE and self.top_k >= 0 and
                0 <= self.repetition_window <= MAX_WINDOW):
            raise ValueError("temperature, top_k and repetition_window must be 0 (off) or more, the temperature at "
                             f"most {MAX_TEMPERATURE:g} and the window {MAX_WINDOW}")


def choose(logits: np.ndarray, sampling: Sampling, recent: np.ndarray, uniform: np.ndarray | None) -> np.ndarray:
    """Codes (K,) from logits (K, V), the last codes (K, W) and the numbers (K, 2) that decide, if it is not greedy."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    logits = logits / np.float32(sampling.temperature)
    codes = _inverse(_filtered(logits, sampling), uniform[:, 0])
    if sampling.repetition_window:
        share = (recent == codes[:, None]).sum(-1) / sampling.repetition_window
        codes = np.where(share > sampling.repetition_threshold, _inverse(_softmax(logits), uniform[:, 1]), codes)
    return codes


def _filtered(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest = np.partition(logits, -sampling.top_k)[:, -sampling.top_k, None]
        logits = np.where(logits < smallest, -np.inf, logits)
    probabilities = _softmax(logits)
    if sampling.top_p < 1:
        order = np.argsort(-probabilities, axis=-1, kind="stable")
        ordered = np.take_along_axis(probabilities, order, -1)
        dropped = _cumulated(ordered) - ordered >= sampling.top_p
        np.put_along_axis(probabilities, order, np.where(dropped, 0, ordered), -1)
        probabilities /= probabilities.sum(-1, keepdims=True)
    return probabilities


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _cumulated(probabilities: np.ndarray) -> np.ndarray:
    return probabilities.cumsum(-1, dtype=np.float64).astype(np.float32)


def _inverse(probabilities: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    cumulated = _cumulated(probabilities)
    total = cumulated[:, -1]
    target = np.minimum(uniform * total, np.nextafter(total, np.float32(0)))
    return (cumulated <= target[:, None]).sum(-1)
