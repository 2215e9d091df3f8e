"""The routes of the server."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline

from mel_processing import UPLOAD_BYTES
from serving.encoding import FORMATS
from serving.errors import ApiError, add_error_handlers
from serving.limits import ApiKeys, Clients, Gate
from serving.metrics import Metrics
from serving.scheduler import Scheduler
from serving.schemas import ErrorResponse, Health, ModelInfo, ModelList, SpeechRequest, VoiceInfo, VoiceList
from serving.spoken import Speaker, SpeechResponse
from synthesis.synthesizer import BATCH_SIZE, Synthesizer

log = logging.getLogger(__name__)

ERRORS = {400: "The request is wrong", 401: "Wrong or missing key", 404: "No such model", 413: "Too much text or data",
          429: "Too many requests of this client", 503: "Too many requests; try again after Retry-After"}


@dataclass(frozen=True)
class Settings:
    """What a server allows."""

    max_text: int = 4096
    """Characters"""
    max_queue: int = 64
    """Requests that wait or are spoken."""
    per_client: int = 32
    """Requests of one client at once."""
    per_minute: int | None = None
    """Requests of one client; None: any number."""
    batch_size: int = BATCH_SIZE
    """Pieces spoken together."""
    keys: tuple[str, ...] = ()
    """API keys; none: open to all."""

    @property
    def max_body(self) -> int:
        """Bytes of a request: a text whose every character is escaped, and a recording in base64."""
        return 12 * self.max_text + UPLOAD_BYTES * 4 // 3 + 65536


def documented(*statuses: int) -> dict:
    """For OpenAPI: the errors of a route."""
    return {status: {"model": ErrorResponse, "description": ERRORS[status]} for status in statuses}


def create_app(synthesizers: dict[str, Synthesizer], settings: Settings) -> FastAPI:
    """The server of models by their names, which speak from its startup to its shutdown on a thread of their own.

    ValueError for keys that could be guessed.
    """
    metrics, keys = Metrics(), ApiKeys(list(settings.keys))
    clients = Clients(settings.per_client, settings.per_minute)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.scheduler = Scheduler(synthesizers, metrics, batch_size=settings.batch_size,
                                        max_queue=settings.max_queue)
        app.state.speaker = Speaker(synthesizers, app.state.scheduler, metrics, settings.max_text)
        yield
        await asyncio.to_thread(app.state.scheduler.close)

    app = FastAPIOffline(
        title="Speech", version="1", lifespan=lifespan, redoc_url=None, static_url="/docs/static",
        description="Text to speech, OpenAI-compatible: `POST /v1/audio/speech`. Every error has OpenAI's form.")
    app.add_middleware(Gate, keys=keys, max_body=settings.max_body, metrics=metrics)
    add_error_handlers(app)
    # for the page alone: the gate has let them in
    keyed = [Depends(HTTPBearer(auto_error=False, description="an API key"))] if settings.keys else []

    def known(model: str) -> Synthesizer:
        if model not in synthesizers:
            raise ApiError(404, f"model {model!r} is not served; there is {', '.join(synthesizers)}", "model",
                           "model_not_found")
        return synthesizers[model]

    def described(name: str) -> ModelInfo:
        return ModelInfo(id=name, created=int(Path(known(name).system.folder).stat().st_mtime))

    @app.post("/v1/audio/speech", dependencies=keyed, response_class=Response, tags=["speech"], responses={
        200: {"description": "Audio, or events with it (`stream_format`)", "content": {
            kind: {} for kind in [*(one.media_type for one in FORMATS.values()), "text/event-stream"]}},
        **documented(400, 401, 404, 413, 429, 503)})
    async def speech(request: Request, wanted: SpeechRequest) -> Response:
        """Speaks a text."""
        synthesizer, client = known(wanted.model), request.state.client
        clients.enter(client)
        with contextlib.ExitStack() as undone:
            undone.callback(clients.leave, client)
            chunks = await request.app.state.speaker.begin(request, synthesizer, wanted)
            left = undone.pop_all()
        if chunks is None:  # nobody is there to read it
            left.close()
            return Response(status_code=499)
        file_type = FORMATS[wanted.response_format].media_type
        return SpeechResponse(chunks, left, "text/event-stream" if wanted.stream_format == "sse" else file_type)

    @app.get("/v1/models", dependencies=keyed, tags=["models"], responses=documented(401))
    async def models() -> ModelList:
        """The models that are served."""
        return ModelList(data=[described(name) for name in synthesizers])

    @app.get("/v1/models/{model}", dependencies=keyed, tags=["models"], responses=documented(401, 404))
    async def model(model: str) -> ModelInfo:
        """One of them."""
        return described(model)

    @app.get("/v1/audio/voices", dependencies=keyed, tags=["models"], responses=documented(400, 401, 404))
    async def voices(model: Annotated[str | None, Query(description="of this model alone")] = None) -> VoiceList:
        """Who can speak."""
        names = list(synthesizers) if model is None else [model]
        return VoiceList(data=[
            VoiceInfo(id=speaker, name=speaker, model=name, language=one.system.speaker_languages[speaker],
                      languages=one.languages)
            for name in names for one in [known(name)] for speaker in one.speakers])

    @app.get("/health", tags=["server"], response_model=Health, responses={503: {"model": Health}})
    async def health(request: Request) -> JSONResponse:
        """Whether the server is ready to speak; 503 while its models are made warm."""
        ready = request.app.state.scheduler.ready.is_set()
        body = Health(ready=ready, models=list(synthesizers)).model_dump()
        return JSONResponse(body, 200 if ready else 503)

    @app.get("/health/live", tags=["server"])
    async def live() -> dict[str, bool]:
        """Whether the server answers at all."""
        return {"live": True}

    @app.get("/metrics", dependencies=keyed, tags=["server"], response_class=PlainTextResponse,
             responses=documented(401))
    async def prometheus() -> PlainTextResponse:
        """What Prometheus reads."""
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app
