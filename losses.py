"""Losses of the vocoder and decoder stages: pure functions that return a scalar, and their weighted sum."""

import torch
from torch import Tensor

from mel_processing import magnitudes

Resolutions = tuple[tuple[int, int, int], ...]
"""(n_fft, hop_length, win_length) of each STFT, in samples."""

RESOLUTIONS: Resolutions = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
# hops and windows of Multi-band MelGAN (arXiv 2005.05106), with FFTs of powers of two
SUBBAND_RESOLUTIONS: Resolutions = ((256, 30, 150), (512, 60, 300), (128, 10, 60))

# as in Parallel WaveGAN (1e-7 for the power): below it, the logarithm would make silence the loudest part
MAGNITUDE_FLOOR = 1e-7**0.5


def mel_l1(mel_a: Tensor, mel_b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference of log-mels (B, n_mels, T); with `mask` (B, 1, T), over its frames only."""
    difference = (mel_a.float() - mel_b.float()).abs()
    if mask is None:
        return difference.mean()
    mask = mask.to(difference.dtype)
    return (difference * mask).sum() / (mask.sum() * difference.shape[1]).clamp(min=1)


def adversarial_loss_generator(fake_outputs: list[Tensor]) -> Tensor:
    """Least-squares GAN: the sum over discriminators of mean (1 - D(fake))^2 (HiFi-GAN, arXiv 2010.05646)."""
    return _total((1 - fake.float()).square().mean() for fake in fake_outputs)


def adversarial_loss_discriminator(real_outputs: list[Tensor], fake_outputs: list[Tensor]) -> Tensor:
    """Least-squares GAN: the sum over discriminators of mean (1 - D(real))^2 + mean D(fake)^2."""
    return _total(
        (1 - real.float()).square().mean() + fake.float().square().mean()
        for real, fake in zip(real_outputs, fake_outputs, strict=True)
    )


def feature_matching_loss(real_features: list[list[Tensor]], fake_features: list[list[Tensor]]) -> Tensor:
    """The sum over discriminators and their layers of mean |real - fake|; no gradient reaches the real side."""
    return _total(
        (real.detach().float() - fake.float()).abs().mean()
        for real_maps, fake_maps in zip(real_features, fake_features, strict=True)
        for real, fake in zip(real_maps, fake_maps, strict=True)
    )


def multi_resolution_stft_loss(fake: Tensor, real: Tensor, resolutions: Resolutions = RESOLUTIONS) -> Tensor:
    """Spectral convergence + log-magnitude L1 of waves (B, samples), averaged over resolutions (Parallel WaveGAN,
    arXiv 1910.11480): ||R - F|| / ||R|| + mean |log R - log F|, with R and F the STFT magnitudes.

    ValueError if the waves are too short for the longest FFT.
    """
    shortest = max(n_fft for n_fft, _, _ in resolutions) // 2 + 1
    if real.shape[-1] < shortest:
        raise ValueError(
            f"segments of {real.shape[-1]} samples are too short for the STFT loss, which needs {shortest}: "
            "raise train.vocoder.segment_frames"
        )
    losses = []
    with torch.autocast(real.device.type, enabled=False):
        for n_fft, hop_length, win_length in resolutions:
            magnitude_fake, magnitude_real = (
                magnitudes(wave.float(), n_fft, hop_length, win_length).clamp(min=MAGNITUDE_FLOOR)
                for wave in (fake, real)
            )
            convergence = (magnitude_real - magnitude_fake).norm() / magnitude_real.norm()
            losses.append(convergence + (magnitude_real.log() - magnitude_fake.log()).abs().mean())
    return _total(losses) / len(resolutions)


def subband_stft_loss(
    fake_subbands: Tensor, real_subbands: Tensor, resolutions: Resolutions = SUBBAND_RESOLUTIONS
) -> Tensor:
    """`multi_resolution_stft_loss` of PQMF sub-bands (B, n_bands, samples), at resolutions made for their rate."""
    return multi_resolution_stft_loss(fake_subbands.flatten(0, 1), real_subbands.flatten(0, 1), resolutions)


def weighted_sum(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """The sum of weight * loss. ValueError unless both have the same names."""
    if losses.keys() != weights.keys():
        raise ValueError(
            f"loss_weights: weights without a loss: {sorted(weights.keys() - losses.keys())}, "
            f"losses without a weight: {sorted(losses.keys() - weights.keys())}; "
            f"this stage has exactly {sorted(losses)}"
        )
    return _total(weights[name] * loss for name, loss in losses.items())


def _total(values) -> Tensor:
    return torch.stack(list(values)).sum()
