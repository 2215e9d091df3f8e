"""Where speech is in a recording, and how a long recording is cut at its pauses."""

from itertools import pairwise

import numpy as np

FRAME_SECONDS = 0.025
HOP_SECONDS = 0.01
SILENCE_DB = -60.0
"""A recording that never rises over this (dB re full scale, 25 ms RMS) is silent."""
PAUSE_SECONDS = 0.2
"""A shorter gap is a stop consonant, not a pause."""
CLICK_SECONDS = 0.06
"""A shorter burst between two pauses is a click, not speech."""
MARGIN_SECONDS = 0.08
"""What is left before and after speech."""

Span = tuple[float, float]


def _frame(sample_rate: int) -> int:
    return round(FRAME_SECONDS * sample_rate)


def _hop(sample_rate: int) -> int:
    return round(HOP_SECONDS * sample_rate)


def frame_levels(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """RMS level in dB re full scale of every 25 ms frame, one each `_hop(sample_rate)`: (samples,) -> (frames,)."""
    frame = min(_frame(sample_rate), len(samples))
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    mean = (energy[frame:] - energy[:-frame])[:: _hop(sample_rate)] / frame
    return 10 * np.log10(np.maximum(mean, 1e-12))


def find_speech(samples: np.ndarray, sample_rate: int) -> list[Span]:
    """(start, end) in seconds of every stretch of speech between pauses; empty if the recording is silent.

    A frame is speech above a threshold that lies 40 dB under the recording's loud frames (95th percentile), higher in
    noise: 6 dB over the 5th percentile, but never less than 20 dB under the loud frames.
    """
    levels = frame_levels(samples, sample_rate)
    loud, quiet = np.percentile(levels, [95, 5])
    # short speech in much silence moves the percentile, not the maximum
    loud = max(loud, levels.max() - 12)
    if levels.max() < SILENCE_DB:
        return []
    threshold = max(min(max(quiet + 6, loud - 40), loud - 20), SILENCE_DB)
    edges = np.flatnonzero(np.diff(levels > threshold, prepend=False, append=False)).reshape(-1, 2)
    spans: list[Span] = []
    for first, last in edges:
        # a frame's level belongs to its middle; the hop is a whole number of samples, not exactly 10 ms
        start, end = ((index * _hop(sample_rate) + _frame(sample_rate) / 2) / sample_rate
                      for index in (first, last - 1))
        if spans and start - spans[-1][1] < PAUSE_SECONDS:
            start = spans.pop()[0]
        spans.append((start, end))
    speech = [(start, end) for start, end in spans if end - start >= CLICK_SECONDS]
    return speech or spans


def with_margins(spans: list[Span], speech: list[Span], seconds: float) -> list[Span]:
    """Each span widened by the margin, but at most to the middle of the pause beside it or the recording's end."""
    widened = []
    for start, end in spans:
        before = max((e for _, e in speech if e < start), default=-start)
        after = min((s for s, _ in speech if s > end), default=2 * seconds - end)
        widened.append((
            max(start - MARGIN_SECONDS, (before + start) / 2, 0.0),
            min(end + MARGIN_SECONDS, (end + after) / 2, seconds),
        ))
    return widened


def split_at_pauses(speech: list[Span], min_seconds: float, max_seconds: float) -> tuple[list[Span], list[Span]]:
    """Joins stretches of speech into pieces of min_seconds to max_seconds; returns (pieces, left over).

    The best choice, by dynamic programming over the stretches: a piece counts the speech in it, less the squared
    length of every pause inside (dead air), less what its two cuts lack of a pause of one second.
    """
    gaps = [1.0, *(b[0] - a[1] for a, b in pairwise(speech)), 1.0]
    cut_cost = [max(1.0 - gap, 0.0) / 2 for gap in gaps]
    best = [0.0]
    choice: list[int | None] = [None]  # the first stretch of the piece that ends here; None leaves this one out
    for last, (_, end) in enumerate(speech):
        score, first_of_best = best[last], None
        inside = 0.0
        for first in range(last, -1, -1):
            start = speech[first][0]
            if end - start + 2 * MARGIN_SECONDS > max_seconds:
                break
            inside += speech[first][1] - start - (gaps[first + 1] ** 2 if first < last else 0.0)
            candidate = best[first] + inside - cut_cost[first] - cut_cost[last + 1]
            if end - start >= min_seconds and candidate > score:
                score, first_of_best = candidate, first
        best.append(score)
        choice.append(first_of_best)
    pieces, left_over = [], []
    last = len(speech)
    while last > 0:
        first = choice[last]
        if first is None:
            last -= 1
            left_over.append(speech[last])
        else:
            pieces.append((speech[first][0], speech[last - 1][1]))
            last = first
    return pieces[::-1], left_over[::-1]
