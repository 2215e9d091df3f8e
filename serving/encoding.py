"""Audio files that are sent while they are made: what has been taken of one never changes any more.

The header of wav leaves the length open, as that of any file that is written to a pipe; flac is sent when it is whole.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from synthesis.writing import pcm16

OPENAI_RATE = 24000
"""Of OpenAI's pcm, which has no header to say so; and one of the rates that Opus knows."""
UNKNOWN_SIZE = 0xFFFFFFFF


class Encoder(Protocol):
    """Samples -> bytes of a file."""

    def encode(self, samples: Tensor) -> bytes:
        """The bytes, perhaps none, that can be sent once these samples (n,) follow those before."""

    def end(self) -> bytes:
        """What is still missing."""


class Pcm:
    """16-bit samples at OPENAI_RATE."""

    def __init__(self, sample_rate: int):
        self.resampled = Resampled(sample_rate, OPENAI_RATE)

    def encode(self, samples: Tensor) -> bytes:
        """See `Encoder`."""
        return pcm16(self.resampled(samples))

    def end(self) -> bytes:
        """See `Encoder`."""
        return pcm16(self.resampled(torch.zeros(0), last=True))


class Wav:
    """16-bit samples behind a header."""

    def __init__(self, sample_rate: int):
        form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
        self.header = struct.pack("<4sI4s", b"RIFF", UNKNOWN_SIZE, b"WAVE") + form
        self.header += struct.pack("<4sI", b"data", UNKNOWN_SIZE)

    def encode(self, samples: Tensor) -> bytes:
        """See `Encoder`."""
        header, self.header = self.header, b""
        return header + pcm16(samples)

    def end(self) -> bytes:
        """See `Encoder`."""
        return self.encode(torch.zeros(0))


class Compressed:
    """What libsndfile writes."""

    def __init__(self, sample_rate: int, format: str, subtype: str, *, file_rate: int | None = None,
                 whole: bool = False, **options):
        """`file_rate`: of the file, if not the samples' own; `whole`: nothing is sent before the end."""
        self.bytes, self.whole = SentBytes(), whole
        self.resampled = Resampled(sample_rate, file_rate or sample_rate)
        self.file = soundfile.SoundFile(self.bytes, "w", file_rate or sample_rate, 1, subtype, format=format, **options)

    def encode(self, samples: Tensor) -> bytes:
        """See `Encoder`."""
        self.file.write(self.resampled(samples).clamp(-1, 1).numpy())
        return b"" if self.whole else self.bytes.take()

    def end(self) -> bytes:
        """See `Encoder`."""
        self.file.write(self.resampled(torch.zeros(0), last=True).clamp(-1, 1).numpy())
        self.file.close()
        return self.bytes.take()


class Resampled:
    """Chunks of a wave at another rate, without a seam."""

    def __init__(self, source_rate: int, sample_rate: int):
        same = source_rate == sample_rate
        self.stream = None if same else soxr.ResampleStream(source_rate, sample_rate, 1, dtype="float32")

    def __call__(self, samples: Tensor, last: bool = False) -> Tensor:
        """(n,) -> (m,), m being what is certain by now."""
        if self.stream is None:
            return samples
        return torch.from_numpy(np.ascontiguousarray(self.stream.resample_chunk(samples.numpy(), last)))


class SentBytes:
    """A file for libsndfile to write. What has been taken of it is sent: changes to it, of headers at the end, come too
    late and are left out."""

    def __init__(self):
        self.waiting, self.taken, self.position = bytearray(), 0, 0

    def write(self, data: bytes) -> int:
        """Writes at the position, as files do."""
        data = bytes(data)
        late = min(len(data), max(0, self.taken - self.position))
        place = self.position + late - self.taken
        self.waiting[place : place + len(data) - late] = data[late:]
        self.position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves the position, as files do."""
        self.position = offset + (0, self.position, self.taken + len(self.waiting))[whence]
        return self.position

    def tell(self) -> int:
        """The position."""
        return self.position

    def take(self) -> bytes:
        """What has been written since the last time."""
        taken, self.waiting = bytes(self.waiting), bytearray()
        self.taken += len(taken)
        return taken


@dataclass(frozen=True)
class Format:
    """A format of files."""

    media_type: str
    encoder: Callable[[int], Encoder]
    """Of a sample rate."""


FORMATS = {
    # of a constant bit rate, players know how long it is without a header
    "mp3": Format("audio/mpeg", lambda rate: Compressed(rate, "MP3", "MPEG_LAYER_III", bitrate_mode="CONSTANT",
                                                        compression_level=0.6)),
    "opus": Format("audio/ogg", lambda rate: Compressed(rate, "OGG", "OPUS", file_rate=OPENAI_RATE)),
    # many programs, ours among them, refuse one whose header does not say how long it is
    "flac": Format("audio/flac", lambda rate: Compressed(rate, "FLAC", "PCM_16", whole=True)),
    "wav": Format("audio/wav", Wav),
    "pcm": Format("audio/pcm", Pcm),
}
