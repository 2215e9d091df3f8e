"""The rows of the report: what stands between a recording and speech, one stage more in each.

    recording       the file itself
    griffin_lim     recording -> mel -> Griffin-Lim
    vocoder         recording -> mel -> vocoder
    codec           recording -> codec -> mel -> Griffin-Lim
    codec_vocoder   recording -> codec -> mel -> vocoder
    synthesis       text -> wave, or waves made elsewhere

The copies are made by the networks themselves, so that a model needs no language model for them.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from config import Config, MelCodecConfig, parse_config
from data_utils import DEFAULT_SPEAKER
from mel_processing import frames_for, griffin_lim, log_mel, resample
from models import CodesToWave, build_wave_generator, load_codec, load_network
from voice_folder import has_stage, require_stage

log = logging.getLogger(__name__)

COPIES = ("griffin_lim", "vocoder", "codec", "codec_vocoder")
ROWS = ("recording", *COPIES, "synthesis")

Copy = Callable[[Tensor, str], Tensor]
"""A recording (samples,) at the model's rate, and its speaker -> its copy (samples,)."""


class Copier:
    """What a model's networks make of recordings."""

    def __init__(self, folder: Path):
        """`folder`: a model's, with a codec, a vocoder or both. ValueError if it has neither, or if
        their mels differ."""
        stages = {name: _stage(folder, name) for name in ("codec", "vocoder")}
        trained = {name: data for name, data in stages.items() if data}
        if not trained:
            raise ValueError(f"{folder}: has neither a codec nor a vocoder; train one first")
        configs = {name: parse_config(data["config"], f"the config in {folder / name}")
                   for name, data in trained.items()}
        self.folder, self.steps = folder, {name: data["step"] for name, data in trained.items()}
        self.audio = next(iter(configs.values())).audio
        if any(config.audio != self.audio for config in configs.values()):
            raise ValueError(f"{folder}: codec and vocoder were trained with different audio sections")
        self.copies: dict[str, Copy] = {"griffin_lim": self._griffin_lim}
        self.codec = self.vocoder = None
        self._add_codec(configs)
        if "vocoder" in trained:
            self._add_vocoder(configs["vocoder"], trained["vocoder"])

    def _add_codec(self, configs: dict[str, Config]) -> None:
        config = configs.get("codec", configs.get("vocoder"))
        if isinstance(config.codec, MelCodecConfig) and "codec" not in configs:
            return
        if not isinstance(config.codec, MelCodecConfig) and configs["vocoder"].train.vocoder.conditioning == "mel":
            return  # EnCodec has no mel decoder of its own
        self.codec = load_codec(config, self.folder.name, self.folder.parent, needs_codes=False)
        if isinstance(config.codec, MelCodecConfig):
            self.copies["codec"] = lambda wave, speaker: self._invert(self._codec_mel(wave, speaker))

    def _add_vocoder(self, config: Config, data: dict) -> None:
        conditioning, where = config.train.vocoder.conditioning, self.folder / "vocoder"
        if conditioning not in ("mel", "codes"):
            log.info("%s: its vocoder takes neither mel nor codes; no rows of it", where)
            return
        generator = load_network(build_wave_generator(config, data), data, where)
        generator.vocoder.remove_weight_norm()
        self.vocoder = generator.vocoder
        if not isinstance(generator, CodesToWave):
            self.copies["vocoder"] = lambda wave, speaker: self.vocoder(log_mel(wave[None], self.audio)).wave[0]
            if "codec" in self.copies:
                self.copies["codec_vocoder"] = lambda wave, speaker: (
                    self.vocoder(self._codec_mel(wave, speaker)).wave[0])
            return
        if self.codec is None or self.codec.fingerprint != data["codec"]["fingerprint"]:
            raise ValueError(f"{where}: was trained on the codes of codec {data['codec']['fingerprint']}, which is not "
                             f"the one in {self.folder / 'codec'}; train the vocoder on that one's codes")

        def decoded(wave: Tensor, speaker: str) -> Tensor:
            codes, lengths = self.codec.encode(resample(wave, self.audio.sample_rate, self.codec.sample_rate)[None])
            ids = torch.tensor([_speaker_id(data["speakers"], speaker, where)])
            return generator.decoder(codes, lengths, ids, torch.zeros(1), frames_for(len(wave), self.audio))

        self.copies["codec"] = lambda wave, speaker: self._invert(decoded(wave, speaker))
        self.copies["codec_vocoder"] = lambda wave, speaker: self.vocoder(decoded(wave, speaker)).wave[0]

    @torch.inference_mode()
    def copy(self, row: str, wave: Tensor, speaker: str) -> Tensor:
        """The copy (samples,) of a recording (samples,) at `audio.sample_rate`, no longer than it.

        ValueError for a speaker that the codec has not learned.
        """
        return self.copies[row](wave, speaker)[: len(wave)]

    def _griffin_lim(self, wave: Tensor, _speaker: str) -> Tensor:
        return self._invert(log_mel(wave[None], self.audio))

    def _invert(self, mel: Tensor) -> Tensor:
        return griffin_lim(mel, self.audio)[0]

    def _codec_mel(self, wave: Tensor, speaker: str) -> Tensor:
        """(1, n_mels, frames)"""
        latents, _ = self.codec.encode_latents(wave[None])
        ids = torch.tensor([_speaker_id(self.codec.speakers, speaker, self.folder / "codec")])
        return self.codec.decoder.from_latents(latents, ids)[:, :, : frames_for(len(wave), self.audio)]


def _stage(folder: Path, name: str) -> dict | None:
    command = f"python3 train_{name}.py -c CONFIG -m {folder.name}"
    return require_stage(folder / name, command) if has_stage(folder / name) else None


def _speaker_id(speakers: list[str], speaker: str, where: Path) -> int:
    if speaker == DEFAULT_SPEAKER:
        return 0
    if speaker not in speakers:
        raise ValueError(f"{where}: speaker {speaker!r} is not among those it learned: {', '.join(speakers)}")
    return speakers.index(speaker)
