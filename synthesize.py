"""Speaks: text or IPA -> codes -> mel -> wave, with a trained model.

    python3 synthesize.py -m my_model --text "Hello world" -o hello.wav
    python3 synthesize.py -m my_model --ipa "həlˈoʊ wˈɜːld" -l en-us -o hello.wav
    python3 synthesize.py -m my_model -i filelists/sentences.txt -o outputs/
    python3 synthesize.py -m my_model --text "Hello world" --reference voice.wav --reference-text "Good day" -o a.wav

From Python or a notebook:

    from synthesize import synthesize_text
    samples, sample_rate = synthesize_text("Hello world", language="en-us", model="my_model")
"""

import argparse
import logging
import time
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor

import cli
from checkpoints import require_checkpoint, saved_steps
from config import MelCodecConfig, parse_config
from data_utils import DEFAULT_LANGUAGE, DEFAULT_SPEAKER, read_filelist
from mel_processing import audio_format, log_mel, save_audio
from models import Codec, CodesToWave, build_token_lm, build_wave_generator, load_codec, load_network
from models.layers.sampling import Sampling
from plotting import mel_figure, save_figure
from text import build_frontend, normalize_ipa, split_sentences
from voice_prompts import VoicePrompt, nearest_speaker, read_voice_prompt

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.25  # between sentences
BATCH_SIZE = 8  # sentences spoken together
BOUND_MARGIN = 1.2  # a sentence may be this much slower than 99.5 % of the training clips
BOUND_FRAMES_SECONDS = 0.5


@dataclass
class Speech:
    """What was made of one text."""

    samples: Tensor
    """(samples,) float32"""
    sample_rate: int
    sentences: list[dict] = field(default_factory=list)
    """ipa, seconds and finish_reason of each part."""

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


