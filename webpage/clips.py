"""What a page links to, held in memory: files, and speech that is heard while it is still being made."""

import re
import secrets
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response, StreamingResponse

MAX_BYTES = 256 * 2**20  # of all clips; the oldest are forgotten first
UNKNOWN_SIZE = 2**32 - 1  # in the header of a wav whose end is not there yet
WAIT_SECONDS = 600.0  # for more of a clip whose maker was stopped, say, by a breakpoint
PCM_PEAK = 32767


@dataclass
class Clip:
    """A file's content, which may still be growing."""

    name: str
    """Its file name."""
    media_type: str
    content: bytearray
    ended: bool = True
    changed: threading.Condition = field(default_factory=threading.Condition)
    url: str = ""

    def more(self, first: int = 0) -> Iterator[bytes]:
        """The content from `first` on, as it comes, until its end."""
        ended = False
        while not ended:
            with self.changed:
                while not self.ended and len(self.content) == first:
                    if not self.changed.wait(WAIT_SECONDS):
                        return
                block, ended = bytes(self.content[first:]), self.ended
            first += len(block)
            if block:
                yield block


class LiveWav(Clip):
    """A wav of 16-bit samples that is heard while samples are added to it."""

    def __init__(self, name: str, sample_rate: int):
        super().__init__(name, "audio/wav", bytearray(wav_header(sample_rate, UNKNOWN_SIZE)), ended=False)
        self.sample_rate = sample_rate

    def add(self, samples: np.ndarray) -> None:
        """Appends samples (n,) float; peaks over 1 are clipped."""
        with self.changed:
            self.content += (np.clip(samples, -1, 1) * PCM_PEAK).round().astype("<i2").tobytes()
            self.changed.notify_all()

    def end(self) -> None:
        """Writes the length into the header; nothing comes after it."""
        with self.changed:
            header = wav_header(self.sample_rate, len(self.content) - len(wav_header(0, 0)))
            self.content[: len(header)] = header
            self.ended = True
            self.changed.notify_all()


def wav_header(sample_rate: int, n_bytes: int) -> bytes:
    """Of a wav of one channel of 16-bit samples with so many bytes of them."""
    riff = min(n_bytes + 36, UNKNOWN_SIZE)
    return struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", riff, b"WAVE", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate,
                       2, 16, b"data", n_bytes)


class Clips:
    """Every clip that the page links to, under an address that cannot be guessed."""

    def __init__(self) -> None:
        self._clips: OrderedDict[str, Clip] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, clip: Clip) -> Clip:
        """Gives the clip its `url`, relative to the page; forgets the oldest ones where they are too many."""
        key = secrets.token_urlsafe(16)
        with self._lock:
            clip.url = f"clips/{key}/{quote(clip.name)}"
            self._clips[key] = clip
            total = sum(len(one.content) for one in self._clips.values())
            while total > MAX_BYTES and len(self._clips) > 1:
                total -= len(self._clips.popitem(last=False)[1].content)
        return clip

    def file(self, name: str, media_type: str, content: bytes) -> Clip:
        """Adds a whole file."""
        return self.add(Clip(name, media_type, bytearray(content)))

    def router(self) -> APIRouter:
        """The route that serves them: as they grow, or, of whole ones, the part that is asked for."""
        router = APIRouter()

        @router.get("/clips/{key}/{name}")
        def clip(key: str, name: str, request: Request) -> Response:
            with self._lock:
                found = self._clips.get(key)
            if found is None:
                raise HTTPException(404, "this clip is no longer kept; make it again")
            if not found.ended:
                return StreamingResponse(found.more(), media_type=found.media_type)
            return whole_or_part(found, request.headers.get("range", ""))

        return router


def whole_or_part(clip: Clip, wanted: str) -> Response:
    """A whole clip, or the part of it that a Range header asks for: without these no browser moves to a time in it."""
    content, headers = bytes(clip.content), {"Accept-Ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted)
    if not asked or not any(asked.groups()):
        return Response(content, media_type=clip.media_type, headers=headers)
    first, last = asked.groups()
    begin = int(first) if first else max(0, len(content) - int(last))
    end = min(int(last) + 1, len(content)) if first and last else len(content)
    if begin >= end:
        return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{len(content)}"})
    headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(content)}"
    return Response(content[begin:end], 206, media_type=clip.media_type, headers=headers)


def player(clip: Clip, title: str = "") -> str:
    """HTML of a player (see player.js): of a clip that is still growing it plays at once."""
    live = "" if clip.ended else f' live rate="{clip.sample_rate}"'
    return f'<speech-player src="{escape(clip.url)}" title="{escape(title)}"{live}></speech-player>'


def download_links(clips: list[Clip]) -> str:
    """HTML of links that save clips."""
    return '<div class="downloads">' + "".join(
        f'<a href="{escape(clip.url)}" download="{escape(clip.name)}">{escape(clip.name)}</a>' for clip in clips
    ) + "</div>"
