"""What every bottleneck between an encoder and a decoder gives: FSQ, residual VQ, Gaussian latents."""

from typing import NamedTuple

from torch import Tensor


class Bottlenecked(NamedTuple):
    latents: Tensor
    """(B, n_channels, T): what the decoder reads."""
    codes: Tensor | None
    """(B, n_codebooks, T); None where the latents are continuous."""
    losses: dict[str, Tensor]
    """The bottleneck's own losses by name, scalars: `commitment` of RVQ, `kl` of Gaussian latents."""
