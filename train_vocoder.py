"""Trains the vocoder, mel or codes -> wave, with discriminators (config sections "vocoder", "discriminators",
"train.vocoder").

    python3 train_vocoder.py -c configs/ipa_tts.json -m my_model

train.vocoder.conditioning "mel": the recordings' own mel; needs no codes. "codes": the mel decoder and the vocoder
together on the cached codes, so that the vocoder hears what synthesis will give it; the decoder of our own codec
starts from the trained codec and goes on learning, EnCodec's starts fresh.
"""

import itertools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import cli
from codes_cache import load_codes
from config import Config, load_config
from data_utils import (
    BatchStream,
    Clip,
    WaveSegments,
    check_known,
    clips_of_length,
    collate_items,
    read_filelist,
    stream_batches,
)
from losses import discriminator_loss, generator_losses, reconstruction_losses, weighted_sum
from mel_processing import audio_seconds, frames_for, log_mel
from models import build_wave_generator, codec_data, generate_wave, load_codec
from models.codec import MelCodec
from models.discriminators import build_discriminators
from models.encodec import Encodec
from models.vocoder import load_published_vocos
from plotting import mel_figure
from training import Run, stage_arguments

VALIDATION_CLIPS = 16
VALIDATION_SECONDS = 3.0


def main() -> None:
    arguments = stage_arguments(__doc__).parse_args()
    train(load_config(arguments.config), arguments)


def load_clips(config: Config, part: str, codec: Encodec | MelCodec | None) -> tuple[list[Clip], list | None]:
    """The clips of `part` (training or validation), and their codes when conditioned on them."""
    if codec is None:
        filelist = getattr(config.data, f"{part}_filelist")
        return clips_of_length(read_filelist(filelist, needs_text=False), config.data, filelist), None
    rows = load_codes(f"{config.data.codes}/{part}", codec.fingerprint)
    clips = [Clip(Path(row["path"]), row["ipa"], row["speaker"], row["language"]) for row in rows]
    return clips, [np.array(codes, dtype=np.int16) for codes in rows["codes"]]


def train(config: Config, arguments) -> None:
    stage, audio = config.train.vocoder, config.audio
    codec = load_codec(config, arguments.model) if stage.conditioning == "codes" else None
    clips, codes = load_clips(config, "training", codec)
    held_out, held_out_codes = load_clips(config, "validation", codec)
    # the trained decoder of our own codec has its speakers
    speakers = codec.speakers if isinstance(codec, MelCodec) else sorted({clip.speaker for clip in clips})
    for part, filelist in ((clips, config.data.training_filelist), (held_out, config.data.validation_filelist)):
        check_known((clip.speaker for clip in part), speakers, "speaker", filelist)
    held_out = held_out[:VALIDATION_CLIPS]
    if arguments.test_mode:
        clips, held_out = clips[:8], held_out[:2]
    metadata = {"config": config.model_dump(), "speakers": speakers, "codec": codec and codec_data(codec)}
    code_rate = codec.frame_rate if codec else 0.0
    dataset = WaveSegments(clips, speakers, audio, stage.segment_frames, codes, code_rate)
    validation_frames = int(VALIDATION_SECONDS * audio.frame_rate)
    validation_set = WaveSegments(held_out, speakers, audio, validation_frames, held_out_codes, code_rate)

    torch.manual_seed(stage.seed)
    generator = build_wave_generator(config, len(speakers), metadata["codec"])
    if isinstance(codec, MelCodec):
        generator.decoder.load_state_dict(codec.decoder.state_dict())
    if config.vocoder.kind == "vocos" and config.vocoder.pretrained:
        load_published_vocos(generator.vocoder, config.vocoder.pretrained)
    run = Run(
        stage_name="vocoder", stage=stage, arguments=arguments, generator=generator,
        discriminator=build_discriminators(config.discriminators), metadata=metadata,
    )
    # the weights of losses that this generator does not have
    absent = {"decoder_mel"} if codec is None else set()
    absent |= {"subband_stft"} if config.vocoder.kind == "vocos" else set()
    weights = {name: weight for name, weight in stage.loss_weights.items() if name not in absent}
    adversarial = {"adversarial", "feature_matching"}

    def training_step(run: Run, batch: dict) -> dict[str, Tensor]:
        batch = run.to_device(batch)
        wave = batch["wave"]
        mel = log_mel(wave, audio)
        decoded_mel, output = generate_wave(run.generator, batch, mel)
        wave = wave[:, : output.wave.shape[1]]
        losses = reconstruction_losses(
            output.wave, wave, mel, audio, fake_subbands=output.subbands,
            real_subbands=run.unwrapped().vocoder.analysis(wave), decoded_mel=decoded_mel,
        )
        if run.step < stage.adversarial_start:
            run.update("generator", weighted_sum(losses, {n: w for n, w in weights.items() if n not in adversarial}))
            return losses

        loss = discriminator_loss(run.discriminator, output.wave, wave)
        run.update("discriminator", loss)
        with run.frozen("discriminator") as discriminator:
            losses |= generator_losses(discriminator, output.wave, wave)
            run.update("generator", weighted_sum(losses, weights))
        return losses | {"discriminator": loss}

    def validate(run: Run) -> dict[str, float]:
        network, errors = run.validation_network(), []
        for i in range(len(validation_set)):
            batch = run.to_device(collate_items([validation_set.segment(i, 0)]))
            # silence after the end of a short clip would flatter the figure
            samples = min(int(audio_seconds(held_out[i].path) * audio.sample_rate), batch["wave"].shape[1])
            frames = max(1, frames_for(samples, audio) - 2)
            mel = log_mel(batch["wave"], audio)
            decoded_mel, output = generate_wave(network, batch, mel)
            made = log_mel(output.wave, audio)
            errors.append(F.l1_loss(made[..., :frames], mel[..., :frames]))
            if i == 0:
                pictures = {"recording": mel[0], "generated wave": made[0]}
                if decoded_mel is not None:
                    pictures["decoder"] = decoded_mel[0]
                run.log_figure("mel", mel_figure(pictures))
                run.log_audio("generated", output.wave[0, :samples], audio.sample_rate)
                if run.step == 0:
                    run.log_audio("recording", batch["wave"][0, :samples], audio.sample_rate)
        score = torch.stack(errors).mean()
        return {"mel_l1": score, "score": score}

    stream = BatchStream(
        list(itertools.repeat(1, len(dataset))), stage.batch_size, stage.seed,
        run.accelerator.process_index, run.accelerator.num_processes,
    )
    batches = stream_batches(dataset, stream, collate_items, config.data.workers)
    longest_batch = collate_items([dataset.draw(draw) for draw in stream.longest()])
    run.fit(batches, stream.batches_per_epoch, longest_batch, training_step, validate)


if __name__ == "__main__":
    cli.run(main)
