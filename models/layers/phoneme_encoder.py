"""Symbols -> features: convolutions for the neighbours, a transformer for the sentence."""

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.layers.convnext import ConvNeXtBlock

CONVOLUTIONS = 3  # a sound depends on its neighbours first


def sinusoids(length: int, channels: int, device: torch.device) -> Tensor:
    """Positions (length, channels) as sines and cosines (arXiv 1706.03762)."""
    rates = torch.exp(torch.arange(0, channels, 2, device=device) * (-math.log(10_000.0) / channels))
    angles = torch.arange(length, device=device).unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class PhonemeEncoder(nn.Module):
    """Language-blind but for its conditions: speaker and language are added to every symbol."""

    def __init__(
        self, *, n_symbols: int, n_speakers: int, n_languages: int, hidden_size: int, n_layers: int, n_heads: int,
        feed_forward_size: int, dropout: float, gradient_checkpointing: bool,
    ):
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.symbols = nn.Embedding(n_symbols, hidden_size)
        self.speaker = nn.Embedding(n_speakers, hidden_size)
        self.language = nn.Embedding(n_languages, hidden_size)
        self.convolutions = nn.ModuleList(
            ConvNeXtBlock(hidden_size, kernel_size=5, layer_scale=1 / CONVOLUTIONS) for _ in range(CONVOLUTIONS)
        )
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(hidden_size, n_heads, feed_forward_size, dropout, "gelu", batch_first=True,
                                       norm_first=True)
            for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(hidden_size)
        for embedding in (self.symbols, self.speaker, self.language):
            nn.init.normal_(embedding.weight, std=0.1)

    def forward(self, text: Tensor, mask: Tensor, speaker: Tensor, language: Tensor) -> Tensor:
        """text (B, L), mask (B, L) True for symbols, speaker and language (B,) -> features (B, L, C)."""
        x = self.symbols(text) + (self.speaker(speaker) + self.language(language)).unsqueeze(1)
        for block in self.convolutions:
            x = block(x.transpose(1, 2), mask.unsqueeze(1)).transpose(1, 2)
        x = x + 0.1 * sinusoids(x.shape[1], x.shape[2], x.device)
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(layer, x, None, ~mask, use_reentrant=False)
            else:
                x = layer(x, src_key_padding_mask=~mask)
        return self.norm(x) * mask.unsqueeze(2)


class SymbolPredictor(nn.Module):
    """One real number a symbol, by two convolutions (FastSpeech 2's variance predictor, arXiv 2006.04558)."""

    def __init__(self, hidden_size: int, width: int, dropout: float):
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv1d(hidden_size, width, 3, padding=1),
                                           nn.Conv1d(width, width, 3, padding=1)])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, C), mask (B, L) -> (B, L), zeros behind a text's end."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = convolution((x * mask.unsqueeze(2)).transpose(1, 2)).transpose(1, 2)
            x = self.dropout(norm(x.relu()))
        return self.out(x).squeeze(2) * mask
