"""Training steps of every stage on generated batches, in the training loop itself."""

import itertools
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarking.machine import peak_memory_gb, precision_of, seconds_of
from benchmarking.networks import build_aligned, build_codec, build_lm, chain_sizes, codec_sizes, systems_of
from cli import stage_arguments
from config import CodecStage, Config, MelCodecConfig, VocoderStage
from data_utils import DEFAULT_SPEAKER, Clip, CodeSequences, Draw, WaveSegments, collate_items
from lm_data import SpokenSegments
from losses import aligned_losses, codec_losses, token_cross_entropy, weighted_sum
from mel_processing import log_mel, save_audio
from models import build_wave_generator
from models.discriminators import build_discriminators
from models.token_lm import CONDITIONS
from prosody import fundamental_frequency
from training import Run
from vocoder_step import vocoder_loss_weights, vocoder_step

WARM_UP_STEPS = 2
SYMBOLS_PER_SECOND = 15  # IPA of English read aloud


class Prepared(NamedTuple):
    """A stage, ready to be trained."""

    networks: dict[str, nn.Module]
    """generator, and discriminator where there is one"""
    batch: dict
    training_step: Callable[[Run, dict], dict[str, Tensor]]
    clip_seconds: float


def measure_training(config: Config, name: str, steps: int) -> dict:
    """Seconds a step and peak memory of one of `STAGES`, optimizer states and moving average in place."""
    section = name.partition("_")[0]
    stage = getattr(config.train, section)
    stage = stage.model_copy(update={"precision": precision_of(stage), "wandb": False})
    torch.manual_seed(stage.seed)
    with tempfile.TemporaryDirectory() as folder:
        prepared = STAGES[name](config, Path(folder))
        run = Run(
            stage_name=section, stage=stage, root=folder, metadata={"config": config.model_dump()},
            arguments=stage_arguments("").parse_args(["-c", "", "-m", "benchmark"]), **prepared.networks,
        )
        batch = {key: value.to(run.device) for key, value in prepared.batch.items() if torch.is_tensor(value)}
        one_step = partial(run.train_step, itertools.repeat(batch), prepared.training_step)
        warm = 0
        while warm < WARM_UP_STEPS:
            skipped = run.skipped.total  # fp16 skips steps until its loss scale fits
            one_step()
            warm += run.skipped.total == skipped
        times = [seconds_of(one_step) for _ in range(steps)]
        run.close()
    return {
        "seconds_per_step": {"median": statistics.median(times), "min": min(times), "max": max(times)},
        "batch_size": stage.batch_size, "gradient_accumulation": stage.gradient_accumulation,
        "clip_seconds": prepared.clip_seconds, "precision": stage.precision,
        "gradient_checkpointing": section in ("llm", "aligned") and getattr(config, section).gradient_checkpointing,
        "peak_memory_gb": peak_memory_gb(),
    }


