"""Speaks: text or IPA -> wave, with a trained model.

    python3 synthesize.py -m my_model --text "Hello world" -o hello.wav
    python3 synthesize.py -m my_model --ipa "həlˈoʊ wˈɜːld" -l en-us -o hello.wav
    python3 synthesize.py -m my_model -i filelists/sentences.txt -o outputs/
    python3 synthesize.py -m my_model --text "Hello world" --rate 1.2 --times hello.srt -o hello.wav
    python3 synthesize.py -m my_model --text "Hello world" --reference voice.wav --reference-text "Good day" -o a.wav

From Python or a notebook:

    from synthesize import synthesize_text
    samples, sample_rate = synthesize_text("Hello world", language="en-us", model="my_model")
"""

import argparse
import logging
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

import cli
from data_utils import DEFAULT_LANGUAGE, DEFAULT_SPEAKER, read_filelist
from mel_processing import audio_format, log_mel, save_audio
from models.aligned_tts import Prosody
from models.layers.sampling import Sampling
from plotting import mel_figure, save_figure
from synthesis import Speech, is_trained, load_system
from synthesis.timings import check_timings_path, save_timings
from text import normalize_ipa, split_sentences
from voice_folder import read_model

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.25  # between sentences
BATCH_SIZE = 8  # sentences spoken together
SEED_STEP = 0x9E3779B97F4A7C15  # SplitMix64's, so that neighbouring seeds and parts have nothing in common
DEFAULT_VOICE = Path("voices/default")  # speaks where nothing is trained and none is named


class Synthesizer:
    """Text -> IPA -> pieces -> batches, spoken by the system that the checkpoints are of, joined with pauses."""

    def __init__(self, model: str, checkpoints: str | Path = "checkpoints", device: str | None = None):
        """`model`: a name under `checkpoints`, or the folder of an exported voice.

        ValueError if a stage is not trained yet, or if two stages do not fit each other, saying which.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.system = load_system(model_folder(model, checkpoints), torch.device(device))
        self.audio, self.frontend = self.system.audio, self.system.frontend
        self.languages, self.speakers = self.system.languages, self.system.speakers

    def speak(self, text: str, language: str = "en-us", speaker: str | None = None, **options) -> Speech:
        """Text (or, with input_type "ipa", IPA) of any length as one wave; sentences are spoken in batches.

        The options, and what is refused, are those of `stream`.
        """
        chunks = list(self.stream(text, language, speaker, batch_size=BATCH_SIZE, **options))
        return Speech(torch.cat([chunk.samples for chunk in chunks]), self.audio.sample_rate,
                      [part for chunk in chunks for part in chunk.parts])

    def stream(
        self, text: str, language: str = "en-us", speaker: str | None = None, *, input_type: str = "text",
        sampling: Sampling = Sampling(), seed: int | None = None,  # noqa: B008 (frozen)
        reference: str | Path | None = None, reference_text: str | None = None, prosody: Prosody | None = None,
        batch_size: int = 1,
    ) -> Iterator[Speech]:
        """Speaks text of any length sentence by sentence (a long one in several pieces), each as soon as it is made.

        A chunk begins with the pause after the one before, so that the chunks joined are the whole speech: the very
        samples that `speak` gives, where a part does not depend on the others of its batch (aligned durations, but for
        the autoregressive decoder). `reference`: a recording in whose voice to speak, and what is said in it, in the
        same language; `prosody`: how to speak; `batch_size`: pieces that are spoken together.

        ValueError, at once, for a language or speaker that the model has not learned, a reference or prosody that its
        system cannot use, and for text with nothing to say.
        """
        self.system.check(language, speaker)
        if reference is None and reference_text is not None:
            raise ValueError("a reference's text is of use only with the reference itself")
        said = self._sentences(reference_text, language, input_type) if reference_text else []
        voice = self.system.voice(speaker, language, reference, " ".join(ipa for _, ipa in said))
        if prosody is not None:
            voice = self.system.with_prosody(voice, prosody)
        sentences = [(written, self.system.pieces(ipa, voice))
                     for written, ipa in self._sentences(text, language, input_type) if ipa]
        # what is written stands at the first piece of a sentence
        pieces = [(piece, "" if i else written) for written, of_sentence in sentences
                  for i, piece in enumerate(of_sentence)]
        if not pieces:
            raise ValueError("there is nothing to say in the text")
        batches = (pieces[first : first + batch_size] for first in range(0, len(pieces), batch_size))
        return self._chunks(batches, language, voice, sampling, seed)

    def _chunks(
        self, batches: Iterable[list[tuple[str, str]]], language: str, voice: object, sampling: Sampling,
        seed: int | None,
    ) -> Iterator[Speech]:
        """Of batches of IPA and what is written."""
        pause, made, samples = torch.zeros(round(PAUSE_SECONDS * self.audio.sample_rate)), 0, 0
        for batch in batches:
            generators = [None if seed is None else part_generator(seed, made + i, self.system.device)
                          for i in range(len(batch))]
            parts = self.system.speak_parts([ipa for ipa, _ in batch], language, voice, sampling=sampling,
                                            generators=generators)
            for part, (_, written) in zip(parts, batch, strict=True):
                before = pause if made else pause[:0]
                part.text, part.start = written, (samples + len(before)) / self.audio.sample_rate
                chunk = Speech(torch.cat([before, part.samples]), self.audio.sample_rate, [part])
                made, samples = made + 1, samples + len(chunk.samples)
                yield chunk

    def _sentences(self, text: str, language: str, input_type: str) -> list[tuple[str, str]]:
        """Every sentence as written and as IPA."""
        if input_type == "ipa":
            return [(text, normalize_ipa(text))]
        sentences = split_sentences(text, language)
        return list(zip(sentences, self.frontend.phonemize_many(sentences, language), strict=True))


def model_folder(model: str, checkpoints: str | Path) -> Path:
    """Where a model is: its checkpoints if there are any, else the exported voice of that path."""
    trained, exported = Path(checkpoints) / model, Path(model)
    if trained.is_dir() or not exported.is_dir():
        return trained
    read_model(exported)  # says what is missing
    return exported


def part_generator(seed: int, index: int, device: torch.device) -> torch.Generator:
    """Random numbers of a part, whatever its neighbours are; those of the first are the seed's own."""
    return torch.Generator(device).manual_seed((seed + index * SEED_STEP) % 2**63)


