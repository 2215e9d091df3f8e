"""Speaks: text or IPA -> wave, with a trained model.

    python3 synthesize.py --text "Hello world" -o hello.wav
    python3 synthesize.py -m my_model --ipa "həlˈoʊ wˈɜːld" -l en-us -o hello.wav
    python3 synthesize.py -m my_model -i filelists/sentences.txt -o outputs/
    python3 synthesize.py -m my_model --text-file book.txt -o book.flac
    python3 synthesize.py -m my_model --text "Hello world" -o - | aplay -r 22050 -f S16_LE
    python3 synthesize.py -m my_model --text "Hello world" --rate 1.2 --times hello.srt -o hello.wav
    python3 synthesize.py -m my_model --text "Hello world" --reference voice.wav --reference-text "Good day" -o a.wav

From Python or a notebook:

    from synthesize import synthesize_text
    samples, sample_rate = synthesize_text("Hello world")
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

import cli
from data_utils import DEFAULT_LANGUAGE, DEFAULT_SPEAKER, read_filelist
from decoding.weights import PRECISIONS
from launcher import own_part
from mel_processing import audio_format, log_mel, save_audio
from models.aligned_tts import Prosody
from models.layers.sampling import Sampling
from plotting import mel_figure, save_figure
from processes import use_own_gpu
from synthesis.lines import Line, speak_lines
from synthesis.synthesizer import BATCH_SIZE, RETRIES, Synthesizer
from synthesis.timings import check_timings_path, save_timings
from synthesis.writing import write_file, write_pcm
from text_files import read_text

log = logging.getLogger(__name__)

DEFAULT_VOICE = str(Path(__file__).parent / "voices" / "default")
STANDARD_OUTPUT = Path("-")


@lru_cache(maxsize=4)
def loaded(model: str, precision: str | None) -> Synthesizer:
    """What `load_synthesizer` keeps; one entry, however its arguments are given."""
    return Synthesizer(model, precision=precision)


def load_synthesizer(model: str = DEFAULT_VOICE, precision: str | None = None) -> Synthesizer:
    """A model, or the voice that comes with the repository, loaded once per process. `precision`: see `Synthesizer`."""
    return loaded(model, precision)


def synthesize_text(
    text: str, language: str = "en-us", speaker: str | None = None, model: str = DEFAULT_VOICE,
    output_path: str | Path | None = None, times_path: str | Path | None = None,
    precision: str | None = None, **options,
) -> tuple[Tensor, int]:
    """Speaks text: samples (n,) float32 and their rate, also written to `output_path` if given.

    `times_path`: also write when each word was said (.json, .srt, .TextGrid; see `synthesis.timings`); `precision` as
    of `Synthesizer`. The other options, and what is refused, are those of `Synthesizer.stream`.
    """
    if output_path:
        audio_format(output_path)
    if times_path:
        check_timings_path(Path(times_path))
    started = time.perf_counter()
    speech = load_synthesizer(model, precision).speak(text, language, speaker, **options)
    if times_path:
        save_timings(Path(times_path), speech.parts, speech.seconds)
    if output_path:
        save_audio(output_path, speech.samples, speech.sample_rate)
    report(output_path, speech.seconds, time.perf_counter() - started, len(speech.parts))
    return speech.samples, speech.sample_rate


def synthesize(ipa: str, language: str = "en-us", **options) -> tuple[Tensor, int]:
    """Speaks IPA; the options are those of `synthesize_text`."""
    return synthesize_text(ipa, language, input_type="ipa", **options)


def synthesize_progressively(
    text: str, language: str, speaker: str | None, model: str, output: Path, times_path: Path | None = None,
    precision: str | None = None, **options,
) -> None:
    """Speaks text of any length, writing it while it is spoken, to a file or, as raw 16-bit samples as early as can be,
    to the standard output; without keeping it in memory. The options are those of `Synthesizer.stream`."""
    if output != STANDARD_OUTPUT:
        audio_format(output)
    if times_path:
        check_timings_path(times_path)
    synthesizer, started = load_synthesizer(model, precision), time.perf_counter()
    if output == STANDARD_OUTPUT:
        chunks = synthesizer.stream(text, language, speaker, **options)
        written = write_pcm(sys.stdout.buffer, chunks, times_path is not None)
        log.info("first sound after %.3f s", written.first_sound)
    else:
        chunks = synthesizer.stream(text, language, speaker, batch_size=BATCH_SIZE, **options)
        written = write_file(output, chunks, synthesizer.audio.sample_rate, times_path is not None)
    if times_path:
        save_timings(times_path, written.parts, written.seconds)
    report(output, written.seconds, time.perf_counter() - started, len(written.parts))


def report(path: str | Path | None, seconds: float, wall_seconds: float, n_parts: int) -> None:
    """Logs what was made and how long it took."""
    log.info("%s: %.2f s of audio in %.2f s (%.1f times real time), %d part(s)", path or "speech", seconds,
             wall_seconds, seconds / wall_seconds, n_parts)


def synthesize_filelist(synthesizer: Synthesizer, path: Path, folder: Path, options: argparse.Namespace) -> None:
    """Speaks every line of a filelist (of several processes each its part) into `folder/<stem of its path>.wav`, having
    checked all of them."""
    if options.times:
        check_timings_path(Path(f"times{options.times}"))
    lines = own_part(filelist_lines(synthesizer, path, options.language, options.speaker))
    try:
        synthesize_lines(synthesizer, lines, folder, options)
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from error


def filelist_lines(synthesizer: Synthesizer, path: Path, language: str, speaker: str | None) -> list[Line]:
    """The lines of a filelist, in a language and of a speaker where they name none; ValueError if one cannot be spoken
    with this model, or two would be written to the same file."""
    lines: dict[str, Line] = {}
    for clip in read_filelist(path):
        name, own_language = clip.path.stem, language if clip.language == DEFAULT_LANGUAGE else clip.language
        own_speaker = speaker if clip.speaker == DEFAULT_SPEAKER else clip.speaker
        if name in lines:
            raise ValueError(f"{path}: two lines would be written to {name}.wav; give each path another name")
        try:
            synthesizer.system.check(own_language, own_speaker)
        except ValueError as error:
            raise ValueError(f"{path}, {clip.path.name}: {error}") from error
        lines[name] = Line(name, clip.text, own_language, own_speaker)
    return list(lines.values())


def synthesize_lines(
    synthesizer: Synthesizer, lines: Iterable[Line], folder: Path, options: argparse.Namespace
) -> None:
    """Speaks lines, several together, each into `folder/<its name>.wav`; ValueError names the line."""
    started, seconds, n_parts = time.perf_counter(), 0.0, 0
    for line, speech in speak_lines(synthesizer, lines, input_type=options.input_type, **spoken_with(options)):
        target = folder / f"{line.name}.wav"
        if options.times:
            try:
                save_timings(target.with_suffix(str(options.times)), speech.parts, speech.seconds)
            except ValueError as error:
                raise ValueError(f"{line.name}: {error}") from error
        save_audio(target, speech.samples, speech.sample_rate)
        log.info("%s: %.2f s of audio, %d part(s)", target, speech.seconds, len(speech.parts))
        seconds, n_parts = seconds + speech.seconds, n_parts + len(speech.parts)
    report(folder, seconds, time.perf_counter() - started, n_parts)


def spoken_with(options: argparse.Namespace) -> dict[str, Any]:
    """The options of `Synthesizer.stream` that a command line gives."""
    prosody = Prosody(options.rate, options.pitch, options.energy)
    return {
        "sampling": Sampling(options.temperature, options.top_k, options.top_p, options.repetition_window),
        "seed": options.seed, "retries": options.retries, "reference": options.reference,
        "reference_text": options.reference_text,
        # where nothing is asked for, systems that cannot follow do not have to
        "prosody": None if prosody == Prosody() else prosody,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model", default=DEFAULT_VOICE, help="name under checkpoints/, or an exported voice's "
                        "folder; the voice that comes with the repository if not given")
    parser.add_argument("--precision", choices=PRECISIONS, help="of a language model's matrices: int8 is faster, on a "
                        "CPU; int8 for voices exported so, else fp32, if not given")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", help="text to speak")
    source.add_argument("--ipa", help="IPA to speak")
    source.add_argument("--text-file", type=Path, metavar="FILE", help="text to speak, of any length")
    source.add_argument("-i", "--input", type=Path, metavar="FILELIST", help="speak every line; -o is then a folder")
    parser.add_argument("--input-type", choices=["text", "ipa"], default="text",
                        help="what the text of a file or filelist is")
    parser.add_argument("-l", "--language", default="en-us", help="espeak-ng's name, e.g. en-us, de, cmn")
    parser.add_argument("-s", "--speaker", help="one who speaks the language if not given")
    parser.add_argument("--reference", type=Path, metavar="AUDIO", help="speak in the voice of this recording")
    parser.add_argument("--reference-text", metavar="TEXT", help="what it says, in the same language (IPA with --ipa)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="audio file, or folder with -i; -: raw 16-bit "
                        "samples on the standard output, as early as they are made")
    parser.add_argument("--mel", type=Path, metavar="PNG", help="also draw the mel of what was spoken")
    parser.add_argument("--times", type=Path, metavar="FILE", help="also write when each word is said: .json, .srt or "
                        ".TextGrid (a language model needs an aligner, align.py); with -i this suffix alone, for a "
                        "file beside each wav")
    parser.add_argument("--rate", type=float, default=1.0, help="times as fast (aligned-duration models)")
    parser.add_argument("--pitch", type=float, default=0.0, help="semitones higher (aligned-duration models)")
    parser.add_argument("--energy", type=float, default=0.0, help="decibels louder, as the voice would say it")
    parser.add_argument("--seed", type=int, help="the same seed gives the same speech")
    default = Sampling()
    parser.add_argument("--temperature", type=float, default=default.temperature,
                        help="0 is greedy; with a flow decoder, the standard deviation of its noise")
    parser.add_argument("--top-k", type=int, default=default.top_k, help="0 is off")
    parser.add_argument("--top-p", type=float, default=default.top_p, help="1 is off")
    parser.add_argument("--repetition-window", type=int, default=default.repetition_window, help="0 is off")
    parser.add_argument("--retries", type=int, default=RETRIES, help="how many times more to speak a part that did not "
                        "end well")
    options = parser.parse_args()

    # oneDNN keeps what it compiled for each of the last 1024 shapes, and sentences have as many lengths
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    if options.input:
        use_own_gpu()
        synthesize_filelist(load_synthesizer(options.model, options.precision), options.input, options.output, options)
        return
    progressive = options.text_file or options.output == STANDARD_OUTPUT
    if progressive and options.mel:
        raise ValueError("--mel is drawn of speech held in memory: use it with --text or --ipa and a file as -o")
    text, input_type = options.text or "", "text"
    if options.text_file:
        text, input_type = read_text(options.text_file), options.input_type
    elif options.ipa is not None:
        text, input_type = options.ipa, "ipa"
    speak = synthesize_progressively if progressive else synthesize_text
    made = speak(text, options.language, options.speaker, options.model, options.output, options.times,
                 precision=options.precision, input_type=input_type, **spoken_with(options))
    if options.mel:
        audio = load_synthesizer(options.model, options.precision).audio
        save_figure(mel_figure({text: log_mel(made[0][None], audio)[0]}), options.mel)


if __name__ == "__main__":
    cli.run(main)
