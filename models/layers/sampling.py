"""Drawing one code from logits: temperature, top-k, top-p, and repetition-aware sampling."""

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_TEMPERATURE = 10.0
MAX_WINDOW = 10_000


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn. Temperature 0 is greedy."""

    temperature: float = 0.8
    top_k: int = 50
    """The k most likely codes alone; 0 is off."""
    top_p: float = 1.0
    """The smallest set of codes with this much probability."""
    repetition_window: int = 10
    """A drawn code that fills more than `repetition_threshold` of the last so many is drawn again from the whole
    distribution (VALL-E 2, arXiv 2406.05370); 0 is off."""
    repetition_threshold: float = 0.5

    def __post_init__(self):
        if not 0 <= self.temperature <= MAX_TEMPERATURE:
            raise ValueError(f"temperature {self.temperature}: must be 0 (greedy) to {MAX_TEMPERATURE:g}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p}: must lie in (0, 1]")
        if self.top_k < 0 or not 0 <= self.repetition_window <= MAX_WINDOW:
            raise ValueError(f"top_k and repetition_window must be 0 (off) or more, the window at most {MAX_WINDOW}")


def filtered_probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities (..., V) of the logits after temperature, top-k and top-p."""
    logits = logits.float() / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest = logits.topk(sampling.top_k).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    probabilities = logits.softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(-1, descending=True)
        # a code is kept if the more likely ones before it hold less than top_p
        dropped = ordered.cumsum(-1) - ordered >= sampling.top_p
        probabilities = probabilities.masked_fill(dropped.scatter(-1, order, dropped), 0)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities


def sample(logits: Tensor, sampling: Sampling, recent: Tensor, generator: torch.Generator | None) -> Tensor:
    """Codes (...) drawn from logits (..., V); `recent` (..., W) holds the last codes of the same streams."""
    uniform = torch.rand(*logits.shape[:-1], 2, device=logits.device, generator=generator)
    return choose(logits, sampling, recent, uniform)


def choose(logits: Tensor, sampling: Sampling, recent: Tensor, uniform: Tensor) -> Tensor:
    """`sample` with the numbers (..., 2) in [0, 1) that decide it: the first the draw, the second a repeated one."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    codes = _inverse(filtered_probabilities(logits, sampling), uniform[..., 0])
    if sampling.repetition_window and recent.shape[-1]:
        window = recent[..., -sampling.repetition_window :]
        share = (window == codes.unsqueeze(-1)).sum(-1) / sampling.repetition_window
        redrawn = _inverse((logits.float() / sampling.temperature).softmax(-1), uniform[..., 1])
        codes = torch.where(share > sampling.repetition_threshold, redrawn, codes)
    return codes


def _inverse(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The codes (...) at which the cumulated probabilities (..., V) first exceed `uniform` (...)."""
    cumulated = probabilities.cumsum(-1)
    total = cumulated[..., -1:]
    # a product rounded up to the total would be past the last code that has a probability
    target = torch.minimum(uniform.unsqueeze(-1) * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulated, target, right=True).squeeze(-1)