@lru_cache(maxsize=4)
def load_synthesizer(model: str | None = None, checkpoints: str = "checkpoints") -> Synthesizer:
    """A model, loaded once per process; without a name, the one trained last, else DEFAULT_VOICE."""
    if model is None:
        trained = [folder for folder in Path(checkpoints).glob("*") if is_trained(folder)]
        if not trained:
            if DEFAULT_VOICE.is_dir():
                return load_synthesizer(str(DEFAULT_VOICE), checkpoints)
            raise ValueError(f"{checkpoints}: no trained model; train one (see README), name one with -m, or export "
                             f"one: python3 export.py -m MODEL -o {DEFAULT_VOICE}")
        model = max(trained, key=lambda p: (p / "vocoder").stat().st_mtime).name
        log.info("model %s (the one trained last)", model)
    return Synthesizer(model, checkpoints)


def synthesize_text(
    text: str, language: str = "en-us", speaker: str | None = None, model: str | None = None,
    output_path: str | Path | None = None, sampling: Sampling = Sampling(), seed: int | None = None,  # noqa: B008
    input_type: str = "text", reference: str | Path | None = None, reference_text: str | None = None,
    prosody: Prosody | None = None, times_path: str | Path | None = None,
) -> tuple[Tensor, int]:
    """Speaks text: samples (n,) float32 and their rate, also written to `output_path` if given; with a `reference`
    recording, in its voice, or with a `prosody`, faster, higher or louder (see `Synthesizer.speak`).

    `times_path`: also write when each word was said (.json, .srt, .TextGrid; see `synthesis.timings`).
    """
    if output_path:
        audio_format(output_path)
    if times_path:
        check_timings_path(Path(times_path))
    started = time.perf_counter()
    synthesizer = load_synthesizer(model)
    speech = synthesizer.speak(text, language, speaker, input_type=input_type, sampling=sampling, seed=seed,
                               reference=reference, reference_text=reference_text, prosody=prosody)
    if times_path:
        save_timings(Path(times_path), speech)
    if output_path:
        save_audio(output_path, speech.samples, speech.sample_rate)
    report(speech, time.perf_counter() - started, output_path)
    return speech.samples, speech.sample_rate


def synthesize(ipa: str, language: str = "en-us", **options) -> tuple[Tensor, int]:
    """Speaks IPA; the options are those of `synthesize_text`."""
    return synthesize_text(ipa, language, input_type="ipa", **options)


