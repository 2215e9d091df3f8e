"""Dilated residual blocks of the HiFi-GAN generator (arXiv 2010.05646)."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

LEAKY_SLOPE = 0.1


class ResBlock(nn.Module):
    """For each dilation: x + conv(leaky_relu(dilated_conv(leaky_relu(x)))), all with one kernel size."""

    def __init__(self, channels: int, kernel_size: int, dilations: list[int]):
        super().__init__()

        def conv(dilation: int) -> nn.Module:
            padding = (kernel_size - 1) * dilation // 2
            return weight_norm(nn.Conv1d(channels, channels, kernel_size, dilation=dilation, padding=padding))

        self.dilated = nn.ModuleList(conv(dilation) for dilation in dilations)
        self.plain = nn.ModuleList(conv(1) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        for dilated, plain in zip(self.dilated, self.plain, strict=True):
            x = x + plain(F.leaky_relu(dilated(F.leaky_relu(x, LEAKY_SLOPE)), LEAKY_SLOPE))
        return x


class MultiReceptiveField(nn.Module):
    """The mean of residual blocks with several kernel sizes."""

    def __init__(self, channels: int, kernel_sizes: list[int], dilations: list[int]):
        super().__init__()
        self.blocks = nn.ModuleList(ResBlock(channels, kernel_size, dilations) for kernel_size in kernel_sizes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        return sum(block(x) for block in self.blocks) / len(self.blocks)
