"""An evaluation from its filelists to its report."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from evaluation.quality import Figures, measure_utterance
from evaluation.recognition import load_recognizer
from evaluation.report import TOTAL, write_report
from evaluation.rows import COPIES, ROWS, Copier
from evaluation.utterances import Utterance, find_waves, read_utterances
from mel_processing import audio_rate, load_audio, save_audio
from voice_folder import has_stage

log = logging.getLogger(__name__)

Maker = Callable[[Utterance], tuple[Tensor, int, Figures]]
"""A line -> its wave (samples,), the wave's rate in Hz, and the figures that its making gives."""


def evaluate(
    filelists: Sequence[Path], output: Path, *, folder: Path | None, waves: Path | None = None,
    synthesis: Maker | None = None, rows: Sequence[str] | None = None, limit: int | None = None,
    language: str = "en-us", recognizer: str | Path | None = None, seed: int = 0,
) -> list[Figures]:
    """Makes and measures every row that there is of every line; the figures of each, which the report is made of.

    `folder`: a model or an exported voice, for copies; `synthesis`: how the model speaks a line; `waves`: a folder with
    the speech instead. `rows`: those of `ROWS` to keep. ValueError for anything that keeps a line from being measured.
    """
    unknown = sorted(set(rows or ()) - set(ROWS))
    if unknown:
        raise ValueError(f"--rows {' '.join(unknown)}: there is {', '.join(ROWS)}")
    utterances = read_utterances(filelists, language, limit)
    recorded = [utterance for utterance in utterances if utterance.recording]
    copier = None
    wants_copies = rows is None or set(rows) & set(COPIES)
    if folder and recorded and wants_copies and any(has_stage(folder / stage) for stage in ("codec", "vocoder")):
        copier = Copier(folder)
    makers = _makers(recorded, copier, synthesis, find_waves(waves, utterances) if waves else None)
    chosen = [row for row in ROWS if rows is None or row in rows]
    for row in chosen:
        if row not in makers:
            reason = "the model has not the networks for it"
            if row != "synthesis" and not recorded:
                reason = "no path of a line is a recording"
            log.info("left out: %s; %s", row, reason)
    chosen = [row for row in chosen if row in makers]
    if not chosen:
        raise ValueError("none of these rows can be made: give a model with the checkpoints that they need (-m), or "
                         "--wavs, or a filelist whose paths are recordings")

    hears = load_recognizer(recognizer)
    steps = copier.steps if copier else {}
    settings = {
        "model": folder and folder.name, "steps": steps, "wavs": waves and str(waves),
        "filelists": [str(filelist) for filelist in filelists], "utterances": len(utterances),
        "recognizer": hears.name, "seed": seed,
    }
    figures = []
    for row in chosen:
        lines = utterances if row == "synthesis" else recorded
        for utterance in tqdm(lines, desc=row, unit="utterance"):
            wave, rate, making = makers[row](utterance)
            save_audio(output / row / f"{utterance.name}.wav", wave, rate)
            beside = load_audio(utterance.recording, rate) if utterance.recording and row != "recording" else None
            figures.append({
                "row": row, "name": utterance.name, "speaker": utterance.speaker, "language": utterance.language,
                "text": utterance.text,
            } | measure_utterance(
                wave, utterance.text, rate, utterance.language, hears, beside,
                copy_audio=copier.audio if row in COPIES else None,
            ) | making)
    for row, speakers in write_report(output, settings, figures).items():
        log.info("%s: %s", row, ", ".join(f"{name} {value.mean:.3g}" for name, value in speakers[TOTAL].items()))
    log.info("%s", output / "report.md")
    return figures


def _makers(
    recorded: Sequence[Utterance], copier: Copier | None, synthesis: Maker | None, waves: dict[str, Path] | None
) -> dict[str, Maker]:
    """Row -> how its waves are made, for those that can be."""

    def read(path: Path) -> tuple[Tensor, int, Figures]:
        rate = audio_rate(path)
        return load_audio(path, rate), rate, {}

    def copied(row: str) -> Maker:
        def make(utterance: Utterance) -> tuple[Tensor, int, Figures]:
            rate = copier.audio.sample_rate
            return copier.copy(row, load_audio(utterance.recording, rate), utterance.speaker), rate, {}
        return make

    makers: dict[str, Maker] = {}
    if recorded:
        makers["recording"] = lambda utterance: read(utterance.recording)
    if copier:
        makers |= {row: copied(row) for row in copier.copies}
    if waves:
        makers["synthesis"] = lambda utterance: read(waves[utterance.name])
    elif synthesis:
        makers["synthesis"] = synthesis
    return makers
