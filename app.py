"""A page in the browser that speaks, follows a training, and compares models.

    python3 app.py
    python3 app.py -m voices/default my_model --port 8000

Then open http://127.0.0.1:7860. Needs: pip install -r requirements-app.txt.
"""

import argparse
import logging
import os
import socket
import threading
import time
from pathlib import Path

import uvicorn
from fastapi import FastAPI

import cli

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05


def serve(app: FastAPI, host: str, port: int) -> tuple[uvicorn.Server, threading.Thread, str]:
    """Starts a server in a thread of its own and waits until it answers, at the address that is given back; port 0 is
    any free one. ValueError if it cannot listen there."""
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ValueError(f"cannot listen on {host}:{port} ({error}): take another --port, or a --host of this "
                         "machine") from error
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(POLL_SECONDS)
    return server, thread, f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model", nargs="+", default=[], help="names under --checkpoints, or folders of "
                        "exported voices, the first one first; all there are if not given")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"), help="where trained models are")
    parser.add_argument("--logs", type=Path, default=Path("logs"), help="where the logs of trainings are")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines use the page")
    parser.add_argument("--port", type=int, default=7860)
    options = parser.parse_args()

    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")  # see synthesize.py
    from webpage.backend import Backend
    from webpage.page import create_app

    backend = Backend(options.logs)
    server, thread, address = serve(create_app(backend), options.host, options.port)
    log.info("the page is at %s", address)
    try:
        backend.load(options.model, options.checkpoints)
        log.info("ready to speak")
        while thread.is_alive():
            thread.join(1)
    finally:
        server.should_exit = True
        thread.join(5)


if __name__ == "__main__":
    cli.run(main)
