"""What a request for speech may hold: OpenAI's fields, and this server's own ones after them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.aligned_tts import PROSODY_LIMITS
from serving.encoding import FORMATS

MOST_RETRIES = 5
AudioFormat = Literal[tuple(FORMATS)]


class VoiceId(BaseModel):
    """A voice, as OpenAI names its custom ones."""

    model_config = ConfigDict(extra="forbid", strict=True)
    id: str


def _limits(name: str) -> dict[str, float]:
    least, most = PROSODY_LIMITS[name]
    return {"ge": least, "le": most}


class SpeechRequest(BaseModel):
    """What to speak, and how. An unknown field is an error, and so is one that the model cannot follow."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [
        {"model": "default", "input": "Hello world.", "voice": "kathleen", "response_format": "wav"}]})

    model: str = Field(description="One of `GET /v1/models`.")
    input: str = Field(min_length=1, description="The text, of so many characters at most as the server allows (413).")
    voice: str | VoiceId | None = Field(
        None, description="One of `GET /v1/audio/voices`; if not given, one who speaks the language.")
    response_format: AudioFormat = Field(
        "mp3", description="`pcm`: 16-bit little-endian samples at 24 kHz without a header, as OpenAI's. `aac` is not "
        "made here.")
    speed: Annotated[float, Field(**_limits("rate"))] = Field(1.0, description="Times as fast.")
    stream_format: Literal["audio", "sse"] = Field(
        "audio", description="`audio`: the file itself, while it is made; `sse`: events with parts of it in base64.")
    instructions: str | None = Field(
        None, description="Refused unless empty: no model here follows any; there are speed, pitch and energy.")

    language: str | None = Field(
        None, description="espeak-ng's name, as `en-us`; if not given, that of the voice. Passages in other languages "
        'are marked in the text: `<lang xml:lang="de">Guten Tag.</lang>`')
    input_type: Literal["text", "ipa"] = Field("text", description="What the input is.")
    seed: int | None = Field(None, ge=0, lt=2**63, description="The same seed gives the same speech.")
    temperature: float | None = Field(None, ge=0, le=10, description="0 is greedy; for models that draw.")
    top_k: int | None = Field(None, ge=0, le=2**31, description="0 is off; for models that draw.")
    top_p: float | None = Field(None, gt=0, le=1, description="1 is off; for models that draw.")
    pitch: Annotated[float, Field(**_limits("pitch"))] = Field(
        0.0, description="Semitones higher; for aligned-duration models.")
    energy: Annotated[float, Field(**_limits("energy"))] = Field(
        0.0, description="Decibels louder, as the voice would say it; for aligned-duration models.")
    retries: int = Field(
        0, ge=0, le=MOST_RETRIES, description="How many times more to speak a part that did not end well, for models "
        "that draw; nothing is heard of a part before it is whole.")
    reference_audio: str | None = Field(
        None, min_length=1, description="A recording in base64 in whose voice to speak; for language models.")
    reference_text: str | None = Field(None, min_length=1, description="What is said in it, in the same language.")


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """OpenAI's form of an error."""

    error: ErrorDetail


class ModelInfo(BaseModel):
    """A model, as OpenAI lists them."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "local"


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


class VoiceInfo(BaseModel):
    """A speaker of a model."""

    id: str
    object: Literal["voice"] = "voice"
    name: str
    model: str
    language: str
    """What is spoken if a request names none."""
    languages: list[str]
    """What the model can speak, with this voice too."""


class VoiceList(BaseModel):
    """All voices."""

    object: Literal["list"] = "list"
    data: list[VoiceInfo]


class Health(BaseModel):
    """Whether the server lives, and whether its models are loaded and warm."""

    live: bool = True
    ready: bool
    models: list[str]
