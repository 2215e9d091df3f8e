"""Many lines of text spoken together, so that no batch waits for a long one among short ones."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from models.layers.sampling import Sampling
from synthesis.speech import Part, Speech
from synthesis.synthesizer import BATCH_SIZE, RETRIES, Joined, Synthesizer, check_retries

WINDOW = 16
"""Batches of lines that are looked at together, and kept in memory."""


@dataclass(frozen=True)
class Line:
    """What is to be spoken, and how its speech is called."""

    name: str
    text: str
    language: str
    speaker: str | None


def speak_lines(
    synthesizer: Synthesizer, lines: Iterable[Line], *, sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    retries: int = RETRIES, batch_size: int = BATCH_SIZE, **options,
) -> Iterator[tuple[Line, Speech]]:
    """Speaks lines as `Synthesizer.speak` speaks each, `batch_size` pieces of about one length together, and gives the
    speech of each in the order of the lines. The other options are those of `Synthesizer.script`.

    ValueError, naming the line, for one that cannot be spoken.
    """
    check_retries(retries)
    lines = iter(lines)
    while window := list(islice(lines, WINDOW * batch_size)):
        scripts = [_script(synthesizer, line, options) for line in window]
        places = [(i, j) for i, script in enumerate(scripts) for j in range(len(script))]
        places.sort(key=lambda place: -len(scripts[place[0]][place[1]][1].ipa))
        parts: dict[tuple[int, int], Part] = {}
        for first in range(0, len(places), batch_size):
            batch = places[first : first + batch_size]
            spoken = synthesizer.system.speak_parts([scripts[i][j][1] for i, j in batch], sampling=sampling,
                                                    retries=retries)
            parts |= zip(batch, spoken, strict=True)
        for i, line in enumerate(window):
            joined = Joined(synthesizer.audio.sample_rate)
            chunks = [joined.chunk(piece, parts[i, j].samples, parts[i, j]) for j, (piece, _) in enumerate(scripts[i])]
            yield line, Speech(torch.cat([chunk.samples for chunk in chunks]), synthesizer.audio.sample_rate,
                               [part for chunk in chunks for part in chunk.parts])


def _script(synthesizer: Synthesizer, line: Line, options: dict) -> list:
    try:
        return list(synthesizer.script(line.text, line.language, line.speaker, **options))
    except ValueError as error:
        raise ValueError(f"{line.name}: {error}") from error
