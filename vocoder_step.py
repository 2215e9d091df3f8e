"""One training step of the vocoder stage, with or without discriminators."""

from torch import Tensor

from config import Config
from losses import (
    discriminator_loss,
    f0_cross_entropy,
    generator_losses,
    mel_l1,
    reconstruction_losses,
    token_cross_entropy,
    weighted_sum,
)
from mel_processing import frames_for, log_mel
from models import generate_wave
from models.layers.crop import crop_mel, crop_wave, random_crop
from training import Run

ADVERSARIAL = {"adversarial", "feature_matching"}


def vocoder_loss_weights(config: Config) -> dict[str, float]:
    """Weights of the losses that this config's generator has."""
    stage, kind = config.train.vocoder, config.vocoder.kind
    absent = {"decoder_mel"} if stage.conditioning == "mel" else set()
    absent |= {"subband_stft"} if kind != "multiband_istft" else set()
    absent |= {"f0"} if kind != "harmonic_vocos" else set()
    absent |= set() if stage.joint else {"llm"}
    return {name: weight for name, weight in stage.loss_weights.items() if name not in absent}


def vocoder_step(
    run: Run, batch: dict, config: Config, weights: dict[str, float], *, adversarial: bool,
    predicted_mel: Tensor | None = None,
) -> dict[str, Tensor]:
    """Updates the generator on a batch, and if `adversarial` the discriminator before it; gives every loss.

    `predicted_mel` (B, n_mels, T) is heard in place of the recordings' mel.
    """
    audio, adversarial_frames = config.audio, config.train.vocoder.adversarial_frames
    mel, crop = log_mel(batch["wave"], audio), None
    if adversarial and adversarial_frames:
        crop = random_crop(mel, frames_for(adversarial_frames * audio.hop_length, audio))
    heard = mel if predicted_mel is None else predicted_mel
    decoded_mel, output, *predicted_codes = generate_wave(run.generator, batch, heard, crop)
    wave = crop_wave(batch["wave"], output.wave.shape[1], audio.hop_length, crop)
    vocoder = run.unwrapped().vocoder
    losses = reconstruction_losses(
        output.wave, wave, mel if crop is None else log_mel(wave, audio), audio, fake_subbands=output.subbands,
        real_subbands=vocoder.analysis(wave),
    )
    if output.f0_logits is not None:
        losses["f0"] = f0_cross_entropy(output.f0_logits, vocoder.f0_bins.targets(crop_mel(batch["f0"], crop)))
    if decoded_mel is not None:
        losses["decoder_mel"] = mel_l1(decoded_mel, mel)
    if predicted_codes:
        losses["llm"] = token_cross_entropy(*predicted_codes)
    if not adversarial:
        run.update("generator", weighted_sum(losses, {n: w for n, w in weights.items() if n not in ADVERSARIAL}))
        return losses

    loss = discriminator_loss(run.discriminator, output.wave, wave)
    run.update("discriminator", loss)
    with run.frozen("discriminator") as discriminator:
        losses |= generator_losses(discriminator, output.wave, wave)
        run.update("generator", weighted_sum(losses, weights))
    return losses | {"discriminator": loss}