class Synthesizer:
    """The chain of a model's newest checkpoints, checked to fit together, and its text frontend."""

    def __init__(self, model: str, checkpoints: str | Path = "checkpoints", device: str | None = None):
        """ValueError if a stage is not trained yet, or if two stages do not fit each other, saying which."""
        self.model, self.checkpoints = model, checkpoints
        folder = Path(checkpoints) / model
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        lm_data = require_checkpoint(folder / "llm", f"python3 train_llm.py -c CONFIG -m {model}")
        wave_data = require_checkpoint(folder / "vocoder", f"python3 train_vocoder.py -c CONFIG -m {model}")
        lm_config = parse_config(lm_data["config"], f"the config in {folder / 'llm'}")
        self.config = parse_config(wave_data["config"], f"the config in {folder / 'vocoder'}")
        self.audio = self.config.audio

        self.frontend = build_frontend(lm_config.text)
        self.frontend.check_state(lm_data["text"], str(folder / "llm"))
        self.languages, self.speakers = lm_data["languages"], lm_data["speakers"]
        self.lm = load_network(build_token_lm(lm_config, lm_data), lm_data, folder / "llm").to(self.device)
        self.frames_per_symbol = lm_data["frames_per_symbol"]
        self.learned_voices = lm_config.train.llm.voice_probability > 0

        codec_data = wave_data["codec"]
        if codec_data is None and not isinstance(self.config.codec, MelCodecConfig):
            raise ValueError(f"{folder / 'vocoder'}: was trained on mel, and {self.config.codec.kind} has no mel "
                             'decoder: train it with train.vocoder.conditioning "codes"')
        generator = build_wave_generator(self.config, len(wave_data["speakers"]), codec_data)
        generator = load_network(generator, wave_data, folder / "vocoder")
        if isinstance(generator, CodesToWave):
            self.decoder, self.decoder_speakers = generator.decoder.to(self.device), wave_data["speakers"]
            fingerprint = codec_data["fingerprint"]
        else:
            codec = load_codec(self.config, model, checkpoints)
            self.decoder, self.decoder_speakers = codec.decoder.to(self.device), codec.speakers
            fingerprint = codec.fingerprint
        if fingerprint != lm_data["codec"]["fingerprint"]:
            raise ValueError(
                f"{folder}: the language model speaks codes of codec {lm_data['codec']['fingerprint']}, the vocoder "
                f"stage hears codec {fingerprint}: make the codes again and train both stages on them"
            )
        if lm_config.audio != self.audio:
            raise ValueError(f"{folder}: llm and vocoder were trained with different audio sections")
        self.code_frame_rate, self.fingerprint = lm_data["codec"]["frame_rate"], fingerprint
        generator.vocoder.remove_weight_norm()
        self.vocoder = generator.vocoder.to(self.device)

    @cached_property
    def codec(self) -> Codec:
        """The codec whose codes the language model speaks; only its encoder is not needed for every speech."""
        codec = load_codec(self.config, self.model, self.checkpoints)
        if codec.fingerprint != self.fingerprint:
            raise ValueError(f"{Path(self.checkpoints) / self.model}: its codec is now {codec.fingerprint}, the other "
                             f"stages were trained on the codes of {self.fingerprint}: a reference needs that one")
        return codec

    def speak(
        self, text: str, language: str = "en-us", speaker: str | None = None, *, input_type: str = "text",
        sampling: Sampling = Sampling(), seed: int | None = None,  # noqa: B008 (frozen)
        reference: str | Path | None = None, reference_text: str | None = None,
    ) -> Speech:
        """Text (or, with input_type "ipa", IPA) of any length as one wave; sentences are spoken in batches.

        `reference`: a recording in whose voice to speak, and what is said in it, in the same language. The decoder is
        then the named speaker's, or that of the nearest one. ValueError for a language or speaker that the model has
        not learned, a reference that cannot be used, and for text with nothing to say.
        """
        language_id, speaker_id = self.check(language, speaker)
        prompt = None
        if reference is not None:
            prompt = self._prompt(reference, reference_text, language, input_type)
            if speaker is None:
                mels = ((name, self.mel_from_codes(prompt.codes, name)[0]) for name in self.speakers)
                speaker = nearest_speaker(reference, self.audio, mels)
                log.info("%s: the decoder of %s comes nearest", reference, speaker)
                speaker_id = -1 if self.learned_voices else self.speakers.index(speaker)
        elif reference_text is not None:
            raise ValueError("a reference's text is of use only with the reference itself")
        speaker = speaker or self.speakers[0]
        parts = [piece for part in self._ipa(text, language, input_type) if part for piece in self._fit(part, prompt)]
        if not parts:
            raise ValueError("there is nothing to say in the text")
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        waves, sentences = [], []
        for first in range(0, len(parts), BATCH_SIZE):
            batch = parts[first : first + BATCH_SIZE]
            for ipa, generated in zip(
                batch, self._generate(batch, speaker_id, language_id, sampling, generator, prompt), strict=True
            ):
                waves.append(self.wave_from_codes(generated.codes, speaker))
                seconds = len(waves[-1]) / self.audio.sample_rate
                sentences.append({"ipa": ipa, "seconds": seconds, "finish_reason": generated.finish_reason})
        pause = torch.zeros(round(PAUSE_SECONDS * self.audio.sample_rate))
        joined = [piece for wave in waves for piece in (wave, pause)][:-1]
        return Speech(torch.cat(joined), self.audio.sample_rate, sentences)

    def check(self, language: str, speaker: str | None) -> tuple[int, int]:
        """Ids of a language and a speaker; ValueError if the model has not learned one of them."""
        speaker = speaker or self.speakers[0]
        return self._index(self.languages, language, "language"), self._index(self.speakers, speaker, "speaker")

    def mel_from_codes(self, codes: Tensor, speaker: str) -> Tensor:
        """codes (n_codebooks, frames) -> (1, n_mels, frames in time)."""
        frames = codes.shape[1]
        mel_frames = max(2, round(frames / self.code_frame_rate * self.audio.frame_rate))  # 1 would give no samples
        with torch.inference_mode():
            return self.decoder(
                codes[None], torch.tensor([frames], device=self.device),
                torch.tensor([self._index(self.decoder_speakers, speaker, "speaker")], device=self.device),
                torch.zeros(1, device=self.device), mel_frames,
            )

    def wave_from_codes(self, codes: Tensor, speaker: str) -> Tensor:
        """codes (n_codebooks, frames) -> (samples,) on the CPU."""
        with torch.inference_mode():
            return self.vocoder(self.mel_from_codes(codes, speaker)).wave[0].cpu()

    def _ipa(self, text: str, language: str, input_type: str) -> list[str]:
        """The IPA of every sentence."""
        if input_type == "ipa":
            return [normalize_ipa(text)]
        return self.frontend.phonemize_many(split_sentences(text, language), language)

    def _prompt(self, reference: str | Path, text: str | None, language: str, input_type: str) -> VoicePrompt:
        ipa = " ".join(self._ipa(text, language, input_type)) if text else ""
        if not ipa and not self.learned_voices:
            log.warning("%s: what it says is not given, and %s was trained without train.llm.voice_probability: it may "
                        "say anything", reference, self.model)
        prompt = read_voice_prompt(reference, ipa, self.codec)
        prompt = replace(prompt, codes=prompt.codes.to(self.device))
        room, taken = self.lm.config.max_positions, self._positions("", 0, prompt)
        if taken > room // 2:
            most = (room // 2 - taken + prompt.codes.shape[1]) / self.code_frame_rate
            raise ValueError(f"{reference}: too long, it takes {taken} positions of the model's {room}; use at most "
                             f"{max(0, most):.1f} s of it, and the text of that part")
        return prompt

    def _generate(
        self, parts: list[str], speaker: int, language: int, sampling: Sampling, generator, prompt: VoicePrompt | None
    ) -> list:
        ids = [torch.tensor(self._encode(ipa, prompt), device=self.device) for ipa in parts]
        recordings = {} if prompt is None else {"prompts" if prompt.ipa else "voices": [prompt.codes] * len(ids)}
        return self.lm.generate(
            ids, torch.full((len(ids),), speaker, device=self.device),
            torch.full((len(ids),), language, device=self.device),
            [self._bound(len(self.frontend.encode(ipa))) for ipa in parts], sampling, generator, **recordings,
        )

    def _encode(self, ipa: str, prompt: VoicePrompt | None) -> list[int]:
        """Symbol ids, behind those of what the prompt says."""
        said = " ".join(filter(None, [prompt and prompt.ipa, ipa]))
        return self.frontend.encode(said) if said else []

    def _positions(self, ipa: str, frames: int, prompt: VoicePrompt | None) -> int:
        """What so many frames of a text take of the model's positions, together with the prompt."""
        given, n_symbols = prompt.codes.shape[1] if prompt else 0, len(self._encode(ipa, prompt))
        if prompt and prompt.ipa:
            return self.lm.positions_for(n_symbols, frames + given)
        return self.lm.positions_for(n_symbols, frames) + self.lm.voice_positions_for(given)

    def _bound(self, n_symbols: int) -> int:
        """Code frames that no sensible reading of so many symbols needs."""
        return int(n_symbols * self.frames_per_symbol * BOUND_MARGIN + BOUND_FRAMES_SECONDS * self.code_frame_rate)

    def _fit(self, ipa: str, prompt: VoicePrompt | None) -> list[str]:
        """The IPA in pieces that fit the model's positions, cut at punctuation if possible, else at spaces."""
        room = self.lm.config.max_positions
        n_symbols = len(self.frontend.encode(ipa))
        if self._positions(ipa, self._bound(n_symbols), prompt) <= room:
            return [ipa]
        words = ipa.split(" ")
        if len(words) == 1:
            raise ValueError(f"a word of {n_symbols} symbols is too long to speak: {ipa[:40]}...")
        middle = len(words) / 2
        after_mark = [i for i, word in enumerate(words[:-1], 1) if word and word[-1] in ".,;:!?"]
        cut = min(after_mark or range(1, len(words)), key=lambda i: abs(i - middle))
        return self._fit(" ".join(words[:cut]), prompt) + self._fit(" ".join(words[cut:]), prompt)

    def _index(self, names: list[str], name: str, what: str) -> int:
        if name not in names:
            raise ValueError(f"{what} {name!r} is not among those this model learned: {', '.join(names)}")
        return names.index(name)


@lru_cache(maxsize=4)
def load_synthesizer(model: str | None = None, checkpoints: str = "checkpoints") -> Synthesizer:
    """A model, loaded once per process; without a name, the one trained last."""
    if model is None:
        trained = [p for p in Path(checkpoints).glob("*") if saved_steps(p / "llm") and saved_steps(p / "vocoder")]
        if not trained:
            raise ValueError(f"{checkpoints}: no trained model; train one (see README) or name one with -m")
        model = max(trained, key=lambda p: (p / "vocoder").stat().st_mtime).name
        log.info("model %s (the one trained last)", model)
    return Synthesizer(model, checkpoints)


def synthesize_text(
    text: str, language: str = "en-us", speaker: str | None = None, model: str | None = None,
    output_path: str | Path | None = None, sampling: Sampling = Sampling(), seed: int | None = None,  # noqa: B008
    input_type: str = "text", reference: str | Path | None = None, reference_text: str | None = None,
) -> tuple[Tensor, int]:
    """Speaks text: samples (n,) float32 and their rate, also written to `output_path` if given; with a `reference`
    recording, in its voice (see `Synthesizer.speak`)."""
    if output_path:
        audio_format(output_path)
    started = time.perf_counter()
    synthesizer = load_synthesizer(model)
    speech = synthesizer.speak(text, language, speaker, input_type=input_type, sampling=sampling, seed=seed,
                               reference=reference, reference_text=reference_text)
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
             wall_seconds, speech.seconds / wall_seconds, len(speech.sentences))
    for sentence in speech.sentences:
        if sentence["finish_reason"] != "stop":
            log.warning("cut off at its length bound: %s", sentence["ipa"])


