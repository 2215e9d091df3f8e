"""Trains the aligner on the recordings and their IPA, then writes where every symbol is: durations and TextGrids.

    python3 align.py -c configs/voice.json -m my_model
    python3 align.py -c configs/voice.json -m my_model -i other_ipa.txt -o alignments     # with the trained aligner

Config sections: "aligner", "train.aligner"; filelists: data.training_filelist, data.validation_filelist. In
data.durations are then, for `training` and `validation` each, the durations (`durations_cache`), and `TextGrid/`,
`words.json` and `scores.csv`, worst fit of text and recording first. An aligner that is at
its max_steps is not trained further.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import datasets
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import cli
from checkpoints import require_checkpoint, saved_steps
from config import Config, load_config, parse_config
from data_utils import BatchStream, Clip, Draw, clips_of_length, collate_items, read_filelist, stream_batches
from durations_cache import durations_fingerprint, write_durations
from mel_processing import audio_seconds, frames_for, load_audio, log_mel
from models import load_network
from models.aligner import UNKNOWN_SPEAKER, Aligner
from models.layers.alignment import beta_binomial_prior, forward_sum_loss
from text import Frontend, build_frontend
from text.phonemes import AlignmentUnit, alignment_units
from training import Run, stage_arguments

log = logging.getLogger(__name__)

VALIDATION_CLIPS = 64


def main() -> None:
    parser = stage_arguments(__doc__)
    parser.add_argument("-i", "--input", help="align this IPA filelist with the trained aligner instead")
    parser.add_argument("-o", "--output", help="folder for what -i gives")
    arguments = parser.parse_args()
    if bool(arguments.input) != bool(arguments.output):
        raise ValueError("-i FILELIST and -o FOLDER go together")
    config = load_config(arguments.config)
    if config.text.frontend != "ipa":
        raise ValueError(f"{arguments.config}: text.frontend is {config.text.frontend}; only IPA has phones to align")
    datasets.disable_progress_bars()
    folder = Path("checkpoints") / arguments.model / "aligner"
    if not arguments.input:
        finished = max(saved_steps(folder), default=0) >= config.train.aligner.max_steps
        if not finished or arguments.resume != "auto":
            train(config, arguments)
    aligner, checkpoint = load_aligner(arguments.model, config)
    if arguments.input:
        write_alignments(aligner, checkpoint, config, arguments.input, Path(arguments.output))
        return
    filelists = {"training": config.data.training_filelist, "validation": config.data.validation_filelist}
    for name, filelist in filelists.items():
        write_alignments(aligner, checkpoint, config, filelist, Path(config.data.durations) / name)


class AlignedClips(Dataset):
    """Whole clips as log-mel and the ids of their units; `reasons` against the clips that cannot be aligned."""

    def __init__(self, clips: list[Clip], frontend: Frontend, speakers: list[str], config: Config):
        self.audio = config.audio
        ids = {symbol: i for i, symbol in enumerate(frontend.symbols)}
        known = {name: UNKNOWN_SPEAKER + 1 + i for i, name in enumerate(speakers)}
        self.clips: list[Clip] = []
        self.units: list[list[AlignmentUnit]] = []
        self.seconds: list[float] = []
        self.reasons: list[str] = []
        self._ids, self._speakers = [], []
        for clip in clips:
            units, seconds = alignment_units(clip.text), audio_seconds(clip.path)
            frames = frames_for(int(seconds * config.audio.sample_rate), config.audio)
            needed = sum(not unit.optional for unit in units)
            if not 1 <= needed < frames:
                self.reasons.append(f"{clip.path}: {needed} phones in {frames} mel frames")
                continue
            self.clips.append(clip)
            self.units.append(units)
            self.seconds.append(seconds)
            self._ids.append(torch.tensor([ids.get(unit.symbol, frontend.unk_id) for unit in units]))
            self._speakers.append(known.get(clip.speaker, UNKNOWN_SPEAKER))

    def __len__(self) -> int:
        return len(self.clips)

    def draw(self, draw: Draw) -> dict:
        return self[draw.index]

    def row(self, index: int, of_units: list[int], score: float) -> dict:
        """What `durations_cache` keeps of a clip whose units have so many frames."""
        clip, units = self.clips[index], self.units[index]
        durations = [0] * (units[-1].place + 1)
        for unit, frames in zip(units, of_units, strict=False):
            durations[unit.place] = frames
        return {
            "path": str(clip.path), "speaker": clip.speaker, "language": clip.language, "ipa": clip.text,
            "durations": durations, "frames": sum(durations), "seconds": self.seconds[index], "score": score,
        }

    def __getitem__(self, index: int) -> dict:
        """{mel (n_mels, T), units (L,), optional (L,), speaker, name}"""
        wave = load_audio(self.clips[index].path, self.audio.sample_rate)
        return {
            "mel": log_mel(wave.unsqueeze(0), self.audio)[0], "units": self._ids[index],
            "optional": torch.tensor([unit.optional for unit in self.units[index]]),
            "speaker": self._speakers[index], "name": str(self.clips[index].path),
        }


def train(config: Config, arguments) -> None:
    stage, frontend = config.train.aligner, build_frontend(config.text)
    clips, held_out = (
        clips_of_length(read_filelist(path), config.data, path)
        for path in (config.data.training_filelist, config.data.validation_filelist)
    )
    speakers = sorted({clip.speaker for clip in clips})
    if arguments.test_mode:
        clips, held_out = clips[:8], held_out[:2]
    dataset = AlignedClips(clips, frontend, speakers, config)
    validation = AlignedClips(held_out[:VALIDATION_CLIPS], frontend, speakers, config)
    for reason in [*dataset.reasons, *validation.reasons]:
        log.warning("left out: %s", reason)
    if not len(dataset) or not len(validation):
        raise ValueError("every clip is left out: is the text of the filelists IPA?")
    torch.manual_seed(stage.seed)
    aligner = Aligner(config.aligner, config.audio, len(frontend), len(speakers))
    letters = sorted({unit.symbol for units in dataset.units for unit in units})
    run = Run(
        stage_name="aligner", stage=stage, arguments=arguments, generator=aligner, metadata={
            "config": config.model_dump(), "text": frontend.state(), "speakers": speakers, "letters": letters,
        },
    )

    def training_step(run: Run, batch: dict) -> dict[str, Tensor]:
        batch = run.to_device(batch)
        hidden = torch.rand(len(batch["speaker"]), device=run.device) < stage.unknown_speaker
        speaker = batch["speaker"].masked_fill(hidden, UNKNOWN_SPEAKER)
        log_p = run.generator(batch["mel"], batch["mel_lengths"], speaker)
        emissions = run.unwrapped().emissions(log_p, batch["units"])
        if run.step < stage.diagonal_steps:
            emissions = emissions + diagonal_prior(batch).to(run.device)
        loss = nats_a_frame(emissions, batch).mean()
        run.update("generator", loss)
        return {"forward_sum": loss}

    def validate(run: Run) -> dict[str, float]:
        losses, scores, network = [], [], run.validation_network()
        for _, batch in batches_by_length(validation, stage.batch_size):
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


def alignment_inputs(batch: dict) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Frames (B,), ids of the units (B, L), how many (B,), and which are optional (B, L)."""
    return batch["mel_lengths"], batch["units"], batch["units_lengths"], batch["optional"]


