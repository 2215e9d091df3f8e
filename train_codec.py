"""Trains our own codec, mel -> codes or latents -> mel (config section "codec" of kind "mel", "train.codec").

    python3 train_codec.py -c configs/fsq_tts.json -m my_model

Reads data.training_filelist and data.validation_filelist. The text in them is used, as IPA, only with the auxiliary
CTC loss: give train.codec.loss_weights.ctc a weight. Then batches hold whole clips, not segments.
"""

import logging
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import cli
from config import Config, GaussianConfig, MelCodecConfig, RVQConfig, load_config
from data_utils import (
    BatchStream,
    Clip,
    WaveClips,
    WaveSegments,
    check_known,
    clips_of_length,
    collate_items,
    in_turns,
    read_filelist,
    stream_batches,
)
from losses import codec_losses, discriminator_loss, generator_losses, symbol_ctc, symbols_fit, weighted_sum
from mel_processing import griffin_lim, load_audio, log_mel
from models.codec import CodecOutput, MelCodec
from models.discriminators import MelPatchDiscriminator
from models.layers.fsq import perplexity
from plotting import mel_figure, usage_figure
from processes import widest
from text import build_frontend
from training import Run

log = logging.getLogger(__name__)

VALIDATION_CLIPS = 16
ADVERSARIAL = {"adversarial", "feature_matching"}
ACTIVE_VARIANCE = 0.01  # a latent whose mean varies less over clips carries nothing (arXiv 1509.00519)


def main() -> None:
    arguments = cli.stage_arguments(__doc__).parse_args()
    train(load_config(arguments.config), arguments)


def loss_weights(config: Config) -> dict[str, float]:
    """The weights of the losses that this config's codec has."""
    weights, bottleneck = dict(config.train.codec.loss_weights), config.codec.bottleneck
    for name, kind in (("commitment", RVQConfig), ("kl", GaussianConfig)):
        if not isinstance(bottleneck, kind):
            weights.pop(name, None)
    return {name: weight for name, weight in weights.items() if weight or name not in {"ctc", *ADVERSARIAL}}


def encode_texts(clips: list[Clip], encode: Callable[[str], list[int]]) -> list[list[int]]:
    """Symbol ids of every clip's text. ValueError names the clip whose text has none."""
    symbols = []
    for clip in clips:
        try:
            symbols.append(encode(clip.text))
        except ValueError as error:
            raise ValueError(f"{clip.path}: {error}; run preprocess_ipa.py on its filelist") from error
    return symbols


def count_unfit(dataset: WaveClips, codec: MelCodec, config: Config) -> None:
    """Says how many clips the CTC loss leaves out."""
    unfit = 0
    for seconds, symbols in zip(dataset.seconds, dataset.symbols, strict=True):
        predictions = codec.frames_for(int(seconds * codec.sample_rate)) * config.codec.ctc_upsample
        row = torch.tensor([symbols])
        unfit += not symbols_fit(torch.tensor([predictions]), row, torch.tensor([len(symbols)]))
    if unfit == len(dataset):
        raise ValueError("every clip has more symbols than predictions for the CTC loss: raise codec.ctc_upsample, or "
                         "give train.codec.loss_weights.ctc no weight")
    if unfit:
        log.warning("ctc: %d of %d clips have more symbols than predictions, left out of that loss (codec.ctc_upsample "
                    "gives more)", unfit, len(dataset))


