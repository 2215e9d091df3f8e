"""MusicGen's delay pattern (arXiv 2306.05284): codebook k is k steps late, so that one step predicts all codebooks."""

import torch
from torch import Tensor


def steps_for(frames: int | Tensor, n_codebooks: int) -> int | Tensor:
    """Steps from the first code to the last one, the end-of-speech code of codebook 0 included."""
    return frames + max(1, n_codebooks - 1)


def delay(codes: Tensor, lengths: Tensor, begin: int, end: int, pad: int) -> Tensor:
    """codes (B, K, T), lengths (B,) -> (B, K, steps): `begin` before codebook k's first code, `end` after codebook 0's
    last one, `pad` in all other places."""
    B, K, T = codes.shape
    steps = steps_for(T, K)
    time = torch.arange(steps, device=codes.device) - torch.arange(K, device=codes.device).unsqueeze(1)  # (K, steps)
    lengths = lengths.view(B, 1, 1)
    shifted = codes.gather(2, time.clamp(0, T - 1).expand(B, K, steps))
    first = (torch.arange(K, device=codes.device) == 0).view(1, K, 1)
    shifted = torch.where(time >= lengths, torch.where(first & (time == lengths), end, pad), shifted)
    return torch.where(time < 0, begin, shifted)


def undelay(steps: Tensor, frames: int) -> Tensor:
    """(B, K, steps) -> codes (B, K, frames): the inverse of `delay` on its first `frames` frames."""
    return torch.stack([steps[:, k, k : k + frames] for k in range(steps.shape[1])], dim=1)
