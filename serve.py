"""Serves speech over HTTP, compatible with OpenAI's `POST /v1/audio/speech`; see docs/serving.md.

    python3 serve.py
    python3 serve.py -m voices/default -m my_model --port 8000 --api-key-file keys.txt
    curl -s localhost:8000/v1/audio/speech -H 'Content-Type: application/json' -o hello.wav \\
        -d '{"model": "default", "input": "Hello world.", "response_format": "wav"}'
"""

import argparse
import logging
import os
from pathlib import Path

import uvicorn

import cli
from cli import positive
from decoding.weights import PRECISIONS
from serving.app import Settings, create_app
from serving.limits import ApiKeys
from synthesis.synthesizer import Synthesizer
from synthesize import DEFAULT_VOICE

log = logging.getLogger(__name__)

KEY_VARIABLE = "TTS_API_KEY"


def load_models(wanted: list[str], precision: str | None) -> dict[str, Synthesizer]:
    """Models by the names they are served under. ValueError for two of one name, and as of `Synthesizer`."""
    synthesizers: dict[str, Synthesizer] = {}
    for one in wanted:
        name, _, model = one.rpartition("=")
        name = name or Path(model).name
        if name in synthesizers:
            raise ValueError(f"-m {one}: another model is served as {name!r}; give this one a name: -m NAME={model}")
        synthesizers[name] = Synthesizer(model, precision=precision)
    return synthesizers


def main() -> None:
    default = Settings()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model", action="append", metavar="[NAME=]MODEL", help="name under checkpoints/, or "
                        "an exported voice's folder, served as NAME or under its own; more than once for several; the "
                        "voice that comes with the repository if not given")
    parser.add_argument("--precision", choices=PRECISIONS, help="of language models' matrices; see synthesize.py")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for all of this machine's")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help=f"keys that clients must have, one a line; "
                        f"or one in the environment variable {KEY_VARIABLE}")
    parser.add_argument("--max-text", type=positive, default=default.max_text, help="characters of a request")
    parser.add_argument("--max-queue", type=positive, default=default.max_queue, help="requests that wait or are being "
                        "spoken; more are answered 503")
    parser.add_argument("--per-client", type=positive, default=default.per_client, help="requests of a client (a key, "
                        "or an address where there are no keys) at once; more are answered 429")
    parser.add_argument("--per-minute", type=positive, help="requests of a client in a minute; any number if not given")
    parser.add_argument("--batch-size", type=positive, default=default.batch_size, help="pieces spoken together")
    parser.add_argument("--drain-seconds", type=positive, default=30, help="how long requests may still take after the "
                        "server was told to end")
    options = parser.parse_args()

    # oneDNN keeps what it compiled for each of the last 1024 shapes, and sentences have as many lengths
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    keys = ApiKeys.read(options.api_key_file) if options.api_key_file else []
    keys += [os.environ[KEY_VARIABLE]] if os.environ.get(KEY_VARIABLE) else []
    settings = Settings(options.max_text, options.max_queue, options.per_client, options.per_minute, options.batch_size,
                        tuple(keys))
    app = create_app(load_models(options.model or [DEFAULT_VOICE], options.precision), settings)
    if not keys and options.host not in ("127.0.0.1", "::1", "localhost"):
        log.warning("open to everyone who reaches %s: give --api-key-file", options.host)
    uvicorn.run(app, host=options.host, port=options.port, log_config=None, server_header=False,
                timeout_graceful_shutdown=options.drain_seconds)


if __name__ == "__main__":
    cli.run(main)
