"""Speaks with an exported voice's ONNX files: no PyTorch is needed, for IPA only NumPy, ONNX Runtime and soundfile.

    python3 export.py -m voices/default -o voices/hello --onnx
    python3 onnx_voice.py -m voices/hello --text "Hello world" -o hello.wav
    python3 onnx_voice.py -m voices/hello --ipa "həlˈoʊ wˈɜːld" -s kathleen -o hello.wav
    python3 onnx_voice.py -m voices/hello --text "Guten Tag" -l de --rate 1.2 -o hallo.wav
"""

import argparse
import logging
import time
from pathlib import Path

import numpy as np
import soundfile

import cli
from onnx_runner.voice import OnnxVoice

log = logging.getLogger(__name__)


def save(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    """Writes (samples,) in the format of the file's suffix; peaks over 1 are scaled down. ValueError if it cannot."""
    temporary = path.with_name(f".unfinished_{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(temporary, samples / max(1, np.abs(samples).max()), sample_rate)
        temporary.replace(path)
    except (soundfile.LibsndfileError, TypeError) as error:
        raise ValueError(f"{path}: cannot be written ({error}); use .wav, .flac, .ogg or .mp3") from error
    finally:
        temporary.unlink(missing_ok=True)


def main() -> None:
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model", type=Path, required=True, help="folder written by export.py --onnx")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", help="text to speak; needs the libraries of the voice's text frontend")
    source.add_argument("--ipa", help="IPA to speak")
    parser.add_argument("-l", "--language", default="en-us", help="espeak-ng's name, e.g. en-us, de, cmn")
    parser.add_argument("-s", "--speaker", help="one who speaks the language if not given")
    parser.add_argument("-o", "--output", type=Path, required=True, help="audio file")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0 for all")
    parser.add_argument("--seed", type=int, help="the same seed gives the same speech, that of synthesize.py, too")
    parser.add_argument("--temperature", type=float, help="0 is greedy (language models, flow decoders)")
    parser.add_argument("--rate", type=float, help="times as fast (aligned-duration models)")
    parser.add_argument("--pitch", type=float, help="semitones higher (aligned-duration models)")
    parser.add_argument("--energy", type=float, help="decibels louder, as the voice would say it")
    options = parser.parse_args()

    def given(*names: str) -> dict[str, float]:
        return {name: getattr(options, name) for name in names if getattr(options, name) is not None}

    voice = OnnxVoice(options.model, options.threads)
    loaded = time.perf_counter()
    text, input_type = (options.text, "text") if options.ipa is None else (options.ipa, "ipa")
    parts, first_sound = [], 0.0
    for part in voice.stream(text, options.language, options.speaker, input_type=input_type, seed=options.seed,
                             sampling=given("temperature"), prosody=given("rate", "pitch", "energy")):
        first_sound = first_sound or time.perf_counter() - started
        parts.append(part.samples)
        if part.finish_reason != "stop":
            log.warning("%s: %s", {"length": "cut off at its bound", "stuck": "repeats itself, and was cut off"}
                        [part.finish_reason], part.piece.ipa)
    spoken, samples = time.perf_counter() - loaded, np.concatenate(parts)
    save(options.output, samples, voice.sample_rate)
    seconds = len(samples) / voice.sample_rate
    log.info("%s: %.2f s of audio in %.2f s (%.1f times real time), %d part(s); loaded in %.2f s, first sound after "
             "%.2f s", options.output, seconds, spoken, seconds / spoken, len(parts), loaded - started, first_sound)


if __name__ == "__main__":
    cli.run(main)
