"""Finite scalar quantisation (Mentzer et al. 2023, arXiv 2309.15505): bounded, rounded, straight through."""

import math

import torch
from torch import Tensor, nn

from models.layers.bottleneck import Bottlenecked


class FSQ(nn.Module):
    """Several codebooks side by side, each with `levels` values per dimension and prod(levels) codes."""

    def __init__(self, levels: list[int], n_codebooks: int):
        super().__init__()
        self.n_codebooks = n_codebooks
        self.codebook_size = math.prod(levels)
        self.in_channels = self.n_channels = n_codebooks * len(levels)
        levels = torch.tensor(levels)
        self.register_buffer("levels", levels, persistent=False)
        strides = torch.cumprod(torch.cat([torch.ones(1, dtype=torch.long), levels[:-1]]), 0)
        self.register_buffer("strides", strides, persistent=False)

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Bottlenecked:
        """z (B, n_codebooks * D, T) of any size -> quantised (same shape, in [-1, 1]) and codes (B, n_codebooks, T).

        Every frame is quantised by itself: there is nothing that `mask` would keep padding out of.
        """
        B, _, T = z.shape
        levels = self.levels.view(1, 1, -1, 1)
        z = z.view(B, self.n_codebooks, -1, T)  # (B, K, D, T)
        half = (levels - 1) / 2 * (1 + 1e-3)
        # an even number of levels has no value at 0: the tanh is shifted by half a step
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        bounded = torch.tanh(z.float() + torch.atanh(offset / half)) * half - offset
        rounded = bounded + (bounded.round() - bounded).detach()
        digits = (rounded.detach() + levels // 2).long()
        codes = (digits * self.strides.view(1, 1, -1, 1)).sum(2)
        return Bottlenecked((rounded / (levels // 2)).view(B, -1, T).to(z.dtype), codes, {})

    def dequantise(self, codes: Tensor) -> Tensor:
        """codes (B, n_codebooks, T) -> the quantised values (B, n_codebooks * D, T) that `forward` gave for them."""
        B, _, T = codes.shape
        levels, strides = self.levels.view(1, 1, -1, 1), self.strides.view(1, 1, -1, 1)
        digits = codes.unsqueeze(2) // strides % levels
        return ((digits - levels // 2) / (levels // 2)).view(B, -1, T)

    def identity(self) -> tuple[tuple, list[Tensor]]:
        """Settings and weights that decide which code a vector gets."""
        return (self.levels.tolist(), self.n_codebooks), []


def perplexity(codes: Tensor, codebook_size: int) -> tuple[float, float]:
    """Perplexity exp(entropy) of codes (...), and the share of the codebook's entries that occur."""
    counts = torch.bincount(codes.flatten(), minlength=codebook_size).float()
    p = counts / counts.sum()
    return float(torch.exp(-(p * torch.log(p.clamp(min=1e-12))).sum())), float((counts > 0).float().mean())