def synthesize_filelist(synthesizer: Synthesizer, path: Path, folder: Path, options: argparse.Namespace) -> None:
    """Speaks every line of a filelist into `folder/<stem of its path>.wav`, having checked all of them."""
    lines: dict[str, tuple[str, str, str | None]] = {}
    for clip in read_filelist(path):
        language = options.language if clip.language == DEFAULT_LANGUAGE else clip.language
        speaker = options.speaker if clip.speaker == DEFAULT_SPEAKER else clip.speaker
        if clip.path.stem in lines:
            raise ValueError(f"{path}: two lines would be written to {clip.path.stem}.wav; give each path another name")
        try:
            synthesizer.check(language, speaker)
        except ValueError as error:
            raise ValueError(f"{path}, {clip.path.name}: {error}") from error
        lines[clip.path.stem] = clip.text, language, speaker
    for name, (text, language, speaker) in lines.items():
        started, target = time.perf_counter(), folder / f"{name}.wav"
        try:
            speech = synthesizer.speak(text, language, speaker, input_type=options.input_type,
                                       sampling=sampling_from(options), seed=options.seed,
                                       reference=options.reference, reference_text=options.reference_text)
        except ValueError as error:
            raise ValueError(f"{path}, {name}: {error}") from error
        save_audio(target, speech.samples, speech.sample_rate)
        report(speech, time.perf_counter() - started, target)


def sampling_from(options: argparse.Namespace) -> Sampling:
    return Sampling(options.temperature, options.top_k, options.top_p, options.repetition_window)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model", help="name under checkpoints/; the one trained last if not given")
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
    parser.add_argument("--seed", type=int, help="the same seed gives the same speech")
    default = Sampling()
    parser.add_argument("--temperature", type=float, default=default.temperature, help="0 is greedy")
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
        input_type, options.reference, options.reference_text,
    )
    if options.mel:
        audio = load_synthesizer(options.model).audio
        save_figure(mel_figure({text: log_mel(samples[None], audio)[0]}), options.mel)


if __name__ == "__main__":
    cli.run(main)
