"""Monotonic alignment of frames to units: the sum over all paths, the best path, a prior along the diagonal.

A path gives every frame a unit; units come in order, each with at least one frame, only those marked `optional` may
be passed over (never two of them in a row). The recursions run on the CPU, compiled by numba.
"""

import numba
import numpy as np
import torch
from torch import Tensor

NEVER = -1e30


@numba.njit(cache=True)
def _add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))"""
    high, low = max(a, b), min(a, b)
    return high if low <= NEVER / 2 else high + np.log1p(np.exp(low - high))


@numba.njit(cache=True)
def _forward_backward(log_p, frames, lengths, optional, posterior):
    """Fills `posterior` (B, T, L) with the share of the paths' probability that has frame t in unit l; returns the
    log of the sum over all paths (B,)."""
    total = np.empty(len(frames))
    for b in range(len(frames)):
        T, L = frames[b], lengths[b]
        alpha, beta = np.full((T, L), NEVER), np.full((T, L), NEVER)
        alpha[0, 0] = log_p[b, 0, 0]
        if L > 1 and optional[b, 0]:
            alpha[0, 1] = log_p[b, 0, 1]
        for t in range(1, T):
            for l in range(L):
                a = alpha[t - 1, l]
                if l >= 1:
                    a = _add(a, alpha[t - 1, l - 1])
                if l >= 2 and optional[b, l - 1]:
                    a = _add(a, alpha[t - 1, l - 2])
                alpha[t, l] = max(NEVER, a + log_p[b, t, l])
        beta[T - 1, L - 1] = 0.0
        if L > 1 and optional[b, L - 1]:
            beta[T - 1, L - 2] = 0.0
        for t in range(T - 2, -1, -1):
            for l in range(L):
                a = beta[t + 1, l] + log_p[b, t + 1, l]
                if l + 1 < L:
                    a = _add(a, beta[t + 1, l + 1] + log_p[b, t + 1, l + 1])
                if l + 2 < L and optional[b, l + 1]:
                    a = _add(a, beta[t + 1, l + 2] + log_p[b, t + 1, l + 2])
                beta[t, l] = max(NEVER, a)
        total[b] = alpha[T - 1, L - 1]
        if L > 1 and optional[b, L - 1]:
            total[b] = _add(total[b], alpha[T - 1, L - 2])
        if total[b] <= NEVER / 2:
            continue
        for t in range(T):
            for l in range(L):
                share = alpha[t, l] + beta[t, l] - total[b]
                if share > -50.0:
                    posterior[b, t, l] = np.exp(share)
    return total


@numba.njit(cache=True)
def _best_path(log_p, frames, lengths, optional, durations):
    """Fills `durations` (B, L) with the frames of each unit on the best path (Viterbi)."""
    for b in range(len(frames)):
        T, L = frames[b], lengths[b]
        value, step = np.full((T, L), NEVER), np.zeros((T, L), np.int8)
        value[0, 0] = log_p[b, 0, 0]
        if L > 1 and optional[b, 0]:
            value[0, 1] = log_p[b, 0, 1]
        for t in range(1, T):
            for l in range(L):
                best, from_ = value[t - 1, l], 0
                if l >= 1 and value[t - 1, l - 1] > best:
                    best, from_ = value[t - 1, l - 1], 1
                if l >= 2 and optional[b, l - 1] and value[t - 1, l - 2] > best:
                    best, from_ = value[t - 1, l - 2], 2
                value[t, l], step[t, l] = max(NEVER, best + log_p[b, t, l]), from_
        l = L - 1
        if L > 1 and optional[b, L - 1] and value[T - 1, L - 2] > value[T - 1, L - 1]:
            l = L - 2
        for t in range(T - 1, -1, -1):
            durations[b, l] += 1
            l -= step[t, l]


def _arrays(log_p: Tensor, frames: Tensor, lengths: Tensor, optional: Tensor | None) -> tuple[np.ndarray, ...]:
    if optional is None:
        optional = torch.zeros(len(log_p), log_p.shape[2], dtype=torch.bool)
    frames, lengths, optional = (x.detach().cpu().numpy() for x in (frames, lengths, optional.bool()))
    needed = [int(l - o[:l].sum()) for l, o in zip(lengths, optional, strict=True)]
    if not all(1 <= n <= t for n, t in zip(needed, frames, strict=True)):
        raise ValueError(f"units that need {needed} frames cannot be aligned to {frames.tolist()}")
    values = np.ascontiguousarray(log_p.detach().float().cpu().numpy())
    return values, frames, lengths, np.ascontiguousarray(optional)


class _ForwardSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, log_p, frames, lengths, optional):
        values, *rest = _arrays(log_p, frames, lengths, optional)
        posterior = np.zeros_like(values)
        total = _forward_backward(values, *rest, posterior)
        # the derivative of a log-sum over paths is the share of the paths that pass a cell
        ctx.save_for_backward(torch.from_numpy(posterior).to(log_p))
        return torch.from_numpy(-total).to(log_p)

    @staticmethod
    def backward(ctx, gradient):
        (posterior,) = ctx.saved_tensors
        return -posterior * gradient.view(-1, 1, 1), None, None, None


def forward_sum_loss(log_p: Tensor, frames: Tensor, lengths: Tensor, optional: Tensor | None = None) -> Tensor:
    """-log of the sum over all monotonic paths of the product of p along each, in nats (B,).

    log_p (B, T, L), `frames` (B,) and `lengths` (B,) of each clip, `optional` (B, L): units that may have no frame. The
    alignment loss of arXiv 2108.10447; without optional units it is `F.ctc_loss` of L distinct labels whose blank
    is impossible. ValueError if a clip has fewer frames than units that need one.
    """
    return _ForwardSum.apply(log_p, frames, lengths, optional)


def monotonic_path(log_p: Tensor, frames: Tensor, lengths: Tensor, optional: Tensor | None = None) -> Tensor:
    """Frames of every unit (B, L), int64, on the most probable monotonic path (Glow-TTS, arXiv 2005.11129).

    Arguments and errors as of `forward_sum_loss`. Every unit has at least one frame, an optional one perhaps none;
    each clip's sum is its number of frames; 0 behind its last unit.
    """
    arrays = _arrays(log_p, frames, lengths, optional)
    durations = np.zeros((len(log_p), log_p.shape[2]), np.int64)
    _best_path(*arrays, durations)
    return torch.from_numpy(durations).to(log_p.device)


def beta_binomial_prior(frames: int, length: int, scale: float = 1.0) -> Tensor:
    """Log-probability (T, L) of units at each frame, a beta-binomial about the diagonal (arXiv 2108.10447).

    P(l | t) = BetaBinomial(l; L - 1, scale * t, scale * (T - t + 1)), l from 0, t from 1.
    """
    t = torch.arange(1, frames + 1, dtype=torch.float64).unsqueeze(1)
    l = torch.arange(length, dtype=torch.float64)
    n, a, b = length - 1.0, scale * t, scale * (frames - t + 1)

    def log_beta(x: Tensor, y: Tensor) -> Tensor:
        return torch.lgamma(x) + torch.lgamma(y) - torch.lgamma(x + y)

    ways = -torch.log(torch.tensor(n + 1)) - log_beta(n - l + 1, l + 1)
    return (ways + log_beta(l + a, n - l + b) - log_beta(a, b)).float()