def prepare_codec(config: Config, folder: Path) -> Prepared:
    stage, audio, stride = config.train.codec, config.audio, config.codec.stride

    def training_step(run: Run, batch: dict) -> dict[str, Tensor]:
        mel = log_mel(batch["wave"], audio)
        mel = mel[:, :, : mel.shape[2] // stride * stride]
        output = run.generator(mel, batch["speaker"])
        losses = codec_losses(output.mel, mel) | output.losses
        run.update("generator", weighted_sum(losses, {n: w for n, w in stage.loss_weights.items() if n in losses}))
        return losses

    batch = wave_batch(config, stage, folder)
    return Prepared({"generator": build_codec(config)}, batch, training_step, stage.segment_frames / audio.frame_rate)


def prepare_llm(config: Config, _folder: Path) -> Prepared:
    stage, codec, lm = config.train.llm, codec_sizes(config), build_lm(config)
    seconds = seconds_that_fit(config, codec)
    B, L, T = stage.batch_size, int(seconds * SYMBOLS_PER_SECOND), int(seconds * codec["frame_rate"])
    zeros = torch.zeros(B, dtype=torch.long)
    batch = {
        "text": torch.randint(lm.body.config.vocab_size, (B, L)), "text_lengths": zeros + L,
        "codes": torch.randint(codec["codebook_size"], (B, codec["n_codebooks"], T)), "codes_lengths": zeros + T,
        "speaker": zeros, "language": zeros,
    }

    def training_step(run: Run, batch: dict) -> dict[str, Tensor]:
        logits, targets = run.generator(
            batch["text"], batch["text_lengths"], batch["codes"], batch["codes_lengths"], batch["speaker"],
            batch["language"],
        )
        losses = {"llm": token_cross_entropy(logits, targets)}
        run.update("generator", weighted_sum(losses, {"llm": stage.loss_weights["llm"]}))
        return losses

    return Prepared({"generator": lm}, batch, training_step, T / codec["frame_rate"])


def prepare_aligned(config: Config, _folder: Path) -> Prepared:
    stage, audio, model = config.train.aligned, config.audio, build_aligned(config)
    seconds = config.data.max_seconds
    B, S, T = stage.batch_size, int(seconds * SYMBOLS_PER_SECOND), int(seconds * audio.frame_rate)
    zeros = torch.zeros(B, dtype=torch.long)
    batch = {
        "text": torch.randint(model.encoder.symbols.num_embeddings, (B, S)), "text_lengths": zeros + S,
        "durations": torch.linspace(0, T, S + 1).long().diff().expand(B, -1),
        "mel": torch.randn(B, audio.n_mels, T), "pitch": torch.randn(B, S), "energy": torch.randn(B, S),
        "speaker": zeros, "language": zeros,
    }

    def training_step(run: Run, batch: dict) -> dict[str, Tensor]:
        output = run.generator(
            batch["text"], batch["text_lengths"], batch["durations"], batch["mel"], batch["pitch"], batch["energy"],
            batch["speaker"], batch["language"],
        )
        energy = run.unwrapped().standard_energy(batch["energy"])
        losses = aligned_losses(output, batch["durations"], batch["pitch"], energy)
        run.update("generator", weighted_sum(losses, {n: w for n, w in stage.loss_weights.items() if n in losses}))
        return losses

    return Prepared({"generator": model}, batch, training_step, T / audio.frame_rate)


def seconds_that_fit(config: Config, codec: dict) -> float:
    """Of the longest clip that is not left out of training on the language model's codes or states."""
    room = config.llm.max_positions - CONDITIONS - codec["n_codebooks"]
    return min(config.data.max_seconds, room / (SYMBOLS_PER_SECOND + codec["frame_rate"]))


def prepare_vocoder(config: Config, folder: Path, adversarial: bool) -> Prepared:
    stage, audio = config.train.vocoder, config.audio
    sizes = {"speakers": [""]} if stage.conditioning == "mel" else chain_sizes(config)
    training_step = partial(
        vocoder_step, config=config, weights=vocoder_loss_weights(config), adversarial=adversarial)
    generator = build_wave_generator(config, sizes)
    networks = {"generator": generator, "discriminator": build_discriminators(config.discriminators)}
    f0_of = partial(fundamental_frequency, audio=audio) if generator.vocoder.needs_f0 else None
    batch = wave_batch(config, stage, folder, sizes.get("codec"), f0_of)
    return Prepared(networks, batch, training_step, stage.segment_frames / audio.frame_rate)


def wave_batch(
    config: Config, stage: CodecStage | VocoderStage, folder: Path, codec: dict | None = None,
    f0_of: Callable[[Tensor], Tensor] | None = None,
) -> dict:
    """A batch of noise through the stage's own dataset; with `codec_sizes`, of random codes too, and for hidden states
    of text."""
    hidden = codec is not None and config.train.vocoder.conditioning == "hidden"
    seconds = seconds_that_fit(config, codec) if hidden else config.data.max_seconds
    sample_rate, B = config.audio.sample_rate, stage.batch_size
    save_audio(folder / "noise.wav", 0.1 * torch.randn(int(seconds * sample_rate)), sample_rate)
    codes, code_frame_rate = None, 0.0
    if codec:
        code_frame_rate = codec["frame_rate"]
        shape = codec["n_codebooks"], int(seconds * code_frame_rate)
        codes = [np.random.default_rng(stage.seed).integers(codec["codebook_size"], size=shape)] * B
    clips = [Clip(folder / "noise.wav", "")] * B
    if hidden:
        symbols = [1] * int(seconds * SYMBOLS_PER_SECOND)
        row = {"ipa": "", "codes": codes[0], "speaker": DEFAULT_SPEAKER, "language": "", "path": ""}
        dataset = SpokenSegments(
            WaveSegments(clips, [DEFAULT_SPEAKER], config.audio, stage.segment_frames, f0_of=f0_of),
            CodeSequences([row] * B, lambda _: symbols, [DEFAULT_SPEAKER], [""]),
        )
    else:
        dataset = WaveSegments(
            clips, [DEFAULT_SPEAKER], config.audio, stage.segment_frames, codes, code_frame_rate, f0_of=f0_of)
    return collate_items([dataset.draw(Draw(i, seed=i)) for i in range(B)])


STAGES: dict[str, Callable[[Config, Path], Prepared]] = {
    "codec": prepare_codec,
    "llm": prepare_llm,
    "aligned": prepare_aligned,
    "vocoder_reconstruction": partial(prepare_vocoder, adversarial=False),
    "vocoder_adversarial": partial(prepare_vocoder, adversarial=True),
}
"""The vocoder's two: before and after train.vocoder.adversarial_start."""


def stages_of(config: Config) -> list[str]:
    """Those of `STAGES` that a config's systems are trained in."""
    systems = systems_of(config)
    needed = {
        "codec": "tokens" in systems and isinstance(config.codec, MelCodecConfig), "llm": "tokens" in systems,
        "aligned": "aligned" in systems,
    }
    return [name for name in STAGES if needed.get(name, True)]
