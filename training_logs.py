"""The TensorBoard logs of training runs, read while they grow: curves, the latest sounds and pictures."""

import json
import logging
import re
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it tells of every file that it reads

NOT_LOSSES = ("gradient_norm", "learning_rate", "steps_per_second", "perplexity", "usage", "score", "spoken")
"""Parts of the names of what is no loss."""
LOG_TAIL = 65536  # bytes of a train.log in which its end is looked for

Curve = tuple[list[int], list[float]]
"""Steps and values."""


@dataclass(frozen=True)
class Sample:
    """A sound or a picture that validation left."""

    name: str
    step: int
    content: bytes
    """A wav or PNG file."""


@dataclass(frozen=True)
class Progress:
    """Where a run is."""

    step: int
    max_steps: int | None
    """None: neither its config nor its log says."""
    ended: str
    """"finished" or "stopped"; empty: the log has no end yet."""
    steps_per_second: float | None
    learning_rate: float | None
    written: float
    """When the last event was, in seconds since the epoch."""

    @property
    def seconds_left(self) -> float | None:
        """Until it is finished, at the speed of now; None if that is not known."""
        if self.ended or not self.max_steps or not self.steps_per_second:
            return None
        return (self.max_steps - self.step) / self.steps_per_second


class RunLog:
    """The events of one stage's log folder; `reload` reads what was added since. Who shares it holds its `lock`."""

    def __init__(self, folder: Path):
        self.folder, self.lock = folder, threading.Lock()
        self._events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1, "audio": 1})

    def reload(self) -> None:
        """Reads what was written since the last time."""
        self._events.Reload()

    def curves(self) -> dict[str, Curve]:
        """Every scalar: name -> (steps, values); of a repeated step, the later."""
        curves = {}
        for tag in self._events.Tags()["scalars"]:
            # by time: files of one second may be read in another order than they were written
            events = sorted(self._events.Scalars(tag), key=lambda event: event.wall_time)
            by_step = {event.step: event.value for event in events}
            steps = sorted(by_step)
            curves[tag] = steps, [by_step[step] for step in steps]
        return curves

    def sounds(self) -> list[Sample]:
        """The last of each name."""
        last = ((tag, self._events.Audio(tag)[-1]) for tag in self._events.Tags()["audio"])
        return [Sample(tag, event.step, event.encoded_audio_string) for tag, event in last]

    def pictures(self) -> list[Sample]:
        """The last of each name."""
        last = ((tag, self._events.Images(tag)[-1]) for tag in self._events.Tags()["images"])
        return [Sample(tag, event.step, event.encoded_image_string) for tag, event in last]

    def progress(self) -> Progress:
        """Where the run is; ValueError if it has written nothing yet."""
        last = [self._events.Scalars(tag)[-1] for tag in self._events.Tags()["scalars"]]
        if not last:
            raise ValueError(f"{self.folder}: no figures there yet; they come with the first validation")
        step = max(event.step for event in last)
        ended, max_steps = self._end(step)
        return Progress(step, max_steps or self._configured_steps(), ended, self._last("training/steps_per_second"),
                        self._last("training/learning_rate"), max(event.wall_time for event in last))

    def _last(self, tag: str) -> float | None:
        return self._events.Scalars(tag)[-1].value if tag in self._events.Tags()["scalars"] else None

    def _end(self, step: int) -> tuple[str, int | None]:
        """How its log says that it ended at this step, and of how many."""
        path = self.folder / "train.log"
        if not path.is_file():
            return "", None
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_TAIL))
            tail = file.read().decode("utf-8", errors="replace")
        ends = re.findall(r"(finished|stopped) at step (\d+) of (\d+)", tail)
        if not ends or int(ends[-1][1]) < step:
            return "", None
        return ends[-1][0], int(ends[-1][2])

    def _configured_steps(self) -> int | None:
        """`max_steps` of the stage in the config that it logged."""
        tag = "config/text_summary"
        if tag not in self._events.Tags()["tensors"]:
            return None
        text = self._events.Tensors(tag)[-1].tensor_proto.string_val[0].decode("utf-8")
        stages = json.loads(text.removeprefix("```json\n").removesuffix("\n```"))["train"]
        return stages.get(self.folder.name, {}).get("max_steps")


def run_names(logs: Path) -> list[str]:
    """Folders under `logs` that hold events, by their relative path, the last written first."""
    written: dict[str, float] = {}
    for path in logs.rglob("events.out.tfevents.*"):
        name = path.parent.relative_to(logs).as_posix()
        written[name] = max(written.get(name, 0.0), path.stat().st_mtime)
    return sorted(written, key=lambda name: -written[name])


def read_curves(folder: Path) -> dict[str, Curve]:
    """Every scalar of a log folder: name -> (steps, values)."""
    log = RunLog(folder)
    log.reload()
    return log.curves()


def is_loss(tag: str) -> bool:
    """Whether a name is that of a loss, and not of speed, learning rate, code usage, ..."""
    return not any(part in tag for part in NOT_LOSSES)


def grouped(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """`training/x` and `validation/x` as one panel: x -> {"training": ..., "validation": ...}."""
    panels: dict[str, dict[str, Curve]] = defaultdict(dict)
    for tag, curve in curves.items():
        part, _, name = tag.partition("/")
        panels[name or part][part] = curve
    return dict(panels)
