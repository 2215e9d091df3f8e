"""A request for speech from its checks to its last byte."""

import asyncio
import base64
import binascii
import json
import logging
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from mel_processing import UPLOAD_BYTES, check_upload
from models.aligned_tts import Prosody
from models.layers.sampling import Sampling
from serving.encoding import FORMATS
from serving.errors import ApiError, error_body
from serving.metrics import Metrics
from serving.scheduler import Job, QueueFull, Scheduler
from serving.schemas import SpeechRequest
from synthesis.speech import Speech
from synthesis.synthesizer import Joined, Synthesizer

log = logging.getLogger(__name__)

DEFAULT_LANGUAGE = "en-us"
SAMPLING = ("temperature", "top_k", "top_p")
CONTROLS = {name: name for name in (*SAMPLING, "pitch", "energy", "retries")} | {
    "speed": "rate", "reference_audio": "reference"}
"""Fields of a request that not every system follows, as `System.controls` has them. A seed fits all."""
STALLED_SECONDS = 60
"""A client that takes nothing for so long is taken for gone."""


class SpeechResponse(StreamingResponse):
    """Chunks of bytes while they are made. However it ends, `left` is closed."""

    def __init__(self, chunks: AsyncIterator[bytes], left: ExitStack, media_type: str):
        super().__init__(chunks, media_type=media_type, headers={"Cache-Control": "no-store"})
        self.chunks, self.left = chunks, left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends them."""
        async def patient(message) -> None:
            async with asyncio.timeout(STALLED_SECONDS):
                await send(message)

        try:
            await super().__call__(scope, receive, patient)
        finally:
            await self.chunks.aclose()
            self.left.close()


class Speaker:
    """Has the scheduler speak what requests ask for."""

    def __init__(
        self, synthesizers: dict[str, Synthesizer], scheduler: Scheduler, metrics: Metrics, max_text: int
    ):
        self.synthesizers, self.scheduler, self.metrics, self.max_text = synthesizers, scheduler, metrics, max_text

    async def begin(
        self, request: Request, synthesizer: Synthesizer, wanted: SpeechRequest
    ) -> AsyncIterator[bytes] | None:
        """The bytes of the response, when its first sound is made; None if the client has left by then.

        ApiError for what the model cannot do, and if there is no room for more.
        """
        started = time.monotonic()
        options = self._checked(synthesizer, wanted)
        with tempfile.TemporaryDirectory(prefix="reference_") as folder:
            if wanted.reference_audio is not None:
                options["reference"] = await asyncio.to_thread(_saved, wanted.reference_audio, Path(folder))
            loop, made = asyncio.get_running_loop(), asyncio.Queue()
            job = Job(
                wanted.model, partial(synthesizer.script, wanted.input, **options),
                partial(loop.call_soon_threadsafe, made.put_nowait), Joined(synthesizer.audio.sample_rate),
                _sampling(wanted), wanted.retries,
            )
            try:
                self.scheduler.submit(job)
            except QueueFull as full:
                raise ApiError(503, f"too many requests are waiting; {full}", None, "queue_full",
                               {"Retry-After": str(full.seconds)}) from full
            first: Speech | Exception | None = None
            try:
                first = await _unless_left(request, made)
            finally:
                if first is None:
                    self._cancel(job)
            if first is None:
                return None
            if isinstance(first, ValueError):
                message = str(first).replace(f"{folder}/reference", "reference_audio")
                message = message.replace(str(synthesizer.system.folder), wanted.model)
                raise ApiError(400, message, "input", "invalid_value") from first
            if isinstance(first, Exception):
                raise first
        return self._bytes(job, first, made, started, synthesizer, wanted)

    def _cancel(self, job: Job) -> None:
        self.scheduler.cancel(job)
        self.metrics.cancelled.labels(job.model).inc()

    def _checked(self, synthesizer: Synthesizer, wanted: SpeechRequest) -> dict:
        """The options of `Synthesizer.script`; ApiError for what cannot be."""
        if len(wanted.input) > self.max_text or len(wanted.reference_text or "") > self.max_text:
            raise ApiError(413, f"the text is longer than {self.max_text} characters; send it in parts", "input",
                           "text_too_long")
        system, voice = synthesizer.system, wanted.voice if isinstance(wanted.voice, str | None) else wanted.voice.id
        if voice is not None and voice not in synthesizer.speakers:
            raise ApiError(400, f"voice {voice!r} is not one of {wanted.model}'s: {', '.join(synthesizer.speakers)}",
                           "voice", "voice_not_found")
        default = DEFAULT_LANGUAGE if DEFAULT_LANGUAGE in synthesizer.languages else synthesizer.languages[0]
        language = wanted.language or system.speaker_languages.get(voice, default)
        if language not in synthesizer.languages:
            raise ApiError(400, f"language {language!r} is not one of {wanted.model}'s: "
                           f"{', '.join(synthesizer.languages)}", "language", "language_not_found")
        if wanted.instructions:
            raise ApiError(400, f"{wanted.model} follows no instructions; there are speed, pitch and energy",
                           "instructions", "unsupported_value")
        for name, control in CONTROLS.items():
            if getattr(wanted, name) != SpeechRequest.model_fields[name].default and control not in system.controls:
                raise ApiError(400, f"{wanted.model} does not follow {name}; leave it out", name, "unsupported_value")
        prosody = Prosody(wanted.speed, wanted.pitch, wanted.energy)
        return {"language": language, "speaker": voice, "input_type": wanted.input_type, "seed": wanted.seed,
                "reference_text": wanted.reference_text, "prosody": None if prosody == Prosody() else prosody}

    async def _bytes(
        self, job: Job, first: Speech, made: asyncio.Queue, started: float, synthesizer: Synthesizer,
        wanted: SpeechRequest,
    ) -> AsyncIterator[bytes]:
        """The file, or the events, as they are made. What goes wrong now is said in an event; a file is broken off."""
        encoder = FORMATS[wanted.response_format].encoder(synthesizer.audio.sample_rate)
        sent = _event if wanted.stream_format == "sse" else bytes
        item, seconds, n_bytes = first, 0.0, 0
        try:
            while item is not None:
                if isinstance(item, Exception):
                    if wanted.stream_format == "audio":
                        raise item
                    yield _json_event({"type": "error", **error_body(500, "the rest cannot be spoken")})
                    return
                seconds += item.seconds
                data = await asyncio.to_thread(encoder.encode, item.samples)
                if data:
                    if not n_bytes:
                        self.metrics.first_byte.labels(job.model).observe(time.monotonic() - started)
                    n_bytes += len(data)
                    yield sent(data)
                item = await made.get()
            yield sent(await asyncio.to_thread(encoder.end))
            if wanted.stream_format == "sse":
                counts = len(wanted.input), round(seconds * synthesizer.audio.frame_rate)
                yield _json_event({"type": "speech.audio.done", "usage": {
                    "input_tokens": counts[0], "output_tokens": counts[1], "total_tokens": sum(counts)}})
            total = time.monotonic() - started
            self.metrics.whole.labels(job.model).observe(total)
            self.metrics.speed.labels(job.model).observe(seconds / total)
        finally:
            if item is not None:
                self._cancel(job)


def _sampling(wanted: SpeechRequest) -> Sampling:
    given = {name: getattr(wanted, name) for name in SAMPLING if getattr(wanted, name) is not None}
    return Sampling(**given)


def _saved(audio: str, folder: Path) -> Path:
    """A recording in base64, decoded, checked and written; ApiError for one that cannot be used."""
    try:
        data = base64.b64decode(audio.partition(",")[2] if audio.startswith("data:") else audio, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"reference_audio: not base64 ({error})", "reference_audio", "invalid_value") from error
    if len(data) > UPLOAD_BYTES:
        raise ApiError(413, f"reference_audio: larger than {UPLOAD_BYTES} bytes; send a shorter recording, or flac",
                       "reference_audio", "recording_too_large")
    path = folder / "reference"
    path.write_bytes(data)
    try:
        check_upload(path)
    except ValueError as error:
        raise ApiError(400, str(error).replace(str(path), "reference_audio"), "reference_audio",
                       "invalid_value") from error
    return path


async def _unless_left(request: Request, made: asyncio.Queue) -> Speech | Exception | None:
    """The first of what is made; None if the client leaves before."""
    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    first, gone = asyncio.create_task(made.get()), asyncio.create_task(left())
    try:
        await asyncio.wait({first, gone}, return_when=asyncio.FIRST_COMPLETED)
        return first.result() if first.done() else None
    finally:
        first.cancel()
        gone.cancel()


def _event(data: bytes) -> bytes:
    return _json_event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})


def _json_event(values: dict) -> bytes:
    return f"data: {json.dumps(values)}\n\n".encode()
