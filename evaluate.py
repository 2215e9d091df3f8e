"""Measures speech: error rates of a recogniser, DNSMOS, distances from recordings, over the lines of filelists.

    python3 evaluate.py -m my_model -i data/anna/validation.txt -o outputs/evaluation
    python3 evaluate.py --wavs outputs/spoken -i data/anna/validation.txt -o outputs/evaluation
    python3 evaluate.py -m my_model -i data/anna/validation.txt -o outputs/evaluation --rows recording vocoder

A filelist is `path|speaker|language|text`, with text, not IPA; where a path is a recording of its line, speech is set
beside it. Every row adds a stage between a recording and speech, so that what each loses is seen:

    recording       the file itself
    griffin_lim     recording -> mel -> Griffin-Lim
    vocoder         recording -> mel -> vocoder
    codec           recording -> codec -> mel -> Griffin-Lim
    codec_vocoder   recording -> codec -> mel -> vocoder
    synthesis       text -> wave

The folder gets report.md, report.json, report.png, utterances.csv, utterances.json and the waves of every row. The same
seed gives the same figures, time apart.
"""

import argparse
import time
from functools import cache
from pathlib import Path

from torch import Tensor

import cli
from synthesis import is_trained
from synthesis.synthesizer import Synthesizer, model_folder


def speaker_of(model: str, checkpoints: Path, seed: int):
    """How the model speaks a line: its wave (samples,), the wave's rate in Hz, and how the making went."""
    synthesizer = cache(lambda: Synthesizer(model, checkpoints))

    def speak(line) -> tuple[Tensor, int, dict[str, float]]:
        network = synthesizer()
        started = time.perf_counter()
        try:
            speech = network.speak(line.text, line.language, line.spoken_by, seed=line.seed(seed))
        except ValueError as error:
            raise ValueError(f"{line.name}: {error}") from error
        figures = {
            "runaway": float(any(part.finish_reason != "stop" for part in speech.parts)),
            "real_time_factor": (time.perf_counter() - started) / speech.seconds,
        }
        return speech.samples, speech.sample_rate, figures

    return speak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", help="name under checkpoints/, or an exported voice's folder")
    parser.add_argument("--wavs", type=Path, metavar="FOLDER", help="speech made elsewhere, named as the lines' paths")
    parser.add_argument("-i", "--input", type=Path, nargs="+", required=True, metavar="FILELIST")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="only these; all that can be made if not given")
    parser.add_argument("--limit", type=cli.positive, metavar="N", help="only the first N lines of each speaker")
    parser.add_argument("-l", "--language", default="en-us", help="of lines that name none (espeak-ng's name)")
    parser.add_argument("--recognizer", type=Path, metavar="FOLDER",
                        help="Whisper or CTC model in transformers format; PocketSphinx, for English, if not given")
    parser.add_argument("--seed", type=int, default=0, help="of synthesis")
    arguments = parser.parse_args()
    from evaluation.run import evaluate  # here, so that packages it lacks are named in one sentence

    checkpoints, synthesis = Path("checkpoints"), None
    folder = model_folder(arguments.model, checkpoints) if arguments.model else None
    if folder and not folder.is_dir():
        raise ValueError(f"{folder}: no such model; name one under {checkpoints}, or an exported voice's folder")
    if folder and is_trained(folder):
        synthesis = speaker_of(arguments.model, checkpoints, arguments.seed)
    evaluate(
        arguments.input, arguments.output, folder=folder, waves=arguments.wavs, synthesis=synthesis,
        rows=arguments.rows, limit=arguments.limit, language=arguments.language, recognizer=arguments.recognizer,
        seed=arguments.seed,
    )


if __name__ == "__main__":
    cli.run(main)
