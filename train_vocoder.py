"""Trains the vocoder, mel, codes or hidden states -> wave, with discriminators (config sections "vocoder",
"discriminators", "train.vocoder").

    python3 train_vocoder.py -c configs/ipa_tts.json -m my_model

train.vocoder.conditioning "mel": the recordings' own mel; needs no codes; with predicted_start from then on the mels
that the aligned-duration model makes of the clips (preprocess_mels.py). "codes": the mel decoder and the vocoder
together on the cached codes, so that the vocoder hears what synthesis will give it; the decoder of our own codec
starts from the trained codec and goes on learning, EnCodec's starts fresh. "hidden": a fresh decoder of the trained
language model's states (section "hidden_decoder") and the vocoder, with "joint" the language model as well; the
checkpoint holds the language model, too, and speaks alone.
"""

import logging
import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import cli
from checkpoints import load_weights, network_weights, require_checkpoint
from codes_cache import load_codes, read_info
from config import Config, load_config, parse_config
from data_utils import (
    BatchStream,
    Clip,
    CodeSequences,
    WaveSegments,
    check_known,
    clips_of_length,
    collate_items,
    in_turns,
    read_filelist,
    stream_batches,
)
from lm_data import SpokenSegments, fitting
from losses import token_cross_entropy
from mel_processing import audio_seconds, frames_for, log_mel
from mels_cache import load_mels
from models import build_wave_generator, codec_data, generate_wave, load_codec
from models.codec import MelCodec
from models.discriminators import build_discriminators
from models.vocoder import load_published_vocos
from plotting import mel_figure
from prosody import fundamental_frequency
from text import build_frontend
from training import Run
from vocoder_step import vocoder_loss_weights, vocoder_step

log = logging.getLogger(__name__)

VALIDATION_CLIPS = 16
VALIDATION_SECONDS = 3.0


def main() -> None:
    arguments = cli.stage_arguments(__doc__).parse_args()
    train(load_config(arguments.config), arguments)


def load_clips(config: Config, part: str, fingerprint: str | None):
    """The clips of `part` (training or validation), and the rows of their cached codes where a codec is heard."""
    if fingerprint is None:
        filelist = getattr(config.data, f"{part}_filelist")
        return clips_of_length(read_filelist(filelist, needs_text=False), config.data, filelist), None
    rows = load_codes(f"{config.data.codes}/{part}", fingerprint)
    return [Clip(Path(row["path"]), row["ipa"], row["speaker"], row["language"]) for row in rows], rows


def load_lm(config: Config, model: str) -> dict:
    """The newest checkpoint of a model's language model.

    ValueError if there is none, if it was trained with other sections than the config's, with another text frontend, or
    on the codes of another codec than the cached ones.
    """
    folder = Path("checkpoints") / model / "llm"
    checkpoint = require_checkpoint(folder, f"python3 train_llm.py -c CONFIG -m {model}")
    stored = parse_config(checkpoint["config"], f"the config in {folder}")
    for section in ("audio", "text", "llm"):
        if getattr(stored, section) != getattr(config, section):
            raise ValueError(f"{folder}: was trained with another {section} section than this config's; use the config "
                             "it was trained with, or train a language model under another model name")
    build_frontend(stored.text).check_state(checkpoint["text"], str(folder))
    codes, ours = read_info(f"{config.data.codes}/training"), checkpoint["codec"]["fingerprint"]
    if codes is not None and codes["fingerprint"] != ours:
        raise ValueError(f"{folder}: the language model speaks codes of codec {ours}, {config.data.codes} holds those "
                         f"of codec {codes['fingerprint']}: train it on these, or make the codes of its own codec")
    return checkpoint


