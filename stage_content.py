"""What a stage is, of a checkpoint or of an exported voice, before anything is made of it: a file that somebody else
wrote, or that was changed by hand, is refused with the name of what is wrong in it."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError
from torch import Tensor, strided

from config import parse_config

Names = list[StrictStr]

NEEDED = {
    "aligner": {"speakers", "text", "letters"},
    "codec": {"speakers"},
    "llm": {"speakers", "languages", "speaker_languages", "text", "codec", "frames_per_symbol"},
    "vocoder": {"codec", "speakers"},
    "aligned": {"speakers", "languages", "speaker_languages", "text"},
}
"""Beside config and weights, by stage."""
NEEDED_HIDDEN = NEEDED["llm"] | {"learned_voices"}
"""Of a vocoder stage that holds the language model."""


class _Text(BaseModel):
    """The state of a text frontend."""

    frontend: StrictStr
    symbols: Names = Field(min_length=1)


class _Codec(BaseModel):
    """As `models.codec_data` gives it."""

    fingerprint: StrictStr
    n_codebooks: StrictInt = Field(gt=0, le=1000)
    codebook_size: StrictInt = Field(gt=1, le=2**31)
    frame_rate: StrictFloat | StrictInt = Field(gt=0, le=100_000, allow_inf_nan=False)


class _Content(BaseModel):
    """The keys of a stage that something is made of."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    step: StrictInt = Field(ge=0)
    weights: dict[StrictStr, Tensor]
    ema: dict[StrictStr, Tensor] | None = None
    speakers: Names = Field([""], min_length=1)
    languages: Names = Field([""], min_length=1)
    speaker_languages: dict[StrictStr, StrictStr] = {}
    text: _Text | None = None
    codec: _Codec | None = None
    frames_per_symbol: StrictFloat | StrictInt = Field(1.0, gt=0, le=10_000, allow_inf_nan=False)
    learned_voices: StrictBool = False
    letters: Names = []


def checked_stage(content: dict[str, Any], source: object) -> dict[str, Any]:
    """The content, its config with all keys. ValueError naming `source` and what is missing, of another kind, or not
    finite in it: weights, config, text frontend, speakers, ..."""
    stage = content.get("stage")
    if not isinstance(stage, str) or stage not in NEEDED:
        raise ValueError(f"{source}: of a stage {str(stage)[:80]!r}, which there is not; there is {', '.join(NEEDED)}")
    config = parse_config(content.get("config"), f"the config in {source}")
    heard = config.train.vocoder.conditioning
    needed = NEEDED_HIDDEN if stage == "vocoder" and heard == "hidden" else NEEDED[stage]
    optional = {"codec"} if stage == "vocoder" and heard == "mel" else set()  # there, but None
    missing = sorted(name for name in needed
                     if name not in content or (content[name] is None and name not in optional))
    if missing:
        raise ValueError(f"{source}: a checkpoint of stage {stage} without {' and '.join(missing)}; use another one")
    try:
        values = _Content.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{source}: not a checkpoint of this project ({'.'.join(map(str, first['loc']))[:80]}: "
                         f"{first['msg']}); use another one") from error
    speechless = [name for name in values.speakers if name not in values.speaker_languages]
    if "speaker_languages" in needed and speechless:
        raise ValueError(f"{source}: its speaker {speechless[0][:80]!r} has no language; use another one")
    for name, weight in [*values.weights.items(), *(values.ema or {}).items()]:
        usable = weight.layout == strided and weight.device.type == "cpu" and not weight.is_quantized
        if not usable or weight.is_complex() or not weight.isfinite().all():
            raise ValueError(f"{source}: {name} holds what is no finite number; use an earlier checkpoint")
    return {**content, "config": _completed(content["config"], config.model_dump())}


def _completed(given: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """The values as they were given, and those that are their defaults."""
    return {name: given.get(name, value) if not isinstance(value, dict) else _completed(given.get(name, {}), value)
            for name, value in whole.items()}
