"""Where the time of a training step goes: loading, forward, backward, optimizer, logging, validation, saving."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StepClock:
    """Adds up wall seconds by part; a part that is timed within another does not count for that one."""

    def __init__(self, device: torch.device):
        self.seconds: dict[str, float] = {}
        self._device, self._running, self._since = device, ["other"], time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times what is done inside it."""
        self._switch()
        self._running.append(name)
        try:
            yield
        finally:
            self._switch()
            self._running.pop()

    def table(self, steps: int) -> str:
        """Milliseconds a step and share of each part, the longest first, over so many steps."""
        self._switch()
        total = sum(self.seconds.values())
        rows = sorted(self.seconds.items(), key=lambda item: -item[1])
        return "\n".join(f"  {name:<10} {1000 * seconds / max(1, steps):10.1f} ms a step {seconds / total:7.1%}"
                         for name, seconds in rows)

    def _switch(self) -> None:
        """Gives the time since the last call to the part that runs now."""
        if self._device.type == "cuda":  # else the work would count where its result is waited for
            torch.cuda.synchronize()
        now = time.perf_counter()
        name = self._running[-1]
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now
