"""IPA -> aligned-duration model -> mel -> wave: every symbol has its frames, so that every word has its time."""

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from alignments.textgrids import word_and_phone_intervals
from config import parse_config
from models import build_aligned_tts, load_network, load_vocoder
from models.aligned_tts import AlignedTTS, Plan, Prosody
from models.layers.mel_decoders import AutoregressiveDecoder, FlowDecoder
from models.layers.sampling import Sampling
from names import index_of, speaker_for
from synthesis.frames_to_wave import FramesToWave, NoDecoder
from synthesis.speech import Part, Utterance
from text import build_frontend
from text.pieces import cut_to_fit
from text.symbols import MARKS
from voice_folder import has_stage, require_stage

log = logging.getLogger(__name__)

MAX_SYMBOLS = 300  # of a piece: longer sentences than people read were not trained on
FIRST_SECONDS = 0.25
"""Of a stream's first chunk; the next ones are twice as long each, so that even a vocoder that has to begin anew for
every chunk takes no more than twice its time."""


@dataclass(frozen=True)
class AlignedVoice:
    """A speaker and how it is to speak."""

    speaker: int
    prosody: Prosody


class AlignedSystem:
    """The aligned-duration model and the vocoder."""

    name = "aligned"
    stages = {"aligned": "", "vocoder": "vocoder."}
    matrices: dict[str, dict[str, int]] = {}

    def __init__(self, folder: Path, device: torch.device, precision: str | None = None):
        """ValueError if a stage is not trained yet, if the two do not fit each other, or for another precision than
        fp32."""
        if precision == "int8":
            raise ValueError(f"{folder}: int8 is for language models, which read all of their weights for every step; "
                             "this is an aligned-duration model, which speaks in fp32 alone")
        self.folder, self.device, model = folder, device, folder.name
        data = require_stage(folder / "aligned", f"python3 train_aligned.py -c CONFIG -m {model}")
        wave_data = require_stage(folder / "vocoder", f"python3 train_vocoder.py -c CONFIG -m {model}")
        config = parse_config(data["config"], f"the config in {folder / 'aligned'}")
        wave_config = parse_config(wave_data["config"], f"the config in {folder / 'vocoder'}")
        if config.audio != wave_config.audio:
            raise ValueError(f"{folder}: aligned and vocoder were trained with different audio sections")
        self.audio = config.audio
        self.frontend = build_frontend(config.text)
        self.frontend.check_state(data["text"], str(folder / "aligned"))
        self.languages, self.speakers = data["languages"], data["speakers"]
        self.speaker_languages = data["speaker_languages"]
        self.model = load_network(build_aligned_tts(config, data), data, folder / "aligned").to(device)
        self.vocoder = load_vocoder(wave_config, wave_data, folder / "vocoder").to(device)
        self.together = isinstance(self.model.decoder, AutoregressiveDecoder)
        self.to_wave = FramesToWave(NoDecoder(self.audio.n_mels), self.vocoder, self.audio, self.audio.frame_rate)

    @staticmethod
    def is_trained(folder: Path) -> bool:
        """Whether a model's folder has the stages of this system."""
        return has_stage(folder / "aligned") and has_stage(folder / "vocoder")

    @property
    def controls(self) -> set[str]:
        """As `System` says."""
        drawn = {"temperature", "seed"} if isinstance(self.model.decoder, FlowDecoder) else set()
        return {field.name for field in fields(Prosody)} | drawn

    def check(self, language: str, speaker: str | None) -> tuple[int, int]:
        """Ids of a language and a speaker (one who speaks it if None); ValueError for one that was not learned."""
        speaker = speaker or speaker_for(language, self.speakers, self.speaker_languages)
        return index_of(self.languages, language, "language"), index_of(self.speakers, speaker, "speaker")

    def voice(
        self, speaker: str | None, language: str, reference: str | Path | None = None, said: str = ""
    ) -> AlignedVoice:
        """The voice of a speaker, or of one who speaks the language; ValueError for a reference: it follows none."""
        if reference is not None:
            raise ValueError(f"{self.folder}: an aligned-duration model has the voices it was trained on; name one of "
                             f"{', '.join(self.speakers)} instead of a reference")
        return AlignedVoice(self.check(language, speaker)[1], Prosody())

    def with_prosody(self, voice: AlignedVoice, prosody: Prosody) -> AlignedVoice:
        """The voice, speaking in another way."""
        return replace(voice, prosody=prosody)

    def pieces(self, ipa: str, voice: AlignedVoice) -> list[str]:
        """The IPA in pieces of at most MAX_SYMBOLS, cut at punctuation if possible, else at spaces."""
        return cut_to_fit(ipa, lambda piece: len(self.frontend.encode(piece)) <= MAX_SYMBOLS, self.frontend, MARKS)

    @torch.inference_mode()
    def speak_parts(self, utterances: list[Utterance], *, sampling: Sampling, retries: int = 0) -> list[Part]:
        """Speaks pieces of IPA, each alone, so that its neighbours do not change it in the least; only the mels of an
        autoregressive decoder are made together, of pieces with the same prosody. Nothing is random but a flow's noise,
        whose standard deviation is the sampling's temperature. Durations always end: there is nothing to retry."""
        batches: dict[object, list[int]] = {}
        for i, utterance in enumerate(utterances):
            batches.setdefault(utterance.voice.prosody if self.together else i, []).append(i)
        parts: dict[int, Part] = {}
        for batch in batches.values():
            some = [utterances[i] for i in batch]
            spoken = self.model.generate(*self._given(some), some[0].voice.prosody, sampling.temperature,
                                         [utterance.generator for utterance in some])
            for i, speech in zip(batch, spoken, strict=True):
                wave = self.vocoder(speech.mel.unsqueeze(0)).wave[0].cpu()
                parts[i] = self._part(utterances[i].ipa, wave, speech.durations)
        return [parts[i] for i in range(len(utterances))]

    @torch.inference_mode()
    def stream_part(self, utterance: Utterance, *, sampling: Sampling) -> Iterator[tuple[Tensor, Part | None]]:
        """A piece of IPA in chunks, of which the first is heard before the rest is made: the encoder hears all of it,
        and is done with it in milliseconds; mel decoder and vocoder go on as far as each chunk depends on them."""
        plan = self.model.plan(*self._given([utterance]), utterance.voice.prosody, sampling.temperature,
                               [utterance.generator])
        chunks = []
        for samples, ended in spoken_in_chunks(self.model, plan, self.to_wave):
            chunks.append(samples)
            yield samples, self._part(utterance.ipa, torch.cat(chunks), plan.durations[0]) if ended else None

    def _given(self, utterances: list[Utterance]) -> tuple[list[Tensor], Tensor, Tensor]:
        """What the model is given: symbols (S,) of each part, speaker (B,), language (B,)."""
        begin, end = self.frontend.bos_id, self.frontend.eos_id
        ids = [torch.tensor([begin, *self.frontend.encode(one.ipa), end], device=self.device) for one in utterances]
        speaker = torch.tensor([one.voice.speaker for one in utterances], device=self.device)
        languages = [index_of(self.languages, one.language, "language") for one in utterances]
        return ids, speaker, torch.tensor(languages, device=self.device)

    def _part(self, ipa: str, wave: Tensor, durations: Tensor) -> Part:
        seconds = len(wave) / self.audio.sample_rate
        words, phones = word_and_phone_intervals(ipa, durations.tolist(), seconds, self.audio)
        return Part(ipa, wave, seconds, "stop", words=words, phones=phones)


def spoken_in_chunks(model: AlignedTTS, plan: Plan, to_wave: FramesToWave) -> Iterator[tuple[Tensor, bool]]:
    """The wave of a plan of one text in chunks (samples,), and whether each is the last: each made of no more frames
    than it takes to decide it (`to_wave` being of mel), and one alone where only all of them will do."""
    first = round(FIRST_SECONDS * to_wave.audio.sample_rate)
    ends = (to_wave.frames_for(first * (2**count - 1)) for count in itertools.count(1))
    mel, made = plan.features.new_zeros(to_wave.audio.n_mels, 0), 0
    for frames, ended in model.stream(plan, itertools.takewhile(lambda end: end is not None, ends)):
        mel = torch.cat([mel, frames], dim=1)
        samples = to_wave.part(mel, 0, made, ended)
        made += len(samples)
        yield samples, ended