def report(speech: Speech, wall_seconds: float, path: str | Path | None) -> None:
    """Logs what was made, how long it took, and every sentence that did not end by itself."""
    log.info("%s: %.2f s of audio in %.2f s (%.1f times real time), %d sentence(s)", path or "speech", speech.seconds,
             wall_seconds, speech.seconds / wall_seconds, len(speech.parts))
    for part in speech.parts:
        if part.finish_reason != "stop":
            log.warning("cut off at its length bound: %s", part.ipa)


def synthesize_filelist(synthesizer: Synthesizer, path: Path, folder: Path, options: argparse.Namespace) -> None:
    """Speaks every line of a filelist into `folder/<stem of its path>.wav`, having checked all of them."""
    if options.times:
        check_timings_path(Path(f"times{options.times}"))
    lines: dict[str, tuple[str, str, str | None]] = {}
    for clip in read_filelist(path):
        language = options.language if clip.language == DEFAULT_LANGUAGE else clip.language
        speaker = options.speaker if clip.speaker == DEFAULT_SPEAKER else clip.speaker
        if clip.path.stem in lines:
            raise ValueError(f"{path}: two lines would be written to {clip.path.stem}.wav; give each path another name")
        try:
            synthesizer.system.check(language, speaker)
        except ValueError as error:
            raise ValueError(f"{path}, {clip.path.name}: {error}") from error
        lines[clip.path.stem] = clip.text, language, speaker
    for name, (text, language, speaker) in lines.items():
        started, target = time.perf_counter(), folder / f"{name}.wav"
        try:
            speech = synthesizer.speak(text, language, speaker, input_type=options.input_type,
                                       sampling=sampling_from(options), seed=options.seed,
                                       reference=options.reference, reference_text=options.reference_text,
                                       prosody=prosody_from(options))
            if options.times:
                save_timings(target.with_suffix(str(options.times)), speech)
        except ValueError as error:
            raise ValueError(f"{path}, {name}: {error}") from error
        save_audio(target, speech.samples, speech.sample_rate)
        report(speech, time.perf_counter() - started, target)


def sampling_from(options: argparse.Namespace) -> Sampling:
    return Sampling(options.temperature, options.top_k, options.top_p, options.repetition_window)


def prosody_from(options: argparse.Namespace) -> Prosody | None:
    """None where nothing was asked for, so that systems that cannot follow do not have to."""
    prosody = Prosody(options.rate, options.pitch, options.energy)
    return None if prosody == Prosody() else prosody


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model", help="name under checkpoints/, or an exported "
                        f"voice's folder; if not given, the one trained last, else {DEFAULT_VOICE}")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", help="text to speak")
    source.add_argument("--ipa", help="IPA to speak")
    source.add_argument("-i", "--input", type=Path, metavar="FILELIST", help="speak every line; -o is then a folder")
    parser.add_argument("--input-type", choices=["text", "ipa"], default="text", help="what the filelist's text is")
    parser.add_argument("-l", "--language", default="en-us", help="espeak-ng's name, e.g. en-us, de, cmn")
    parser.add_argument("-s", "--speaker", help="the model's first if not given")
    parser.add_argument("--reference", type=Path, metavar="AUDIO", help="speak in the voice of this recording")
    parser.add_argument("--reference-text", metavar="TEXT", help="what it says, in the same language (IPA with --ipa)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="audio file, or folder with -i")
    parser.add_argument("--mel", type=Path, metavar="PNG", help="also draw the mel of what was spoken")
    parser.add_argument("--times", type=Path, metavar="FILE", help="also write when each word is said: .json, .srt or "
                        ".TextGrid; with -i this suffix alone, for a file beside each wav")
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
    options = parser.parse_args()

    if options.input:
        synthesize_filelist(load_synthesizer(options.model), options.input, options.output, options)
        return
    text, input_type = (options.text, "text") if options.ipa is None else (options.ipa, "ipa")
    samples, _ = synthesize_text(
        text, options.language, options.speaker, options.model, options.output, sampling_from(options), options.seed,
        input_type, options.reference, options.reference_text, prosody_from(options), options.times,
    )
    if options.mel:
        audio = load_synthesizer(options.model).audio
        save_figure(mel_figure({text: log_mel(samples[None], audio)[0]}), options.mel)


if __name__ == "__main__":
    cli.run(main)
