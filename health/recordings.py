"""What is measured of every recording, in several processes."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from mel_processing import load_audio
from preprocessing.clips import CLIPPED_LEVEL
from preprocessing.speech import find_speech

CHUNK = 16  # recordings that a process takes at once


@dataclass(frozen=True)
class Recording:
    """One file, as it is."""

    error: str = ""
    """Why it cannot be read; all else is 0 then."""
    sample_rate: int = 0
    channels: int = 0
    seconds: float = 0.0
    clipped: float = 0.0
    """Share of samples at full scale."""
    before: float = 0.0
    """Seconds before speech begins."""
    behind: float = 0.0
    """Seconds after it has ended."""
    silent: bool = False
    digest: str = ""
    """The same for the same samples, in whatever format."""

    @property
    def spoken(self) -> float:
        """Seconds from the first sound of speech to the last."""
        return self.seconds - self.before - self.behind


def measure(path: Path) -> Recording:
    """Reads one recording whole; what is wrong with it is in the result, not raised."""
    try:
        info = soundfile.info(str(path))
        samples = load_audio(path, info.samplerate).numpy()
    except (ValueError, soundfile.LibsndfileError) as error:
        return Recording(error=_reason(path, error))
    speech = find_speech(samples, info.samplerate)
    seconds = len(samples) / info.samplerate
    return Recording(
        sample_rate=info.samplerate, channels=info.channels, seconds=seconds,
        clipped=float(np.mean(np.abs(samples) >= CLIPPED_LEVEL)),
        before=speech[0][0] if speech else 0.0, behind=seconds - speech[-1][1] if speech else 0.0, silent=not speech,
        digest=hashlib.blake2b(samples.tobytes(), digest_size=16).hexdigest(),
    )


def measure_all(paths: Sequence[Path], jobs: int) -> Iterator[Recording]:
    """`measure` of each, in order. ValueError if a process was killed."""
    if jobs == 1 or len(paths) <= CHUNK:
        yield from map(measure, paths)
        return
    with ProcessPoolExecutor(jobs) as pool:
        try:
            yield from pool.map(measure, paths, chunksize=CHUNK)
        except BrokenProcessPool as error:
            raise ValueError("a process was killed, most likely for memory; run again with fewer --jobs") from error


def _reason(path: Path, error: Exception) -> str:
    if not path.exists():
        return "no such file"
    return str(error).removeprefix(f"{path}: ").splitlines()[0]
