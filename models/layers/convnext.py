"""ConvNeXt block over time (arXiv 2201.03545), as Vocos has it (arXiv 2306.00814)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL_SIZE = 7


def init_weights(module: nn.Module) -> None:
    """For `network.apply`: convolutions and linear layers start as in Vocos (normal of 0.02, no bias)."""
    if isinstance(module, nn.Conv1d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def frames_ahead(lookahead: int | None, n_convolutions: int) -> list[int]:
    """How many frames each of several convolutions of 7 frames hears ahead, so that all together hear `lookahead`: the
    first ones as many as symmetric ones do, so that the later ones work on what was heard. None: all are symmetric."""
    most = KERNEL_SIZE // 2
    if lookahead is None:
        return [most] * n_convolutions
    assert lookahead <= most * n_convolutions, "the config is to refuse it"
    return [min(most, max(0, lookahead - most * i)) for i in range(n_convolutions)]


class FrameConv(nn.Conv1d):
    """A convolution over time that gives as many frames as it gets and hears `ahead` of the kernel's frames ahead of
    each; with `ahead` half of the kernel, the usual symmetric one.

    A frame rounds alike in however many frames it stands, so that what is streamed is what is made at once: a vocoder
    that adds up its f0 would make a thousandth of full scale of a millionth of it.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, ahead: int, groups: int = 1):
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size - 1 - ahead, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        T = x.shape[2]
        if self.groups > 1:
            return super().forward(x)[..., :T]
        # as a matrix product: torch takes one or another kernel for a convolution, depending on the number of frames
        before = self.padding[0]
        x = F.pad(x, (before, self.kernel_size[0] - 1 - before)).transpose(1, 2)
        x = torch.cat([x[:, i : i + T] for i in range(self.kernel_size[0])], dim=2)  # (B, T, kernel * C)
        return F.linear(x, self.weight.transpose(1, 2).flatten(1), self.bias).transpose(1, 2)


class ConvNeXtBlock(nn.Module):
    """x + gamma * pwconv2(gelu(pwconv1(norm(dwconv(x))))): depthwise over time, then pointwise over channels.

    `intermediate` is the width between the pointwise layers (3 * channels unless given). `layer_scale` is what
    gamma starts at; Vocos takes one over the number of blocks. `ahead`: frames that the convolution hears ahead (half
    of its kernel unless given). Parameter names are those of published Vocos.
    """

    def __init__(
        self, channels: int, intermediate: int | None = None, kernel_size: int = KERNEL_SIZE,
        layer_scale: float = 1 / 8, ahead: int | None = None,
    ):
        super().__init__()
        assert kernel_size % 2 == 1, "an even kernel would shift the frames"
        intermediate = intermediate or 3 * channels
        ahead = kernel_size // 2 if ahead is None else ahead
        self.dwconv = FrameConv(channels, channels, kernel_size, ahead=ahead, groups=channels)
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
        y = self.pwconv2(F.gelu(self.pwconv1(self.norm(y))))
        return x + (self.gamma * y).transpose(1, 2)