def train(config: Config, arguments) -> None:
    stage, audio = config.train.codec, config.audio
    if not isinstance(config.codec, MelCodecConfig):
        raise ValueError(f"{arguments.config}: the codec is {config.codec.kind}, pretrained: there is nothing to train")
    weights = loss_weights(config)
    with_ctc, adversarial = "ctc" in weights, bool(ADVERSARIAL & weights.keys())
    clips, held_out = (
        clips_of_length(read_filelist(path, needs_text=with_ctc), config.data, path)
        for path in (config.data.training_filelist, config.data.validation_filelist)
    )
    speakers = sorted({clip.speaker for clip in clips})
    check_known((clip.speaker for clip in held_out), speakers, "speaker", config.data.validation_filelist)
    held_out = [held_out[i] for i in in_turns([clip.speaker for clip in held_out], VALIDATION_CLIPS)]
    if arguments.test_mode:
        clips, held_out = clips[:8], held_out[:2]
    metadata, n_symbols = {"config": config.model_dump(), "speakers": speakers}, 0
    if with_ctc:
        frontend = build_frontend(config.text)
        metadata["text"], n_symbols = frontend.state(), len(frontend)
        held_out_symbols = encode_texts(held_out, frontend.encode)
        dataset = WaveClips(clips, encode_texts(clips, frontend.encode), speakers, audio.sample_rate)
        if frontend.unknown:
            log.warning("unknown symbols in the text: %s", dict(frontend.unknown.most_common(10)))
    else:
        dataset = WaveSegments(clips, speakers, audio, stage.segment_frames)

    torch.manual_seed(stage.seed)
    codec = MelCodec(config.codec, audio, len(speakers), n_symbols)
    if with_ctc:
        count_unfit(dataset, codec, config)
    run = Run(
        stage_name="codec", stage=stage, arguments=arguments, generator=codec, metadata=metadata,
        discriminator=MelPatchDiscriminator(config.discriminators.mel_channels) if adversarial else None,
    )
    if codec.gives_codes:
        log.info("%.1f code frames a second of %d x %d codes: %.0f bits a second", codec.frame_rate, codec.n_codebooks,
                 codec.codebook_size, codec.frame_rate * codec.n_codebooks * math.log2(codec.codebook_size))

    def mel_and_mask(batch: dict) -> tuple[Tensor, Tensor | None]:
        wave = batch["wave"].to(run.device)
        if with_ctc:
            return run.unwrapped().mel_and_mask(wave, batch["wave_lengths"])
        return whole_frames(log_mel(wave, audio), config.codec.stride), None

    def losses_of(output: CodecOutput, mel: Tensor, mask: Tensor | None, batch: dict) -> dict[str, Tensor]:
        losses = codec_losses(output.mel, mel, mel_mask(mask, config.codec.stride)) | output.losses
        if with_ctc:
            lengths = mask.sum(dim=(1, 2)) * config.codec.ctc_upsample
            text, text_lengths = batch["text"].to(run.device), batch["text_lengths"].to(run.device)
            losses["ctc"] = symbol_ctc(output.symbol_logits, lengths, text, text_lengths)
        return losses

    def training_step(run: Run, batch: dict) -> dict[str, Tensor]:
        mel, mask = mel_and_mask(batch)
        output = run.generator(mel, batch["speaker"].to(run.device), mask)
        losses = losses_of(output, mel, mask, batch)
        step_weights = dict(weights)
        if "kl" in weights:
            step_weights["kl"] *= min(1.0, run.step / max(1.0, stage.kl_annealing * stage.max_steps))
        if not adversarial or run.step < stage.adversarial_start:
            names = step_weights.keys() - ADVERSARIAL
            run.update("generator", weighted_sum(losses, {name: step_weights[name] for name in names}))
            return losses

        rebuilt = output.mel
        if mask is not None:
            # what lies behind a clip's end is not judged, and is as long as if all processes' clips were in one batch
            rebuilt = torch.where(mel_mask(mask, config.codec.stride), rebuilt, mel)
            padding = 0, widest(mel) - mel.shape[2]
            rebuilt, mel = (F.pad(x, padding, value=math.log(audio.floor)) for x in (rebuilt, mel))
        loss = discriminator_loss(run.discriminator, rebuilt, mel)
        run.update("discriminator", loss)
        with run.frozen("discriminator") as discriminator:
            losses |= generator_losses(discriminator, rebuilt, mel)
            run.update("generator", weighted_sum(losses, step_weights))
        return losses | {"discriminator": loss}

    def validate(run: Run) -> dict[str, float]:
        codec, outputs, totals, errors = run.validation_network(), [], {}, {}
        for i, clip in enumerate(held_out):
            wave = load_audio(clip.path, audio.sample_rate).to(run.device)
            batch = {"wave": wave[None], "wave_lengths": torch.tensor([len(wave)])}
            if with_ctc:
                text = torch.tensor([held_out_symbols[i]])
                batch |= {"text": text, "text_lengths": torch.tensor([text.shape[1]])}
            mel, mask = mel_and_mask(batch)
            output = codec(mel, torch.tensor([speakers.index(clip.speaker)], device=run.device), mask)
            outputs.append(output)
            errors.setdefault(clip.speaker, []).append(F.l1_loss(output.mel, mel).item())
            for name, loss in losses_of(output, mel, mask, batch).items():
                totals.setdefault(name, []).append(loss.item())
            if i == 0:
                run.log_figure("mel", mel_figure({"recording": mel[0], "through the codec": output.mel[0]}))
                run.log_audio("griffin_lim", griffin_lim(output.mel, audio)[0], audio.sample_rate)
        values = {name: sum(losses) / len(losses) for name, losses in totals.items() if name in {"ctc", "kl"}}
        values |= {f"mel_l1/{speaker}": sum(all_) / len(all_) for speaker, all_ in errors.items()}
        values |= code_statistics(run, codec, outputs) if codec.gives_codes else latent_statistics(codec, outputs)
        all_errors = [error for speaker_errors in errors.values() for error in speaker_errors]
        return values | {"score": sum(all_errors) / len(all_errors)}

    stream = BatchStream(
        dataset.seconds, stage.batch_size, stage.seed, run.accelerator.process_index, run.accelerator.num_processes
    )
    batches = stream_batches(dataset, stream, collate_items, config.data.workers)
    longest_batch = collate_items([dataset.draw(draw) for draw in stream.longest()])
    run.fit(batches, stream.batches_per_epoch, longest_batch, training_step, validate,
            lambda batch: float(batch["wave_lengths"].sum()))


