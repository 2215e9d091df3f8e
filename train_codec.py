"""Trains our own codec, mel -> codes -> mel (config section "codec" of kind "mel", "train.codec").

    python3 train_codec.py -c configs/ipa_tts_small.json -m my_model

Reads data.training_filelist and data.validation_filelist; the text in them is not used.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

import cli
from config import Config, MelCodecConfig, load_config
from data_utils import (
    BatchStream,
    WaveSegments,
    check_known,
    clips_of_length,
    collate_items,
    read_filelist,
    stream_batches,
)
from losses import codec_losses, weighted_sum
from mel_processing import griffin_lim, load_audio, log_mel
from models.codec import MelCodec
from models.layers.fsq import perplexity
from plotting import mel_figure
from training import Run, stage_arguments

VALIDATION_CLIPS = 16


def main() -> None:
    arguments = stage_arguments(__doc__).parse_args()
    config = load_config(arguments.config)
    train(config, arguments)


def train(config: Config, arguments) -> None:
    stage, audio = config.train.codec, config.audio
    if not isinstance(config.codec, MelCodecConfig):
        raise ValueError(f"{arguments.config}: the codec is {config.codec.kind}, pretrained: there is nothing to train")
    if stage.segment_frames % config.codec.stride:
        raise ValueError(f"{arguments.config}: train.codec.segment_frames must be a multiple of codec.stride")
    clips, held_out = (
        clips_of_length(read_filelist(path, needs_text=False), config.data, path)
        for path in (config.data.training_filelist, config.data.validation_filelist)
    )
    speakers = sorted({clip.speaker for clip in clips})
    check_known((clip.speaker for clip in held_out), speakers, "speaker", config.data.validation_filelist)
    held_out = held_out[:VALIDATION_CLIPS]
    if arguments.test_mode:
        clips, held_out = clips[:8], held_out[:2]
    dataset = WaveSegments(clips, speakers, audio, stage.segment_frames)

    torch.manual_seed(stage.seed)
    run = Run(
        stage_name="codec", stage=stage, arguments=arguments,
        generator=MelCodec(config.codec, audio, len(speakers)),
        metadata={"config": config.model_dump(), "speakers": speakers},
    )

    def training_step(run: Run, batch: dict) -> dict[str, Tensor]:
        mel = log_mel(batch["wave"].to(run.device), audio)
        frames = mel.shape[2] // config.codec.stride * config.codec.stride
        mel = mel[:, :, :frames]
        losses = codec_losses(run.generator(mel, batch["speaker"].to(run.device)).mel, mel)
        run.update("generator", weighted_sum(losses, stage.loss_weights))
        return losses

    def validate(run: Run) -> dict[str, float]:
        codec, totals, codes = run.validation_network(), {}, []
        for i, clip in enumerate(held_out):
            wave = load_audio(clip.path, audio.sample_rate).to(run.device)
            mel = log_mel(wave[None], audio)
            frames = mel.shape[2] // config.codec.stride * config.codec.stride
            mel = mel[:, :, :frames]
            speaker = torch.tensor([speakers.index(clip.speaker)], device=run.device)
            output = codec(mel, speaker)
            codes.append(output.codes[0])
            totals.setdefault(f"mel_l1/{clip.speaker}", []).append(F.l1_loss(output.mel, mel).item())
            if i == 0:
                run.log_figure("mel", mel_figure({"recording": mel[0], "through the codec": output.mel[0]}))
                run.log_audio("griffin_lim", griffin_lim(output.mel, audio)[0], audio.sample_rate)
        values = {name: sum(errors) / len(errors) for name, errors in totals.items()}
        all_codes = torch.cat(codes, dim=1)  # (n_codebooks, frames)
        for k, codebook in enumerate(all_codes):
            values[f"perplexity/{k}"], values[f"usage/{k}"] = perplexity(codebook, codec.codebook_size)
        errors = [error for clip_errors in totals.values() for error in clip_errors]
        return values | {"score": sum(errors) / len(errors)}

    stream = BatchStream(
        dataset.seconds, stage.batch_size, stage.seed, run.accelerator.process_index, run.accelerator.num_processes
    )
    batches = stream_batches(dataset, stream, collate_items, config.data.workers)
    longest_batch = collate_items([dataset.draw(draw) for draw in stream.longest()])
    run.fit(batches, stream.batches_per_epoch, longest_batch, training_step, validate)


if __name__ == "__main__":
    cli.run(main)
