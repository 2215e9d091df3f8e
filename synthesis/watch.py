"""A sign that speech went wrong: silence where no pause is so long. (Another one: `decoding.repetition`.)"""

from itertools import pairwise

from torch import Tensor

from preprocessing.speech import find_speech

SILENT_SECONDS = 1.5
"""A sentence has no longer pause."""


def longest_silence(samples: Tensor, sample_rate: int) -> float:
    """Seconds of the longest stretch of (samples,) without speech, ends included."""
    seconds = len(samples) / sample_rate
    speech = find_speech(samples.numpy(), sample_rate)
    return max(after - before for (_, before), (after, _) in pairwise([(0.0, 0.0), *speech, (seconds, seconds)]))
