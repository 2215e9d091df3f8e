"""Discriminators of waves, multi-period (HiFi-GAN) and multi-resolution spectrogram (UnivNet), and of mel patches."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from config import DiscriminatorConfig
from mel_processing import magnitudes
from models.layers.mel_scale import standardise

Judgement = tuple[list[Tensor], list[list[Tensor]]]
"""Logits (B, n) of each sub-discriminator, and the feature maps of each of its layers, the logits' own last."""


class Discriminators(nn.Module):
    """All sub-discriminators of the config."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.parts = nn.ModuleList(
            [PeriodDiscriminator(period, config.period_channels) for period in config.periods]
            + [ResolutionDiscriminator(n_fft, config.resolution_channels) for n_fft in config.fft_sizes]
        )

    def forward(self, wave: Tensor) -> Judgement:
        """Waves (B, samples) -> logits and feature maps; samples must exceed half the longest FFT."""
        outputs, features = [], []
        for part in self.parts:
            maps = part(wave)
            outputs.append(maps[-1].flatten(1))
            features.append(maps)
        return outputs, features


def build_discriminators(config: DiscriminatorConfig) -> Discriminators:
    """The discriminators of the config, with random weights. ValueError if it names none."""
    if not config.periods and not config.fft_sizes:
        raise ValueError("discriminators: give at least one of periods and fft_sizes")
    return Discriminators(config)


class PeriodDiscriminator(nn.Module):
    """Sees every `period`-th sample: the wave folded to (samples / period, period), convolved along the first axis
    (HiFi-GAN, arXiv 2010.05646)."""

    SLOPE = 0.1

    def __init__(self, period: int, channels: list[int]):
        super().__init__()
        self.period = period
        self.convs = nn.ModuleList()
        for i, (c_in, c_out) in enumerate(pairwise([1, *channels])):
            stride = 1 if i == len(channels) - 1 else 3
            self.convs.append(weight_norm(nn.Conv2d(c_in, c_out, (5, 1), (stride, 1), padding=(2, 0))))
        self.conv_post = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wave: Tensor) -> list[Tensor]:
        """(B, samples) -> feature maps (B, C, T, period), of which the last, with C = 1, are the logits."""
        B, samples = wave.shape
        x = F.pad(wave.unsqueeze(1), (0, -samples % self.period), mode="reflect")
        x = x.view(B, 1, -1, self.period)  # (B, 1, T, period)
        maps = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), self.SLOPE)
            maps.append(x)
        return [*maps, self.conv_post(x)]


class ResolutionDiscriminator(nn.Module):
    """Sees the STFT magnitudes at one resolution, strided over time (UnivNet, arXiv 2106.07889)."""

    SLOPE = 0.2

    def __init__(self, n_fft: int, channels: int):
        super().__init__()
        self.n_fft = n_fft
        self.convs = nn.ModuleList([
            weight_norm(nn.Conv2d(1, channels, (3, 9), padding=(1, 4))),
            *(weight_norm(nn.Conv2d(channels, channels, (3, 9), (1, 2), padding=(1, 4))) for _ in range(3)),
            weight_norm(nn.Conv2d(channels, channels, (3, 3), padding=(1, 1))),
        ])
        self.conv_post = weight_norm(nn.Conv2d(channels, 1, (3, 3), padding=(1, 1)))

    def forward(self, wave: Tensor) -> list[Tensor]:
        """(B, samples) -> feature maps (B, C, n_fft / 2 + 1, T), of which the last, with C = 1, are the logits."""
        with torch.autocast(wave.device.type, enabled=False):
            x = magnitudes(wave.float(), self.n_fft, self.n_fft // 4, self.n_fft).unsqueeze(1)  # (B, 1, F, T)
        maps = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), self.SLOPE)
            maps.append(x)
        return [*maps, self.conv_post(x)]


class MelPatchDiscriminator(nn.Module):
    """Judges patches of a log-mel as a picture (PatchGAN, arXiv 1611.07004): each logit sees a part of it."""

    SLOPE = 0.2

    def __init__(self, channels: list[int]):
        super().__init__()
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(c_in, c_out, (5, 5), stride=2, padding=(2, 2)))
            for c_in, c_out in pairwise([1, *channels])
        )
        self.conv_post = weight_norm(nn.Conv2d(channels[-1], 1, (3, 3), padding=(1, 1)))

    def forward(self, mel: Tensor) -> Judgement:
        """Log-mel (B, n_mels, T) -> logits and feature maps, in lists of one."""
        x, maps = standardise(mel).unsqueeze(1), []  # (B, 1, n_mels, T)
        for conv in self.convs:
            x = F.leaky_relu(conv(x), self.SLOPE)
            maps.append(x)
        maps.append(self.conv_post(x))
        return [maps[-1].flatten(1)], [maps]