def train(config: Config, arguments) -> None:
    stage, audio = config.train.vocoder, config.audio
    hidden = stage.conditioning == "hidden"
    codec = load_codec(config, arguments.model) if stage.conditioning == "codes" else None
    lm_data = load_lm(config, arguments.model) if hidden else {"codec": codec and codec_data(codec)}
    fingerprint = lm_data["codec"] and lm_data["codec"]["fingerprint"]
    clips, rows = load_clips(config, "training", fingerprint)
    held_out, held_out_rows = load_clips(config, "validation", fingerprint)
    metadata = {"config": config.model_dump(), "codec": lm_data["codec"]}
    if hidden:
        # all that speaking from this checkpoint alone needs
        metadata |= {key: lm_data[key] for key in
                     ("speakers", "speaker_languages", "languages", "text", "frames_per_symbol")}
        metadata["learned_voices"] = lm_data["config"]["train"]["llm"]["voice_probability"] > 0
        metadata["joint"] = stage.joint
    else:
        # the trained decoder of our own codec has its speakers
        metadata["speakers"] = codec.speakers if isinstance(codec, MelCodec) else sorted({c.speaker for c in clips})
    speakers = metadata["speakers"]
    for part, filelist in ((clips, config.data.training_filelist), (held_out, config.data.validation_filelist)):
        check_known((clip.speaker for clip in part), speakers, "speaker", filelist)
        if hidden:
            check_known((clip.language for clip in part), metadata["languages"], "language", filelist)

    torch.manual_seed(stage.seed)
    generator = build_wave_generator(config, metadata)
    if isinstance(codec, MelCodec):
        generator.decoder.load_state_dict(codec.decoder.state_dict())
    if hidden:
        load_weights(generator.lm, network_weights(lm_data), Path("checkpoints") / arguments.model / "llm")
        frontend = build_frontend(config.text)

    f0_of = partial(fundamental_frequency, audio=audio) if generator.vocoder.needs_f0 else None

    def segments(clips: list[Clip], rows, part: str, n_clips: int, n_frames: int):
        """A dataset of segments of the first `n_clips` of a part, these clips, and how much of a batch each takes."""
        kept, lengths = range(len(clips)), [1] * len(clips)
        if hidden:
            positions_for = generator.lm.state_positions_for
            kept, sizes = fitting(rows, frontend.encode, positions_for, config.llm.max_positions, part)
            lengths = [positions_for(*size) for size in sizes]
        if part == "validation":
            turns = in_turns([clips[i].speaker for i in kept], n_clips)
            kept, lengths = [kept[i] for i in turns], [lengths[i] for i in turns]
        kept, lengths = kept[:n_clips], lengths[:n_clips]
        clips, rows = [clips[i] for i in kept], rows and rows.select(kept)
        if hidden:
            waves = WaveSegments(clips, speakers, audio, n_frames, f0_of=f0_of)
            texts = CodeSequences(rows, frontend.encode, speakers, metadata["languages"])
            return SpokenSegments(waves, texts), clips, lengths
        codes = rows and [np.array(codes, dtype=np.int16) for codes in rows["codes"]]
        mels = None
        if stage.predicted_start is not None:
            mels = load_mels(f"{config.data.mels}/{part}", [clip.path for clip in clips], audio)
        code_rate = codec.frame_rate if codec else 0.0
        waves = WaveSegments(clips, speakers, audio, n_frames, codes, code_rate, mels=mels, f0_of=f0_of)
        return waves, clips, lengths

    most = (8, 2) if arguments.test_mode else (len(clips), VALIDATION_CLIPS)
    dataset, clips, lengths = segments(clips, rows, "training", most[0], stage.segment_frames)
    validation_frames = int(VALIDATION_SECONDS * audio.frame_rate)
    speech, scored_by = None, "loss"
    if stage.evaluate:
        from evaluation.held_out import HeldOutSpeech  # here, as it needs packages of its own

        longest = max(audio_seconds(clip.path) for clip in held_out)
        copied_set, copied, _ = segments(held_out, held_out_rows, "validation", max(most[1], stage.evaluate),
                                         math.ceil(longest * audio.frame_rate))
        speech = HeldOutSpeech([clip.path for clip in copied], config, "vocoder")
        scored_by = f"copies of {speech.name}"
    validation_set, held_out, _ = segments(held_out, held_out_rows, "validation", most[1], validation_frames)
    if config.vocoder.kind == "vocos" and config.vocoder.pretrained:
        load_published_vocos(generator.vocoder, config.vocoder.pretrained)
    run = Run(
        stage_name="vocoder", stage=stage, arguments=arguments, generator=generator,
        discriminator=build_discriminators(config.discriminators), metadata=metadata, scored_by=scored_by,
    )
    weights = vocoder_loss_weights(config)

    def predicted_mel(run: Run, batch: dict) -> Tensor | None:
        """What the vocoder is given in place of the recording's mel from predicted_start on."""
        return None if stage.predicted_start is None or run.step < stage.predicted_start else batch["predicted_mel"]

    def generated(run: Run, batch: dict, mel: Tensor) -> tuple:
        """What becomes of held-out clips; as in synthesis, the vocoder has no f0 but its own."""
        predicted = predicted_mel(run, batch)
        without_f0 = {name: value for name, value in batch.items() if name != "f0"}
        return generate_wave(run.validation_network(), without_f0, mel if predicted is None else predicted)

    def training_step(run: Run, batch: dict) -> dict[str, Tensor]:
        batch = run.to_device(batch)
        return vocoder_step(
            run, batch, config, weights, adversarial=run.step >= stage.adversarial_start,
            predicted_mel=predicted_mel(run, batch),
        )

    def copy(run: Run, index: int) -> Tensor:
        """What becomes of a whole held-out clip, (samples,)."""
        batch = run.to_device(collate_items([copied_set.segment(index, 0)]))
        wave = generated(run, batch, log_mel(batch["wave"], audio))[1].wave
        return wave[0, : int(audio_seconds(copied[index].path) * audio.sample_rate)]

    def validate(run: Run) -> dict[str, float]:
        errors, llm = [], []
        for i in range(len(validation_set)):
            batch = run.to_device(collate_items([validation_set.segment(i, 0)]))
            # silence after the end of a short clip would flatter the figure
            samples = min(int(audio_seconds(held_out[i].path) * audio.sample_rate), batch["wave"].shape[1])
            frames = max(1, frames_for(samples, audio) - 2)
            mel = log_mel(batch["wave"], audio)
            decoded_mel, output, *predicted = generated(run, batch, mel)
            if predicted:
                llm.append(token_cross_entropy(*predicted))
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
        values = {"mel_l1": score, "score": score} | ({"llm": torch.stack(llm).mean()} if llm else {})
        return values | (speech.measure([copy(run, i) for i in speech.indices], copies=True) if speech else {})

    stream = BatchStream(
        lengths, stage.batch_size, stage.seed, run.accelerator.process_index, run.accelerator.num_processes
    )
    batches = stream_batches(dataset, stream, collate_items, config.data.workers)
    longest_batch = collate_items([dataset.draw(draw) for draw in stream.longest()])
    run.fit(batches, stream.batches_per_epoch, longest_batch, training_step, validate)


if __name__ == "__main__":
    cli.run(main)