def whole_frames(mel: Tensor, stride: int) -> Tensor:
    """The mel (B, n_mels, T) without the last frames that fill no code frame."""
    return mel[:, :, : mel.shape[2] // stride * stride]


def mel_mask(mask: Tensor | None, stride: int) -> Tensor | None:
    """A mask (B, 1, T) of code frames as one of mel frames (B, 1, T * stride)."""
    return None if mask is None else mask.repeat_interleave(stride, dim=2)


def code_statistics(run: Run, codec: MelCodec, outputs: list[CodecOutput]) -> dict[str, float]:
    """Perplexity and usage (the share that occurs) of each codebook, and the bits a second of codes with these
    frequencies; a picture of the frequencies."""
    codes = torch.cat([output.codes[0] for output in outputs], dim=1)  # (n_codebooks, frames)
    values, bits = {}, 0.0
    for k, codebook in enumerate(codes):
        values[f"perplexity/{k}"], values[f"usage/{k}"] = perplexity(codebook, codec.codebook_size)
        bits += math.log2(values[f"perplexity/{k}"])
    counts = {f"codebook {k}": torch.bincount(row, minlength=codec.codebook_size) for k, row in enumerate(codes)}
    run.log_figure("usage", usage_figure(counts))
    return values | {"bits_per_second": bits * codec.frame_rate}


def latent_statistics(codec: MelCodec, outputs: list[CodecOutput]) -> dict[str, float]:
    """The share of latents in use, and the bits a second that their KL bounds from above."""
    latents = torch.cat([output.latents[0] for output in outputs], dim=1)  # (latent_size, frames)
    frames = [output.latents.shape[2] for output in outputs]
    nats = sum(float(output.losses["kl"]) * n for output, n in zip(outputs, frames, strict=True)) / sum(frames)
    active = (latents.var(dim=1) > ACTIVE_VARIANCE).float().mean()
    return {"active_latents": float(active), "bits_per_second": nats / math.log(2) * codec.frame_rate}


if __name__ == "__main__":
    cli.run(main)
