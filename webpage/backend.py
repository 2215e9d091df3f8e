"""What the tabs have in common: the models, which are loaded while the page already answers, clips, training logs."""

import html
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import gradio as gr

from webpage.clips import Clips

if TYPE_CHECKING:
    from webpage.models import Models


class Backend:
    """What stands behind the page."""

    def __init__(self, logs: Path):
        self.logs, self.clips = logs, Clips()
        self._ready = threading.Event()

    def load(self, given: list[str], checkpoints: Path) -> None:
        """Loads the first model; until then whoever asks for `models` waits. The arguments, and what is refused, are
        those of `Models`."""
        # seconds of imports, in which the page is there already
        from webpage import speaking
        from webpage.models import Models

        self._models, self._speaking = Models(given, checkpoints), speaking
        self._models.abilities(self._models.names()[0])
        self._ready.set()

    @property
    def models(self) -> "Models":
        """The models that are offered."""
        self._ready.wait()
        return self._models

    @property
    def speaking(self) -> ModuleType:
        """The module `webpage.speaking`."""
        self._ready.wait()
        return self._speaking


@contextmanager
def mistakes_told(recording: str | None = None) -> Iterator[None]:
    """Shows a ValueError, a user's mistake, as a message on the page; `recording`: a path that its name stands for."""
    try:
        yield
    except ValueError as error:
        message = str(error)
        if recording:
            message = message.replace(recording, Path(recording).name)
        raise gr.Error(html.escape(message), duration=20, print_exception=False) from error
