"""Trains the aligner on the recordings and their IPA, then writes where every symbol is: durations and TextGrids.

    python3 align.py -c configs/voice.json -m my_model
    python3 align.py -c configs/voice.json -m my_model -i other_ipa.txt -o alignments     # with the trained aligner

Config sections: "aligner", "train.aligner"; filelists: data.training_filelist, data.validation_filelist. In
data.durations are then, for `training` and `validation` each, the durations (`durations_cache`) and a folder
`<part>_reports` with `TextGrid/`, `words.json` and `scores.csv`, worst fit of text and recording first. An aligner that
is at its max_steps is not trained further. With data.alignments a folder of TextGrids of the Montreal Forced Aligner
(`TextGrid/` beside LJSpeech's `wavs/`), nothing is trained and the durations are theirs.
"""

import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import datasets
import torch
from torch import Tensor
from tqdm import tqdm

import cli
from alignments.clips import UNKNOWN_SPEAKER, AlignedClips, batches_by_length
from alignments.imported import durations_from_textgrid, find_textgrid
from alignments.report import write_reports
from checkpoints import require_checkpoint, saved_steps
from config import Config, load_config, parse_config
from data_utils import BatchStream, Clip, clips_of_length, collate_items, in_turns, read_filelist, stream_batches
from durations_cache import durations_fingerprint, write_durations
from launcher import is_main, own_part
from mel_processing import frames_for, load_audio
from models import build_aligner, load_network
from models.aligner import Aligner
from models.layers.alignment import beta_binomial_prior, forward_sum_loss
from processes import join, to_main, wait
from text import Frontend, build_frontend
from text.phonemes import alignment_units
from training import Run

log = logging.getLogger(__name__)

VALIDATION_CLIPS = 64
QUIETER = 1.0  # nepers (8.7 dB) under the clip's mean log-mel, where silence may begin
LOUD_SILENCE = 10.0  # nats against it elsewhere


def main() -> None:
    parser = cli.stage_arguments(__doc__)
    parser.add_argument("-i", "--input", help="align this IPA filelist with the trained aligner instead")
    parser.add_argument("-o", "--output", help="folder for what -i gives")
    arguments = parser.parse_args()
    if bool(arguments.input) != bool(arguments.output):
        raise ValueError("-i FILELIST and -o FOLDER go together")
    config = load_config(arguments.config)
    if config.text.frontend != "ipa":
        raise ValueError(f"{arguments.config}: text.frontend is {config.text.frontend}; only IPA has phones to align")
    datasets.disable_progress_bars()
    if config.data.alignments != "own":
        if arguments.input:
            raise ValueError("-i is for our own aligner, and data.alignments is a folder of TextGrids")
        align_filelists(config, lambda clips, _frontend: imported_alignments(config, clips), config.data.alignments)
        return
    folder = Path("checkpoints") / arguments.model / "aligner"
    finished = max(saved_steps(folder), default=0) >= config.train.aligner.max_steps and arguments.resume == "auto"
    if not arguments.input and not finished and not train(config, arguments):
        return
    aligner, checkpoint = load_aligner(arguments.model, config)
    aligned, source = partial(own_alignments, aligner, checkpoint, config), f"own, step {checkpoint['step']}"
    if arguments.input:
        write_alignments(arguments.input, Path(arguments.output), config, aligned, source)
    else:
        align_filelists(config, aligned, source)


def align_filelists(config: Config, aligned: Callable, source: str) -> None:
    """`write_alignments` of both filelists of the config."""
    filelists = {"training": config.data.training_filelist, "validation": config.data.validation_filelist}
    for name, filelist in filelists.items():
        write_alignments(filelist, Path(config.data.durations) / name, config, aligned, source)


