"""IPA -> language model -> codes or hidden states -> mel -> wave.

What goes wrong is noticed (`Part.finish_reason`) and, where it is not heard yet, spoken again.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from config import MelCodecConfig, parse_config
from decoding.engine import Decoder
from decoding.repetition import RepetitionWatch
from decoding.weights import matrix_inputs
from models import Codec, MelToWave, build_token_lm, build_wave_generator, load_codec, load_network
from models.aligned_tts import Prosody
from models.layers.sampling import Sampling
from models.token_lm import Generated
from names import index_of, speaker_for
from synthesis.frames_to_wave import FramesToWave, WaveStream
from synthesis.speech import Part, Utterance
from synthesis.watch import SILENT_SECONDS, longest_silence
from synthesis.word_times import WordTimes
from text import build_frontend
from text.pieces import cut_to_fit
from voice_folder import has_stage, require_stage, stored_precision
from voice_prompts import VoicePrompt, nearest_speaker, read_voice_prompt

log = logging.getLogger(__name__)

BOUND_MARGIN = 1.2  # a sentence may be this much slower than 99.5 % of the training clips
BOUND_FRAMES_SECONDS = 0.5
UNTIMED = ("this model has no aligner: train one under its name (align.py), or use an aligned-duration model "
           "(train_aligned.py)")
REASONS = ["stop", "silent", "length", "stuck"]  # from good to bad


@dataclass(frozen=True)
class TokenVoice:
    """Whom the language model and the decoder take for the speaker, and what they go on from."""

    speaker: int
    """-1: none, the recording alone is the voice"""
    decoder_speaker: int
    prompt: VoicePrompt | None = None


class TokenSystem:
    """A language model over codes, a mel decoder and a vocoder."""

    name = "token"
    together = True

    def __init__(self, folder: Path, device: torch.device, precision: str | None = None):
        """`precision` of the language model's matrices: "int8" (on a CPU) or "fp32"; None: int8 of a voice that was
        exported so, where that can be.

        ValueError if a stage is not trained yet, if two stages do not fit each other, saying which, or for int8
        elsewhere.
        """
        self.folder, self.device, model = folder, device, folder.name
        if not has_stage(folder / "vocoder"):
            require_stage(folder / "llm", f"python3 train_llm.py -c CONFIG -m {model}")  # it comes first
        wave_data = require_stage(folder / "vocoder", f"python3 train_vocoder.py -c CONFIG -m {model}")
        self.config = parse_config(wave_data["config"], f"the config in {folder / 'vocoder'}")
        self.audio = self.config.audio
        self.hidden = self.config.train.vocoder.conditioning == "hidden"
        if self.hidden:
            lm_folder, lm_data = folder / "vocoder", wave_data
        else:
            lm_folder = folder / "llm"
            lm_data = require_stage(lm_folder, f"python3 train_llm.py -c CONFIG -m {model}")
        lm_config = parse_config(lm_data["config"], f"the config in {lm_folder}")
        self.frontend = build_frontend(lm_config.text)
        self.frontend.check_state(lm_data["text"], str(lm_folder))
        self.languages, self.speakers = lm_data["languages"], lm_data["speakers"]
        self.speaker_languages = lm_data["speaker_languages"]
        self.frames_per_symbol, self.code_frame_rate = lm_data["frames_per_symbol"], lm_data["codec"]["frame_rate"]

        if wave_data["codec"] is None and not isinstance(self.config.codec, MelCodecConfig):
            raise ValueError(f"{folder / 'vocoder'}: was trained on mel, and {self.config.codec.kind} has no mel "
                             'decoder: train it with train.vocoder.conditioning "codes" or "hidden"')
        generator = build_wave_generator(self.config, wave_data)
        generator = load_network(generator, wave_data, folder / "vocoder")
        if isinstance(generator, MelToWave):
            codec = load_codec(self.config, model, folder.parent)
            decoder, self.decoder_speakers = codec.decoder, codec.speakers
            self.fingerprint = codec.fingerprint
        else:
            decoder, self.decoder_speakers = generator.decoder, wave_data["speakers"]
            self.fingerprint = wave_data["codec"]["fingerprint"]
        if self.hidden:
            self.lm, self.learned_voices = generator.lm.to(device), wave_data["learned_voices"]
        else:
            self.lm = load_network(build_token_lm(lm_config, lm_data), lm_data, lm_folder).to(device)
            self.learned_voices = lm_config.train.llm.voice_probability > 0
        if self.fingerprint != lm_data["codec"]["fingerprint"]:
            raise ValueError(
                f"{folder}: the language model speaks codes of codec {lm_data['codec']['fingerprint']}, the vocoder "
                f"stage hears codec {self.fingerprint}: make the codes again and train both stages on them"
            )
        if lm_config.audio != self.audio:
            raise ValueError(f"{folder}: llm and vocoder were trained with different audio sections")
        if precision is None:
            precision = "int8" if stored_precision(folder) == "int8" and device.type == "cpu" else "fp32"
        self.fast_lm = Decoder(self.lm, precision=precision)
        generator.vocoder.remove_weight_norm()
        self.to_wave = FramesToWave(decoder.to(device), generator.vocoder.to(device), self.audio, self.code_frame_rate)
        self.word_times = None
        if has_stage(folder / "aligner") and lm_config.text.frontend == "ipa":
            self.word_times = WordTimes(folder / "aligner", self.audio, device)

    @staticmethod
    def is_trained(folder: Path) -> bool:
        """Whether a model's folder has the stages of this system: both, or a vocoder stage that holds the language
        model, too."""
        if not has_stage(folder / "vocoder"):
            return False
        if has_stage(folder / "llm"):
            return True
        wave_data = require_stage(folder / "vocoder", "python3 train_vocoder.py")
        return wave_data["config"]["train"]["vocoder"]["conditioning"] == "hidden"

    @property
    def stages(self) -> dict[str, str]:
        """As `System` says; the codec is there for references, and where the vocoder was trained on mel, the aligner
        for the times of words."""
        return {name: "" for name, used in
                {"llm": not self.hidden, "vocoder": True, "codec": self.own_codec, "aligner": self.word_times}.items()
                if used}

    @property
    def controls(self) -> set[str]:
        """As `System` says."""
        drawn = {"temperature", "top_k", "top_p", "repetition_window", "seed", "retries"}
        # a voice may have been exported without the encoder
        hears = self.own_codec or not isinstance(self.config.codec, MelCodecConfig)
        return drawn | {"reference"} if hears else drawn

    @property
    def own_codec(self) -> bool:
        """Whether a codec of this project is there."""
        return isinstance(self.config.codec, MelCodecConfig) and has_stage(self.folder / "codec")

    @property
    def matrices(self) -> dict[str, dict[str, int]]:
        """As `System` says."""
        stage, prefix = ("vocoder", "lm.") if self.hidden else ("llm", "")
        return {stage: {prefix + name: inputs for name, inputs in matrix_inputs(self.lm).items()}}

    @cached_property
    def codec(self) -> Codec:
        """The codec whose codes the language model speaks; only its encoder is not needed for every speech."""
        codec = load_codec(self.config, self.folder.name, self.folder.parent)
        if codec.fingerprint != self.fingerprint:
            raise ValueError(f"{self.folder}: its codec is now {codec.fingerprint}, the other stages were trained on "
                             f"the codes of {self.fingerprint}: a reference needs that one")
        return codec

    def check(self, language: str, speaker: str | None) -> tuple[int, int]:
        """Ids of a language and a speaker (one who speaks it if None); ValueError for one that was not learned."""
        speaker = speaker or speaker_for(language, self.speakers, self.speaker_languages)
        return index_of(self.languages, language, "language"), index_of(self.speakers, speaker, "speaker")

    def voice(
        self, speaker: str | None, language: str, reference: str | Path | None = None, said: str = ""
    ) -> TokenVoice:
        """The voice of a speaker, or of one who speaks the language, or that of a reference recording, in which the
        IPA `said` (if it is known) is said. The decoder is then the named speaker's, or that of the nearest one.

        ValueError for a speaker that was not learned, and for a recording that cannot be used.
        """
        _, speaker_id = self.check(language, speaker)
        if reference is None:
            return TokenVoice(speaker_id, self._decoder_speaker(self.speakers[speaker_id]))
        prompt = self._prompt(reference, said)
        if speaker is None:
            language_id, _ = self.check(language, speaker)
            speaker = nearest_speaker(reference, self.audio, self._readings(prompt, language_id))
            log.info("%s: the decoder of %s comes nearest", reference, speaker)
            speaker_id = -1 if self.learned_voices else self.speakers.index(speaker)
        return TokenVoice(speaker_id, self._decoder_speaker(speaker), prompt)

    def with_prosody(self, voice: TokenVoice, prosody: Prosody) -> TokenVoice:
        """ValueError: a language model decides for itself."""
        raise ValueError(f"{self.folder}: a language model over codes takes no rate, pitch or energy; an "
                         "aligned-duration model does (train_aligned.py)")

    def pieces(self, ipa: str, voice: TokenVoice) -> list[str]:
        """The IPA in pieces that fit the model's positions, cut at punctuation if possible, else at spaces."""
        def fits(piece: str) -> bool:
            bound = self.bound(len(self.frontend.encode(piece)))
            return self._positions(piece, bound, voice.prompt) <= self.lm.config.max_positions

        return cut_to_fit(ipa, fits, self.frontend, ".,;:!?")

    def speak_parts(self, utterances: list[Utterance], *, sampling: Sampling, retries: int = 0) -> list[Part]:
        """Speaks pieces of IPA: what the language model says of all of them together, each wave alone.

        A part that did not end well is spoken up to `retries` times more, with other random numbers, and the best
        attempt is taken; greedy speech would be the same again.
        """
        spoken: list[Part | None] = [None] * len(utterances)
        waiting = list(range(len(utterances)))
        for attempt in range(1 + (retries if sampling.temperature else 0)):
            made = self._generate([utterances[i] for i in waiting], sampling)
            for i, generated in zip(waiting, made, strict=True):
                generated = self._watched(generated, RepetitionWatch(self.code_frame_rate))
                wave = self.to_wave.wave(self._frames(generated), utterances[i].voice.decoder_speaker)
                part = self._part(utterances[i].ipa, wave, generated.finish_reason)
                best = min([part] if spoken[i] is None else [spoken[i], part],
                           key=lambda one: REASONS.index(one.finish_reason))
                spoken[i] = replace(best, retries=attempt)
            waiting = [i for i in waiting if spoken[i].finish_reason != "stop"]
            if not waiting:
                break
        return [self._timed(part, one.voice) for part, one in zip(spoken, utterances, strict=True)]

    def stream_part(self, utterance: Utterance, *, sampling: Sampling) -> Iterator[tuple[Tensor, Part | None]]:
        """Speaks a piece of IPA in chunks, each as soon as the codes that decide it are drawn: the samples that
        `speak_parts` gives without retries. What was heard cannot be spoken again."""
        chunks, watch = [], RepetitionWatch(self.code_frame_rate)
        waves = WaveStream(self.to_wave, utterance.voice.decoder_speaker)
        (text, speaker, language_id, bound), recordings = self._given(utterance)
        for generated in self.fast_lm.stream(text, speaker, language_id, bound, sampling, utterance.generator,
                                             with_states=self.hidden, **recordings):
            generated = self._watched(generated, watch)
            ended = generated.finish_reason is not None
            samples = waves.more(self._frames(generated), ended)
            if len(samples):
                chunks.append(samples)
            if ended:
                part = self._part(utterance.ipa, torch.cat(chunks), generated.finish_reason)
                yield samples, self._timed(part, utterance.voice)
                return
            if len(samples):
                yield samples, None

    def bound(self, n_symbols: int) -> int:
        """Code frames that no sensible reading of so many symbols needs."""
        return int(n_symbols * self.frames_per_symbol * BOUND_MARGIN + BOUND_FRAMES_SECONDS * self.code_frame_rate)

    def _decoder_speaker(self, speaker: str) -> int:
        return index_of(self.decoder_speakers, speaker, "speaker")

    def _prompt(self, reference: str | Path, ipa: str) -> VoicePrompt:
        if not ipa and not self.learned_voices:
            log.warning("%s: what it says is not given, and %s was trained without train.llm.voice_probability: it may "
                        "say anything", reference, self.folder.name)
        prompt = read_voice_prompt(reference, ipa, self.codec)
        prompt = replace(prompt, codes=prompt.codes.to(self.device))
        room, taken = self.lm.config.max_positions, self._positions("", 0, prompt)
        if taken > room // 2:
            most = (room // 2 - taken + prompt.codes.shape[1]) / self.code_frame_rate
            raise ValueError(f"{reference}: too long, it takes {taken} positions of the model's {room}; use at most "
                             f"{max(0, most):.1f} s of it, and the text of that part")
        return prompt

    @torch.inference_mode()
    def _readings(self, prompt: VoicePrompt, language: int) -> Iterator[tuple[str, Tensor]]:
        """Every speaker and the mel (n_mels, frames) that the codes of a recording have in that one's voice."""
        def ids(*values: int) -> Tensor:
            return torch.tensor(values, dtype=torch.long, device=self.device)

        text, features = ids(*self._encode("", prompt)), prompt.codes
        for speaker, name in enumerate(self.speakers):
            if self.hidden:
                given = text[None], ids(len(text)), prompt.codes[None], ids(prompt.codes.shape[1])
                features = self.lm.frame_states(*given, ids(speaker), ids(language))[0]
            yield name, self.to_wave.mel(features, self._decoder_speaker(name))[0]

    def _given(self, utterance: Utterance) -> tuple[tuple[Tensor, Tensor, Tensor, int], dict]:
        """What the language model is given for a piece: text, speaker (1,), language (1,), bound, and recordings."""
        ipa, voice, prompt = utterance.ipa, utterance.voice, utterance.voice.prompt
        ids = torch.tensor(self._encode(ipa, prompt), device=self.device)
        speaker, language_id = (torch.tensor([value], device=self.device)
                                for value in (voice.speaker, index_of(self.languages, utterance.language, "language")))
        recordings = {} if prompt is None else {"prompt" if prompt.ipa else "voice": prompt.codes}
        return (ids, speaker, language_id, self.bound(len(self.frontend.encode(ipa)))), recordings

    def _generate(self, utterances: list[Utterance], sampling: Sampling) -> list[Generated]:
        given, recordings = zip(*map(self._given, utterances), strict=True)
        text, speaker, language_id, bounds = zip(*given, strict=True)
        return self.fast_lm.generate(
            list(text), torch.cat(speaker), torch.cat(language_id), list(bounds), sampling,
            [utterance.generator for utterance in utterances], with_states=self.hidden,
            **{f"{name}s": [one.get(name) for one in recordings] for name in set().union(*recordings)},
        )

    def _watched(self, generated: Generated, watch: RepetitionWatch) -> Generated:
        """Cut off, as "stuck", where its codes are found to repeat themselves."""
        end = watch.stuck_at(generated.codes.cpu().numpy())
        if end is None:
            return generated
        states = None if generated.states is None else generated.states[:, :end]
        return Generated(generated.codes[:, :end], "stuck", states)

    def _frames(self, generated: Generated) -> Tensor:
        """What the decoder hears of it."""
        return generated.states if self.hidden else generated.codes

    def _part(self, ipa: str, wave: Tensor, finish_reason: str) -> Part:
        if finish_reason == "stop" and longest_silence(wave, self.audio.sample_rate) > SILENT_SECONDS:
            finish_reason = "silent"
        return Part(ipa, wave, len(wave) / self.audio.sample_rate, finish_reason)

    def _timed(self, part: Part, voice: TokenVoice) -> Part:
        if self.word_times is None:
            return replace(part, untimed=UNTIMED)
        return self.word_times.timed(part, self.decoder_speakers[voice.decoder_speaker])

    def _encode(self, ipa: str, prompt: VoicePrompt | None) -> list[int]:
        """Symbol ids, behind those of what the prompt says."""
        said = " ".join(filter(None, [prompt and prompt.ipa, ipa]))
        return self.frontend.encode(said) if said else []

    def _positions(self, ipa: str, frames: int, prompt: VoicePrompt | None) -> int:
        """What so many frames of a text take of the model's positions, together with the prompt."""
        given, n_symbols = prompt.codes.shape[1] if prompt else 0, len(self._encode(ipa, prompt))
        positions_for = self.lm.state_positions_for if self.hidden else self.lm.positions_for
        if prompt and prompt.ipa:
            return positions_for(n_symbols, frames + given)
        return positions_for(n_symbols, frames) + self.lm.voice_positions_for(given)
