"""Trains the aligned-duration model, phonemes with durations -> mel (config sections "aligned", "train.aligned").

    python3 align.py -c configs/voice.json -m my_model           # the durations, once
    python3 train_aligned.py -c configs/voice.json -m my_model

Reads the durations that align.py made, or imported from TextGrids. The mel decoder is parallel, a flow, or
autoregressive: aligned.decoder.kind.
"""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

import cli
from aligned_data import AlignedClips, measure_statistics
from config import Config, load_config
from data_utils import BatchStream, check_known, collate_items, in_turns, main_languages, stream_batches
from durations_cache import durations_fingerprint, load_durations
from losses import aligned_losses, weighted_sum
from mel_processing import griffin_lim
from models import build_aligned_tts
from plotting import mel_figure
from text import build_frontend
from training import Run

log = logging.getLogger(__name__)

VALIDATION_CLIPS = 16
TEST_CLIPS = 100
OPTIONAL_LOSSES = {"flow": "flow", "stop": "autoregressive"}  # the decoder that has each


def main() -> None:
    arguments = cli.stage_arguments(__doc__).parse_args()
    train(load_config(arguments.config), arguments)


def train(config: Config, arguments) -> None:
    stage, audio, frontend = config.train.aligned, config.audio, build_frontend(config.text)
    fingerprint = durations_fingerprint(audio.model_dump(), frontend.state())
    rows, held_out = (load_durations(f"{config.data.durations}/{part}", fingerprint)
                      for part in ("training", "validation"))
    speakers, languages = sorted(set(rows["speaker"])), sorted(set(rows["language"]))
    check_known(held_out["speaker"], speakers, "speaker", config.data.validation_filelist)
    check_known(held_out["language"], languages, "language", config.data.validation_filelist)
    seconds = rows["seconds"]
    usable = [i for i, length in enumerate(seconds) if config.data.min_seconds <= length <= config.data.max_seconds]
    if len(usable) < len(rows):
        log.warning("%d of %d clips left out, not within data.min_seconds and max_seconds", len(rows) - len(usable),
                    len(rows))
    if not usable:
        raise ValueError(f"{config.data.durations}: no clip lies within data.min_seconds and max_seconds")
    rows = rows.select(usable)
    held_out = held_out.select(in_turns(held_out["speaker"], max(VALIDATION_CLIPS, stage.evaluate)))
    if arguments.test_mode:
        handful = in_turns(rows["speaker"], max(TEST_CLIPS, len(speakers)))
        rows, held_out = rows.select(handful), held_out.select(range(min(2, len(held_out))))
    statistics = measure_statistics(rows, audio)
    metadata = {
        "config": config.model_dump(), "speakers": speakers, "languages": languages, "text": frontend.state(),
        "speaker_languages": main_languages(rows["speaker"], rows["language"]),
        "speaker_pitch": {name: statistics.speaker_pitch[name] for name in speakers},
    }

    torch.manual_seed(stage.seed)
    model = build_aligned_tts(config, metadata)
    model.set_statistics(statistics.mel_mean, statistics.mel_std, statistics.energy_mean, statistics.energy_std)
    speech, scored_by = None, "loss"
    if stage.evaluate:
        from evaluation.held_out import spoken_by_model  # here, as it needs packages of its own

        speech, to_wave, scored_by = spoken_by_model(held_out["path"], config, "aligned", arguments.model)
    run = Run(stage_name="aligned", stage=stage, arguments=arguments, generator=model, metadata=metadata,
              scored_by=scored_by)
    absent = {name for name, kind in OPTIONAL_LOSSES.items() if kind != config.aligned.decoder.kind}
    weights = {name: weight for name, weight in stage.loss_weights.items() if name not in absent}

    def losses_of(model: torch.nn.Module, batch: dict) -> dict[str, Tensor]:
        output = model(
            batch["text"], batch["text_lengths"], batch["durations"], batch["mel"], batch["pitch"], batch["energy"],
            batch["speaker"], batch["language"],
        )
        energy = run.unwrapped().standard_energy(batch["energy"])
        return aligned_losses(output, batch["durations"], batch["pitch"], energy)

    def training_step(run: Run, batch: dict) -> dict[str, Tensor]:
        losses = losses_of(run.generator, run.to_device(batch))
        run.update("generator", weighted_sum(losses, weights))
        return losses

    def validate(run: Run) -> dict[str, float]:
        model, totals, errors, seconds, waves = run.validation_network(), {}, [], [0.0, 0.0], []
        torch.manual_seed(0)  # a flow is measured at the same times and noise every time
        for i in range(len(held_out_clips)):
            batch = run.to_device(collate_items([held_out_clips[i]]))
            for name, loss in losses_of(model, batch).items():
                totals.setdefault(name, []).append(loss.item())
            given = [batch[name] for name in ("text", "text_lengths", "durations", "pitch", "energy", "speaker",
                                              "language")]
            mel, made = batch["mel"], model.spoken_mel(*given)[0]
            errors.append(F.l1_loss(made, mel[0, :, : made.shape[1]]).item())
            spoken = model.generate([batch["text"][0]], batch["speaker"], batch["language"])[0]
            for k, frames in enumerate((spoken.mel.shape[1], mel.shape[2])):
                seconds[k] += frames / audio.frame_rate
            if speech and i in speech.indices:
                waves.append(to_wave(spoken.mel[None]))
            if i == 0:
                run.log_figure("mel", mel_figure({
                    "recording": mel[0], "with the recording's prosody": made, "with its own": spoken.mel,
                }))
                run.log_audio("griffin_lim", griffin_lim(spoken.mel[None], audio)[0], audio.sample_rate)
        values = {name: sum(losses) / len(losses) for name, losses in totals.items()}
        mel_l1 = sum(errors) / len(errors)
        values |= {"mel_l1": mel_l1, "duration_ratio": seconds[0] / seconds[1], "score": mel_l1}
        return values | (speech.measure(waves) if speech else {})

    def encode(ipa: str) -> list[int]:
        return [frontend.bos_id, *frontend.encode(ipa), frontend.eos_id]

    dataset, held_out_clips = (
        AlignedClips(part, encode, speakers, languages, audio, statistics.speaker_pitch) for part in (rows, held_out)
    )
    stream = BatchStream(
        rows["seconds"], stage.batch_size, stage.seed, run.accelerator.process_index, run.accelerator.num_processes
    )
    batches = stream_batches(dataset, stream, collate_items, config.data.workers)
    longest_batch = collate_items([dataset.draw(draw) for draw in stream.longest()])
    run.fit(batches, stream.batches_per_epoch, longest_batch, training_step, validate,
            lambda batch: float(batch["mel_lengths"].sum()))


if __name__ == "__main__":
    cli.run(main)
