"""ConvNeXt block over time (arXiv 2201.03545), as Vocos has it (arXiv 2306.00814)."""

import torch
from torch import Tensor, nn


def init_weights(module: nn.Module) -> None:
    """For `network.apply`: convolutions and linear layers start as in Vocos (normal of 0.02, no bias)."""
    if isinstance(module, nn.Conv1d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class ConvNeXtBlock(nn.Module):
    """x + gamma * pwconv2(gelu(pwconv1(norm(dwconv(x))))): depthwise over time, then pointwise over channels.

    `intermediate` is the width between the pointwise layers (3 * channels unless given). `layer_scale` is what
    gamma starts at; Vocos takes one over the number of blocks. Parameter names are those of published Vocos.
    """

    def __init__(
        self, channels: int, intermediate: int | None = None, kernel_size: int = 7, layer_scale: float = 1 / 8
    ):
        super().__init__()
        assert kernel_size % 2 == 1, "an even kernel would shift the frames"
        intermediate = intermediate or 3 * channels
        self.dwconv = nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, intermediate)
        self.pwconv2 = nn.Linear(intermediate, channels)
        self.gamma = nn.Parameter(torch.full((channels,), layer_scale))
        self.apply(init_weights)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, C, T) -> (B, C, T). `mask` (B, 1, T), 1 for frames and 0 for padding: padded frames are zeroed before
        the convolution, so that a padded clip gives on its own frames what it gives alone."""
        if mask is not None:
            x = x * mask.to(x.dtype)
        y = self.dwconv(x).transpose(1, 2)  # (B, T, C)
        y = self.pwconv2(nn.functional.gelu(self.pwconv1(self.norm(y))))
        return x + (self.gamma * y).transpose(1, 2)
