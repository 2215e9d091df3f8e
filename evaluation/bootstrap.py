"""Means with their confidence intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over utterances."""

    mean: float
    low: float | None
    """Bounds of the confidence interval; None for a single utterance."""
    high: float | None
    n: int
    """Utterances that have a value."""


def estimate(values: Sequence[float], weights: Sequence[float] | None = None, seed: int = 0) -> Estimate:
    """The weighted mean of values and its 95 % interval, by the percentile bootstrap over utterances (Efron 1979).

    An error rate is the mean of the utterances' rates, weighted with the length of their references. ValueError for no
    value, or weights that sum to nothing.
    """
    values = np.asarray(values, dtype=float)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, dtype=float)
    if not len(values) or not weights.sum() > 0:
        raise ValueError("no values to take the mean of")

    def mean(x, w, axis=-1):
        return (x * w).sum(axis) / w.sum(axis)

    if len(values) == 1:
        return Estimate(float(values[0]), None, None, 1)
    interval = stats.bootstrap(
        (values, weights), mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, paired=True, method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(float(mean(values, weights)), float(interval.low), float(interval.high), len(values))