def train(config: Config, arguments) -> bool:
    """Trains the aligner; False if it was stopped before its last step."""
    stage, frontend = config.train.aligner, build_frontend(config.text)
    clips, held_out = (
        clips_of_length(read_filelist(path), config.data, path)
        for path in (config.data.training_filelist, config.data.validation_filelist)
    )
    speakers = sorted({clip.speaker for clip in clips})
    held_out = [held_out[i] for i in in_turns([clip.speaker for clip in held_out], VALIDATION_CLIPS)]
    if arguments.test_mode:
        clips, held_out = clips[:8], held_out[:2]
    dataset = AlignedClips(clips, frontend, speakers, config.audio)
    validation = AlignedClips(held_out, frontend, speakers, config.audio)
    for reason in [*dataset.reasons, *validation.reasons]:
        log.warning("left out: %s", reason)
    if not len(dataset) or not len(validation):
        raise ValueError("every clip is left out: is the text of the filelists IPA?")
    torch.manual_seed(stage.seed)
    metadata = {
        "config": config.model_dump(), "text": frontend.state(), "speakers": speakers,
        "letters": sorted({unit.symbol for units in dataset.units for unit in units}),
    }
    run = Run(stage_name="aligner", stage=stage, arguments=arguments, generator=build_aligner(config, metadata),
              metadata=metadata)

    def training_step(run: Run, batch: dict) -> dict[str, Tensor]:
        batch = run.to_device(batch)
        hidden = torch.rand(len(batch["speaker"]), device=run.device) < stage.unknown_speaker
        speaker = batch["speaker"].masked_fill(hidden, UNKNOWN_SPEAKER)
        log_p = run.generator(batch["mel"], batch["mel_lengths"], speaker)
        emissions = run.unwrapped().emissions(log_p, batch["units"])
        if run.step < stage.diagonal_steps:
            emissions = emissions + flat_start(batch).to(run.device)
        loss = nats_a_frame(emissions, batch).mean()
        run.update("generator", loss)
        return {"forward_sum": loss}

    def validate(run: Run) -> dict[str, float]:
        losses, scores, network = [], [], run.validation_network()
        for _, batch in batches_by_length(validation, stage.batch_size, 0, []):
            batch = run.to_device(batch)
            log_p = network(batch["mel"], batch["mel_lengths"], batch["speaker"])
            losses += nats_a_frame(network.emissions(log_p, batch["units"]), batch).tolist()
            scores += network.align(log_p, *alignment_inputs(batch))[1].tolist()
        loss = sum(losses) / len(losses)
        return {"forward_sum": loss, "alignment_score": sum(scores) / len(scores), "score": loss}

    stream = BatchStream(
        dataset.seconds, stage.batch_size, stage.seed, run.accelerator.process_index, run.accelerator.num_processes
    )
    batches = stream_batches(dataset, stream, collate_items, config.data.workers)
    longest_batch = collate_items([dataset.draw(draw) for draw in stream.longest()])
    run.fit(batches, stream.batches_per_epoch, longest_batch, training_step, validate)
    return run.step == run.max_steps


