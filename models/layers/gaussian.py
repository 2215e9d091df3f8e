"""Gaussian latents, as in a variational autoencoder (arXiv 1312.6114)."""

import torch
from torch import Tensor, nn

from models.layers.bottleneck import Bottlenecked
from processes import share

LOGVAR_BOUND = 8.0


def gaussian_kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) = (mean^2 + exp(logvar) - logvar - 1) / 2 of every element, in nats."""
    return 0.5 * (mean.square() + logvar.exp() - logvar - 1)


class Gaussian(nn.Module):
    """Mean and log-variance of every latent: in training a sample, else the mean.

    The log-variance is bounded smoothly, bound * tanh(x / bound): the variance stays finite, and unlike with a hard
    clamp a gradient is left that leads back from the bound.
    """

    def __init__(self, latent_size: int):
        super().__init__()
        self.in_channels, self.n_channels = 2 * latent_size, latent_size

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Bottlenecked:
        """z (B, 2 * latent_size, T) -> latents (B, latent_size, T), no codes, and `kl`: nats a frame, averaged over
        frames (those of `mask` (B, 1, T) if given)."""
        mean, logvar = self.parameters_of(z)
        kl = gaussian_kl(mean, logvar).sum(1)  # (B, T)
        frames = torch.ones_like(kl) if mask is None else mask.squeeze(1).to(kl.dtype)
        latents = mean
        if self.training:
            latents = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        return Bottlenecked(latents.to(z.dtype), None, {"kl": (kl * frames).sum() / share(frames.sum())})

    def parameters_of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and bounded log-variance (B, latent_size, T), in single precision."""
        mean, raw = z.float().chunk(2, dim=1)
        return mean, LOGVAR_BOUND * torch.tanh(raw / LOGVAR_BOUND)

    def identity(self) -> tuple[tuple, list[Tensor]]:
        """Settings and weights that decide which latents a vector gets."""
        return ("gaussian", self.n_channels), []
