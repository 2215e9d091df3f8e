"""`models.layers.sampling.choose` and the delay pattern for a step on a CPU core, compiled by numba: what takes PyTorch
fifty small operations is a loop over a few thousand numbers."""

import numpy as np
from numba import njit

from decoding.compiled import OPTIONS
from decoding.kernel import exponential

UNKNOWN = -1
"""How many frames a text has that has not ended yet."""


@njit(**OPTIONS)
def likelihoods(scores, temperature, least, weights):
    """What each code's probability is to be divided by their sum for, into `weights` (V,): of those whose score is
    `least` at least; 0 for the others."""
    highest = scores.max()
    for i in range(len(scores)):
        weights[i] = 0
        if scores[i] >= least and scores[i] > -np.inf:
            weights[i] = exponential((scores[i] - highest) / temperature)


@njit(**OPTIONS)
def keep_most_likely(weights, share):
    """Drops all but the smallest set of codes with this share of the weights."""
    order, total, before = np.argsort(-weights), 0.0, 0.0
    for weight in weights:
        total += weight
    for i in order:
        weight = weights[i]
        if before >= share * total:
            weights[i] = 0
        before += weight


@njit(**OPTIONS)
def inverse(weights, uniform):
    """The code at which the cumulated weights first exceed `uniform` of their sum."""
    total, cumulated, code = 0.0, 0.0, 0
    for weight in weights:
        total += weight
    for i in range(len(weights)):
        if weights[i] > 0:
            code = i
            cumulated += weights[i]
            if cumulated > uniform * total:
                break
    return code


@njit(**OPTIONS)
def choose(scores, sampling, recent, uniform, step, weights):
    """One code from scores (V,), as `Sampling` says, by the numbers of this step in `uniform` (S, 2); greedy, for which
    there need be none, where the temperature is 0."""
    temperature, top_k, top_p, threshold = sampling
    if temperature == 0:
        return np.argmax(scores)
    numbers, least = uniform[min(step, len(uniform) - 1)], np.float32(-np.inf)
    if 0 < top_k < len(scores):
        least = np.partition(scores, len(scores) - top_k)[len(scores) - top_k]
    likelihoods(scores, temperature, least, weights)
    if top_p < 1:
        keep_most_likely(weights, top_p)
    code, count = inverse(weights, numbers[0]), 0
    for past in recent:
        count += past == code
    if len(recent) > 0 and count > threshold * len(recent):
        likelihoods(scores, temperature, np.float32(-np.inf), weights)
        code = inverse(weights, numbers[1])
    return code


@njit(**OPTIONS)
def draw(sampling, steps, bounds, frames, done, late, recent, uniform, codes, logits):
    """`Drawing` for the rows of `logits` (A, K x V); the other arrays are those of `Rows`.

    `sampling`: temperature, top_k, top_p and repetition_threshold.
    """
    K = codes.shape[1]
    V = logits.shape[1] // K
    begin, end, pad = V - 2, V - 1, V
    scores, weights = np.empty(V, np.float32), np.empty(V, np.float32)
    for row in range(logits.shape[0]):
        step = steps[row]
        unknown = frames[row] == UNKNOWN
        for k in range(K):
            scores[:] = logits[row, k * V : (k + 1) * V]
            scores[begin] = -np.inf
            if k > 0 or step == 0:  # speech has at least one frame
                scores[end] = -np.inf
            code = choose(scores, sampling, recent[row, k], uniform[row, :, k], step, weights)
            if k == 0 and unknown:
                if bounds[row] <= step:
                    code = end
                if code == end:
                    frames[row] = step
            # what the training sequence holds in these places
            time = step - k
            if time < 0:
                code = late[row, k, min(step, late.shape[2] - 1)]
            elif frames[row] != UNKNOWN and time >= frames[row]:
                code = end if k == 0 and time == frames[row] else pad
            codes[row, k, min(step, codes.shape[2] - 1)] = code
            for i in range(recent.shape[2] - 1):
                recent[row, k, i] = recent[row, k, i + 1]
            if recent.shape[2] > 0:
                recent[row, k, recent.shape[2] - 1] = code
        steps[row] = step + 1
        done[row] = frames[row] != UNKNOWN and step + 1 >= frames[row] + max(1, K - 1)
