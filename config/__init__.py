"""JSON configs as typed, frozen sections: every unknown or wrong key is reported at once, with its path."""

import difflib
import math
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from config.codecs import (
    BottleneckConfig,
    Codec,
    EncodecConfig,
    FSQConfig,
    GaussianConfig,
    MelCodecConfig,
    RVQConfig,
)
from config.corpus import AudioConfig, DataConfig, TextConfig
from config.networks import (
    AlignedConfig,
    AlignerConfig,
    AutoregressiveDecoderConfig,
    BackboneConfig,
    DiscriminatorConfig,
    FlowDecoderConfig,
    HarmonicVocosConfig,
    HiddenDecoderConfig,
    MultibandISTFTConfig,
    ParallelDecoderConfig,
    TokenDecoderConfig,
    TokenLMConfig,
    Vocoder,
    VocosConfig,
)
from config.section import Section
from config.stages import (
    AlignedStage,
    AlignerStage,
    CodecStage,
    LLMStage,
    SpokenStage,
    StageConfig,
    TrainConfig,
    VocoderStage,
)
from text_files import read_json

__all__ = [
    "AlignedConfig", "AlignedStage", "AlignerConfig", "AlignerStage", "AudioConfig", "AutoregressiveDecoderConfig",
    "BackboneConfig", "BottleneckConfig", "Codec", "CodecStage", "Config", "DataConfig", "DiscriminatorConfig",
    "EncodecConfig", "FSQConfig", "FlowDecoderConfig", "GaussianConfig", "HarmonicVocosConfig",
    "HiddenDecoderConfig", "LLMStage", "MelCodecConfig", "MultibandISTFTConfig", "ParallelDecoderConfig",
    "RVQConfig", "Section", "SpokenStage", "StageConfig", "TextConfig", "TokenDecoderConfig", "TokenLMConfig",
    "TrainConfig", "Vocoder", "VocoderStage", "VocosConfig", "load_config", "parse_config",
]


class Config(Section):
    """A whole system."""

    audio: AudioConfig = AudioConfig()
    text: TextConfig = TextConfig()
    data: DataConfig
    aligner: AlignerConfig = AlignerConfig()
    codec: Codec = EncodecConfig()
    llm: TokenLMConfig = TokenLMConfig()
    token_decoder: TokenDecoderConfig = TokenDecoderConfig()
    hidden_decoder: HiddenDecoderConfig = HiddenDecoderConfig()
    aligned: AlignedConfig = AlignedConfig()
    vocoder: Vocoder = MultibandISTFTConfig()
    discriminators: DiscriminatorConfig = DiscriminatorConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def check(self):
        v = self.vocoder
        if isinstance(v, MultibandISTFTConfig):
            samples = math.prod(v.upsample_rates) * v.hop_length * v.n_bands
            if samples != self.audio.hop_length:
                raise ValueError(
                    f"vocoder: upsample_rates {v.upsample_rates} x hop_length {v.hop_length} x n_bands {v.n_bands} "
                    f"give {samples} samples a frame, audio.hop_length is {self.audio.hop_length}: make them equal"
                )
        if isinstance(self.codec, MelCodecConfig):
            self._check_codec(self.codec)
        for name, stage in self.train:
            if getattr(stage, "evaluate", 0) and self.data.validation_text is None:
                raise ValueError(f"train.{name}.evaluate: what is said must be known, set data.validation_text to the "
                                 "filelist with text that data.validation_filelist was made from")
        shortest = max([2048, self.audio.n_fft, *self.discriminators.fft_sizes]) // 2 + 1
        for name in ("segment_frames", "adversarial_frames"):
            frames = getattr(self.train.vocoder, name)
            samples = None if frames is None else frames * self.audio.hop_length
            if samples is not None and samples < shortest:
                raise ValueError(
                    f"train.vocoder.{name}: {samples} samples are too short for the STFTs of losses and "
                    f"discriminators, which need {shortest}: at least {-(-shortest // self.audio.hop_length)} frames"
                )
        return self

    def _check_codec(self, codec: MelCodecConfig) -> None:
        samples, wanted = codec.stride * self.audio.hop_length, codec.samples_per_code
        if wanted not in (None, samples):
            raise ValueError(
                f"codec: stride {codec.stride} x audio.hop_length {self.audio.hop_length} are {samples} samples a "
                f"code, codec.samples_per_code is {wanted}: make them equal"
            )
        if self.train.codec.segment_frames % codec.stride:
            raise ValueError(
                f"train.codec.segment_frames {self.train.codec.segment_frames} must be a multiple of codec.stride "
                f"{codec.stride}"
            )
        weights = self.train.codec.loss_weights
        if bool(weights.get("adversarial")) != bool(weights.get("feature_matching")):
            raise ValueError("train.codec.loss_weights: give adversarial and feature_matching weights, both or none")


def load_config(path: str | Path) -> Config:
    """The config in a JSON file. ValueError names the file and every wrong key with its path and the mend."""
    path = Path(path)
    return parse_config(read_json(path, "config file"), str(path))


def parse_config(values: Any, source: str) -> Config:
    """The config from plain values (a JSON file's, or a checkpoint's); `source` names them in errors."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise ValueError("\n".join([f"{source}: {len(lines)} problem(s) in the config", *lines])) from error


def _explain(problem: dict) -> str:
    # a discriminated union puts its tag ("encodec") into the path, which the user's file does not have
    tags = {1: {"encodec", "mel", "multiband_istft", "vocos", "harmonic_vocos"},
            2: {"parallel", "flow", "autoregressive"}, 3: {"fsq", "rvq", "gaussian"}}
    keys = [key for i, key in enumerate(problem["loc"]) if key not in tags.get(i, ())]
    where = ".".join(map(str, keys)) or "config"
    if problem["type"] != "extra_forbidden":
        return f"  {where}: {problem['msg'].removeprefix('Value error, ')}"
    known = {name for section in _sections(Section) for name in section.model_fields}
    close = difflib.get_close_matches(str(keys[-1]), known, n=1)
    if close == [keys[-1]]:
        return f"  {where}: not a key of this section, but of another"
    return f"  {where}: unknown key" + (f", did you mean '{close[0]}'?" if close else "")


def _sections(base: type[Section]) -> list[type[Section]]:
    return [s for sub in base.__subclasses__() for s in [sub, *_sections(sub)]]
