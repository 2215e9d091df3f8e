"""Losses of every stage: pure functions that return a scalar or `{name: scalar}`, and their weighted sum.

Where several processes train together, the mean over them of what each is given is the loss of the whole batch, and
the mean of their gradients its gradient.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mel_processing import AudioConfig, log_mel, magnitudes
from processes import all_sum, several, share

Resolutions = tuple[tuple[int, int, int], ...]
"""(n_fft, hop_length, win_length) of each STFT, in samples."""

RESOLUTIONS: Resolutions = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
# hops and windows of Multi-band MelGAN (arXiv 2005.05106), with FFTs of powers of two
SUBBAND_RESOLUTIONS: Resolutions = ((256, 30, 150), (512, 60, 300), (128, 10, 60))

# as in Parallel WaveGAN (1e-7 for the power): below it, the logarithm would make silence the loudest part
MAGNITUDE_FLOOR = 1e-7**0.5


def token_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats of logits (B, K, S, V) and targets (B, K, S), over the targets but -100; 0 without any."""
    total = F.cross_entropy(logits.flatten(0, 2).float(), targets.flatten(), ignore_index=-100, reduction="sum")
    return total / share((targets != -100).sum())


def mel_l1(mel_a: Tensor, mel_b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference of log-mels (B, n_mels, T); with `mask` (B, 1, T), over its frames only."""
    difference = (mel_a.float() - mel_b.float()).abs()
    if mask is None:
        return difference.mean()
    mask = mask.to(difference.dtype)
    return (difference * mask).sum() / share(mask.sum() * difference.shape[1])


def codec_losses(rebuilt: Tensor, mel: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """`mel`: L1 of log-mels (B, n_mels, T); `mel_delta`: L1 of their differences in time; `mask` as in `mel_l1`."""
    later = None if mask is None else mask[:, :, 1:]
    return {"mel": mel_l1(rebuilt, mel, mask), "mel_delta": mel_l1(rebuilt.diff(dim=2), mel.diff(dim=2), later)}


def symbols_fit(lengths: Tensor, symbols: Tensor, symbol_lengths: Tensor) -> Tensor:
    """(B,) whether so many predictions can spell symbols (B, L): CTC needs one for each, and a blank between two of
    the same."""
    inside = torch.arange(1, symbols.shape[1], device=symbols.device) < symbol_lengths.unsqueeze(1)
    repeats = ((symbols[:, 1:] == symbols[:, :-1]) & inside).sum(1)
    return lengths >= symbol_lengths + repeats


def symbol_ctc(logits: Tensor, lengths: Tensor, symbols: Tensor, symbol_lengths: Tensor) -> Tensor:
    """CTC loss (Graves et al. 2006) in nats a symbol of logits (B, T, n_symbols), lengths (B,), and symbols (B, L).

    The blank is id 0. Clips whose symbols do not fit their predictions are left out; 0 if none is left.
    """
    fits = symbols_fit(lengths, symbols, symbol_lengths)
    log_p = logits.float().log_softmax(-1).transpose(0, 1)  # (T, B, n_symbols)
    losses = F.ctc_loss(log_p, symbols, lengths, symbol_lengths, reduction="none", zero_infinity=True)
    return (losses / symbol_lengths * fits).sum() / share(fits.sum())


def aligned_losses(output, durations: Tensor, pitch: Tensor, energy: Tensor) -> dict[str, Tensor]:
    """Of an `AlignedOutput` against durations in frames, pitch and energy, each (B, S) as its predictors have them.

    `mel`: L1 of the standardised log-mel; `duration`: see `duration_loss`; `pitch`, `energy`: squared errors; with a
    flow `flow`: squared error of the velocity (arXiv 2210.02747); with a stop token `stop`: binary cross-entropy of
    each position being the last.
    """
    decoder, symbols = output.decoder, output.symbol_mask
    losses = {
        "mel": _masked_mean((decoder.mel.float() - output.mel_target).abs(), output.frame_mask),
        "duration": _masked_mean(duration_loss(output.log_durations.float(), durations.float()), symbols),
        "pitch": _masked_mean((output.pitch.float() - pitch).square(), symbols),
        "energy": _masked_mean((output.energy.float() - energy).square(), symbols),
    }
    if decoder.velocity is not None:
        error = (decoder.velocity.float() - decoder.velocity_target).square()
        losses["flow"] = _masked_mean(error, output.frame_mask)
    if decoder.stop_logits is not None:
        last = F.one_hot(output.mask.sum(1) - 1, output.mask.shape[1]).float()
        error = F.binary_cross_entropy_with_logits(decoder.stop_logits.float(), last, reduction="none")
        losses["stop"] = _masked_mean(error, output.mask)
    return losses


def duration_loss(log_durations: Tensor, durations: Tensor) -> Tensor:
    """Poisson deviance of the predicted log(1 + frames) and the true frames, both of any shape: with m = exp(predicted)
    and y = 1 + frames, m - y - y (log m - log y). Its best prediction is the mean, where that of a squared error of
    logarithms is the geometric mean, which speaks too fast."""
    target = durations + 1
    return log_durations.exp() - target - target * (log_durations - target.log())


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of values over the places where a mask of the same shape is True."""
    return (values * mask).sum() / share(mask.sum())


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
            convergence = _norm(magnitude_real - magnitude_fake) / _norm(magnitude_real)
            losses.append(convergence + (magnitude_real.log() - magnitude_fake.log()).abs().mean())
    return _total(losses) / len(resolutions)


def subband_stft_loss(
    fake_subbands: Tensor, real_subbands: Tensor, resolutions: Resolutions = SUBBAND_RESOLUTIONS
) -> Tensor:
    """`multi_resolution_stft_loss` of PQMF sub-bands (B, n_bands, samples), at resolutions made for their rate."""
    return multi_resolution_stft_loss(fake_subbands.flatten(0, 1), real_subbands.flatten(0, 1), resolutions)


def f0_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats a frame of logits and target probabilities (B, T, classes)."""
    return -(targets * logits.float().log_softmax(-1)).sum(-1).mean()


def reconstruction_losses(
    fake: Tensor, real: Tensor, mel: Tensor, audio: AudioConfig, *, fake_subbands: Tensor | None = None,
    real_subbands: Tensor | None = None,
) -> dict[str, Tensor]:
    """How far waves (B, samples) are from the real ones and their log-mel (B, n_mels, T): `mel` and `stft`, and
    `subband_stft` where there are sub-bands."""
    losses = {"mel": mel_l1(log_mel(fake, audio), mel), "stft": multi_resolution_stft_loss(fake, real)}
    if fake_subbands is not None:
        losses["subband_stft"] = subband_stft_loss(fake_subbands, real_subbands)
    return losses


def discriminator_loss(discriminator: Callable, fake: Tensor, real: Tensor) -> Tensor:
    """`adversarial_loss_discriminator` of waves or mels; no gradient reaches what made `fake`."""
    real_outputs, _ = discriminator(real)
    fake_outputs, _ = discriminator(fake.detach())
    return adversarial_loss_discriminator(real_outputs, fake_outputs)


def generator_losses(discriminator: Callable, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
    """`adversarial` and `feature_matching` of waves or mels, for the network that made `fake`."""
    with torch.no_grad():
        _, real_features = discriminator(real)
    fake_outputs, fake_features = discriminator(fake)
    return {
        "adversarial": adversarial_loss_generator(fake_outputs),
        "feature_matching": feature_matching_loss(real_features, fake_features),
    }


def weighted_sum(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """The sum of weight * loss. ValueError unless both have the same names."""
    if losses.keys() != weights.keys():
        raise ValueError(
            f"loss_weights: weights without a loss: {sorted(weights.keys() - losses.keys())}, "
            f"losses without a weight: {sorted(losses.keys() - weights.keys())}; "
            f"this stage has exactly {sorted(losses)}"
        )
    return _total(weights[name] * loss for name, loss in losses.items())


def _norm(values: Tensor) -> Tensor:
    """Euclidean norm of all values that the processes have."""
    return all_sum(values.square().sum()).sqrt() if several() else values.norm()


def _total(values) -> Tensor:
    return torch.stack(list(values)).sum()