def nats_a_frame(emissions: Tensor, batch: dict) -> Tensor:
    """Forward-sum loss of each clip (B,), divided by its frames."""
    frames, _, lengths, optional = alignment_inputs(batch)
    return forward_sum_loss(emissions, frames, lengths, optional) / frames


def diagonal_prior(batch: dict) -> Tensor:
    """The beta-binomial prior of every clip of a batch (B, T, L), 0 behind its frames and units."""
    frames, units = batch["mel_lengths"], batch["units"]
    prior = torch.zeros(len(units), batch["mel"].shape[2], units.shape[1])
    for row, T, L in zip(prior, frames.tolist(), batch["units_lengths"].tolist(), strict=True):
        row[:T, :L] = beta_binomial_prior(T, L)
    return prior


def batches_by_length(dataset: AlignedClips, batch_size: int, workers: int = 0) -> Iterator[tuple[list[int], dict]]:
    """(indices, batch) of all clips, longest first, so that padding is little."""
    order = sorted(range(len(dataset)), key=lambda index: -dataset.seconds[index])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    loader = DataLoader(dataset, batch_sampler=batches, collate_fn=collate_items, num_workers=workers)
    yield from zip(batches, loader, strict=True)


def load_aligner(model: str, config: Config) -> tuple[Aligner, dict]:
    """The newest trained aligner of a model, in eval mode, and its checkpoint. ValueError if its audio is another."""
    folder = Path("checkpoints") / model / "aligner"
    checkpoint = require_checkpoint(folder, f"python3 align.py -c CONFIG -m {model}")
    stored = parse_config(checkpoint["config"], f"the config in {folder}")
    if stored.audio != config.audio:
        raise ValueError(f"{folder}: was trained with another audio section than this config's; use the config it was "
                         "trained with, or train an aligner under another model name")
    aligner = Aligner(stored.aligner, stored.audio, len(checkpoint["text"]["symbols"]), len(checkpoint["speakers"]))
    return load_network(aligner, checkpoint, folder), checkpoint


def write_alignments(aligner: Aligner, checkpoint: dict, config: Config, filelist: str, folder: Path) -> None:
    """Aligns the clips of a filelist and writes durations, TextGrids, word times and scores into `folder`."""
    frontend = build_frontend(config.text)
    frontend.check_state(checkpoint["text"], "the aligner")
    clips = clips_of_length(read_filelist(filelist), config.data, filelist)
    dataset = AlignedClips(clips, frontend, checkpoint["speakers"], config)
    reasons, rows = list(dataset.reasons), {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    aligner = aligner.to(device)
    with tqdm(total=len(dataset), unit="clip", desc=folder.name) as progress:
        for indices, batch in batches_by_length(dataset, config.train.aligner.batch_size, config.data.workers):
            batch = {key: value.to(device) if torch.is_tensor(value) else value for key, value in batch.items()}
            with torch.no_grad():
                log_p = aligner(batch["mel"], batch["mel_lengths"], batch["speaker"])
            durations, scores = aligner.align(log_p, *alignment_inputs(batch))
            for index, of_units, score in zip(indices, durations.tolist(), scores.tolist(), strict=True):
                rows[index] = dataset.row(index, of_units, score)
            progress.update(len(indices))
    rows = [rows[index] for index in sorted(rows)]
    for reason in reasons:
        log.warning("left out: %s", reason)
    fingerprint = durations_fingerprint(config.audio.model_dump(), frontend.state())
    write_durations(folder, rows, {
        "fingerprint": fingerprint, "filelist": str(filelist), "alignments": "own", "step": checkpoint["step"],
        "skipped": reasons,
    })
    log.info("%s: %d clips aligned, %d left out", folder, len(rows), len(reasons))


if __name__ == "__main__":
    cli.run(main)