def alignment_inputs(batch: dict) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Frames (B,), ids of the units (B, L), how many (B,), and which are optional (B, L)."""
    return batch["mel_lengths"], batch["units"], batch["units_lengths"], batch["optional"]


def nats_a_frame(emissions: Tensor, batch: dict) -> Tensor:
    """Forward-sum loss of each clip (B,), divided by its frames."""
    frames, _, lengths, optional = alignment_inputs(batch)
    return forward_sum_loss(emissions, frames, lengths, optional) / frames


def flat_start(batch: dict) -> Tensor:
    """What the first alignments go by (B, T, L): the beta-binomial prior about the diagonal, and that silence is where
    a clip is quiet. Without it one symbol, silence before all, takes all frames between the ends of a clip."""
    mel, frames, units = batch["mel"].cpu(), batch["mel_lengths"].cpu(), batch["units"]
    prior = torch.zeros(len(units), mel.shape[2], units.shape[1])
    for row, T, L in zip(prior, frames.tolist(), batch["units_lengths"].tolist(), strict=True):
        row[:T, :L] = beta_binomial_prior(T, L)
    inside = torch.arange(mel.shape[2]) < frames.unsqueeze(1)
    loudness = mel.mean(1)
    mean = (loudness * inside).sum(1, keepdim=True) / frames.unsqueeze(1)
    loud = loudness > mean - QUIETER  # (B, T)
    return prior - LOUD_SILENCE * loud.unsqueeze(2) * batch["optional"].cpu().unsqueeze(1)


def load_aligner(model: str, config: Config) -> tuple[Aligner, dict]:
    """The newest trained aligner of a model, in eval mode, and its checkpoint. ValueError if its audio is another."""
    folder = Path("checkpoints") / model / "aligner"
    checkpoint = require_checkpoint(folder, f"python3 align.py -c CONFIG -m {model}")
    stored = parse_config(checkpoint["config"], f"the config in {folder}")
    if stored.audio != config.audio:
        raise ValueError(f"{folder}: was trained with another audio section than this config's; use the config it was "
                         "trained with, or train an aligner under another model name")
    return load_network(build_aligner(stored, checkpoint), checkpoint, folder), checkpoint


def own_alignments(
    aligner: Aligner, checkpoint: dict, config: Config, clips: list[Clip], frontend: Frontend,
) -> tuple[list[dict], list[str]]:
    """Rows as of `durations_cache` from the trained aligner, and why other clips are left out."""
    known = set(checkpoint["letters"])
    strange = {clip: {u.symbol for u in alignment_units(clip.text)} - known for clip in clips}
    skipped = [f"{clip.path}: the aligner was trained without the sounds {' '.join(sorted(letters))}"
               for clip, letters in strange.items() if letters]
    clips = [clip for clip in clips if not strange[clip]]
    dataset = AlignedClips(clips, frontend, checkpoint["speakers"], config.audio)
    skipped += dataset.reasons
    device, rows = join(), {}
    aligner = aligner.to(device)
    with tqdm(total=len(dataset), unit="clip", desc="aligning", disable=not is_main()) as progress:
        for indices, batch in batches_by_length(
            dataset, config.train.aligner.batch_size, config.data.workers, skipped
        ):
            batch = {key: value.to(device) if torch.is_tensor(value) else value for key, value in batch.items()}
            with torch.no_grad():
                log_p = aligner(batch["mel"], batch["mel_lengths"], batch["speaker"])
            durations, scores = aligner.align(log_p, *alignment_inputs(batch))
            for index, of_units, score in zip(indices, durations.tolist(), scores.tolist(), strict=True):
                rows[index] = dataset.row(index, of_units, score)
            progress.update(len(indices))
    return [rows[index] for index in sorted(rows)], skipped


def imported_alignments(config: Config, clips: list[Clip]) -> tuple[list[dict], list[str]]:
    """Rows as of `durations_cache` from the TextGrids in data.alignments, and why other clips are left out."""
    rows, skipped, audio = [], [], config.audio
    for clip in tqdm(clips, unit="TextGrid", disable=not is_main()):
        try:
            wave = load_audio(clip.path, audio.sample_rate)
            frames, seconds = frames_for(len(wave), audio), len(wave) / audio.sample_rate
            path = find_textgrid(config.data.alignments, clip.path, clip.speaker)
            durations = durations_from_textgrid(path, clip.text, frames, seconds, audio)
        except ValueError as error:
            skipped.append(str(error))
            continue
        rows.append({
            "path": str(clip.path), "speaker": clip.speaker, "language": clip.language, "ipa": clip.text,
            "durations": durations, "frames": frames, "seconds": seconds, "score": math.nan,
        })
    return rows, skipped


def write_alignments(filelist: str, folder: Path, config: Config, aligned: Callable, source: str) -> None:
    """Writes what `aligned(clips, frontend)` gives: durations into `folder`, the reports into `<folder>_reports`.

    Several processes each align their part of the clips, and the main one writes.
    """
    join()
    frontend = build_frontend(config.text)
    clips = clips_of_length(read_filelist(filelist), config.data, filelist)
    own = own_part(clips)
    parts = to_main(aligned(own, frontend) if own else ([], []))
    if is_main():
        place = {str(clip.path): i for i, clip in enumerate(clips)}
        rows = sorted((row for part, _ in parts for row in part), key=lambda row: place[row["path"]])
        _write(rows, [reason for _, part in parts for reason in part], filelist, folder, config, source)
    wait()


def _write(rows: list[dict], skipped: list[str], filelist: str, folder: Path, config: Config, source: str) -> None:
    frontend = build_frontend(config.text)
    for reason in skipped:
        log.warning("left out: %s", reason)
    fingerprint = durations_fingerprint(config.audio.model_dump(), frontend.state())
    info = {"fingerprint": fingerprint, "filelist": str(filelist), "alignments": source, "skipped": skipped}
    write_durations(folder, rows, info)
    log.info("%s: %d clips aligned, %d left out", folder, len(rows), len(skipped))
    write_reports(folder.with_name(folder.name + "_reports"), rows, config.audio)


if __name__ == "__main__":
    cli.run(main)
