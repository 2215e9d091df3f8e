"""Who is spoken next: one thread owns the networks and speaks pieces of many requests, together or by turns.

A request is heard as soon as can be: its first piece is streamed in chunks, as long as no more than STREAMED requests
wait for their first sound. All other pieces are spoken whole, which takes less time, several of them together where the
system gains by it. Whose turn it is decides when a listener who heard the first sample at the request's arrival would
run out of speech: short requests and new ones come before the rest of long ones, and none waits for ever.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor

from models.layers.sampling import Sampling
from serving.metrics import Metrics
from synthesis.speech import Part, Speech, Utterance
from synthesis.synthesizer import Joined, Synthesizer
from text.pieces import Piece

log = logging.getLogger(__name__)

STREAMED = 2
WARM_UP_TEXT = "1 2 3. 45."  # digits are read in every language


class QueueFull(Exception):
    """No more requests are taken for now."""

    def __init__(self, seconds: int):
        super().__init__(f"try again in {seconds} s")
        self.seconds = seconds


@dataclass(eq=False)
class Job:
    """The speech of one request."""

    model: str
    prepare: Callable[[], Iterator[tuple[Piece, Utterance]]]
    """Makes the script (see `Synthesizer.script`), on the thread that speaks."""
    deliver: Callable[[Speech | Exception | None], None]
    """Is given every chunk, and at the end None or what went wrong, on that thread."""
    joined: Joined
    sampling: Sampling = Sampling()  # noqa: RUF009 (frozen)
    retries: int = 0
    arrived: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    """Of speech made."""
    cancelled: bool = False
    script: Iterator[tuple[Piece, Utterance]] | None = None
    ahead: deque[tuple[Piece, Utterance]] = field(default_factory=deque)
    """Pieces that have been asked for."""
    chunks: Iterator[tuple[Tensor, Part | None]] | None = None
    """Of the first of them, if it is being streamed."""

    @property
    def due(self) -> float:
        """When a listener runs out of speech."""
        return self.arrived + self.seconds

    def has(self, place: int) -> bool:
        """Whether there is a piece `place` behind the next one."""
        while len(self.ahead) <= place:
            piece = next(self.script, None)
            if piece is None:
                return False
            self.ahead.append(piece)
        return True


class Scheduler:
    """The thread that speaks, and its queue."""

    def __init__(self, synthesizers: dict[str, Synthesizer], metrics: Metrics, *, batch_size: int, max_queue: int):
        self.synthesizers, self.metrics = synthesizers, metrics
        self.batch_size, self.max_queue = batch_size, max_queue
        self.ready = threading.Event()
        self._changed = threading.Condition()
        self._new: deque[Job] = deque()
        self._jobs: list[Job] = []
        self._closed, self._ended, self._busy = False, 0, 0.0
        metrics.queue.set_function(self.__len__)
        metrics.ready.set_function(self.ready.is_set)
        self._thread = threading.Thread(target=self._work, name="speaker", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._new) + len(self._jobs)

    def submit(self, job: Job) -> None:
        """Queues a job. QueueFull if too many are there, or the server is about to end."""
        with self._changed:
            if len(self) >= self.max_queue or self._closed:
                raise QueueFull(max(1, round(len(self) * self._busy / max(1, self._ended))))
            self._new.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Nothing more is made of a job than the chunk or batch in work, and nothing more delivered."""
        with self._changed:
            job.cancelled = True
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread, when it has spoken what is queued and not cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        try:
            for name, synthesizer in self.synthesizers.items():
                warm_up(name, synthesizer)
            self.ready.set()
        except Exception:  # requests are still answered, each with what is wrong
            log.exception("could not be made warm: the server will not be ready")
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._new or self._jobs or self._closed)
                if self._closed and not self._new and not self._jobs:
                    return
                new = list(self._new)
                self._jobs += new
                self._new.clear()
            for job in new:
                self._guarded([job], self._begin)
            for job in [job for job in self._jobs if job.cancelled]:
                self._end(job)
            if self._jobs:
                started, batch = time.monotonic(), self._next_batch()
                self._guarded(batch, self._speak)
                seconds = time.monotonic() - started
                self._busy += seconds
                self.metrics.busy_seconds.labels(batch[0].model).inc(seconds)

    def _guarded(self, jobs: list[Job], work: Callable[[list[Job]], None]) -> None:
        """Does it; what goes wrong is the jobs' own, and the thread goes on."""
        try:
            work(jobs)
        except Exception as error:
            if not isinstance(error, ValueError):
                log.exception("failed at speaking")
            for job in dict.fromkeys(jobs):
                self._end(job, error)

    def _begin(self, jobs: list[Job]) -> None:
        for job in jobs:
            if not job.cancelled:
                job.script = job.prepare()

    def _next_batch(self) -> list[Job]:
        """Whose next pieces to speak together, a job as often as it has pieces among them; of one whose piece is to be
        streamed, that one alone."""
        first = min(self._jobs, key=lambda job: job.due)
        system = self.synthesizers[first.model].system
        unheard = sum(job.seconds == 0 for job in self._jobs)
        if first.chunks is None and first.seconds == 0 and not first.retries and unheard <= STREAMED and first.has(0):
            first.chunks = system.stream_part(first.ahead[0][1], sampling=first.sampling)
        if first.chunks is not None or not system.together:
            return [first]
        like = (first.model, first.sampling, first.retries)
        peers = sorted((job for job in self._jobs if (job.model, job.sampling, job.retries) == like
                        and job.chunks is None), key=lambda job: job.due)
        # a listener who has heard nothing yet does not wait for what others hear later
        places = self.batch_size if all(job.seconds for job in peers) else 1
        return [job for place in range(places) for job in peers if job.has(place)][: self.batch_size] or [first]

    def _speak(self, jobs: list[Job]) -> None:
        """The next chunk of a job, or the next pieces of several."""
        if jobs[0].chunks is not None:
            job, = jobs
            samples, part = next(job.chunks)
            self._deliver(job, samples, part)
            if part is not None:
                job.chunks = None
        elif jobs[0].has(0):
            first = jobs[0]
            places = [jobs[:i].count(job) for i, job in enumerate(jobs)]
            utterances = [job.ahead[place][1] for job, place in zip(jobs, places, strict=True)]
            self.metrics.batch_size.labels(first.model).observe(len(jobs))
            parts = self.synthesizers[first.model].system.speak_parts(utterances, sampling=first.sampling,
                                                                      retries=first.retries)
            for job, part in zip(jobs, parts, strict=True):
                self._deliver(job, part.samples, part)
        for job in dict.fromkeys(jobs):
            if job.chunks is None and not job.has(0):
                self._end(job)

    def _deliver(self, job: Job, samples: Tensor, part: Part | None) -> None:
        speech = job.joined.chunk(job.ahead[0][0], samples, part)
        if part is not None:
            job.ahead.popleft()
        job.seconds += speech.seconds
        self.metrics.audio_seconds.labels(job.model).inc(speech.seconds)
        if not job.cancelled:
            job.deliver(speech)

    def _end(self, job: Job, error: Exception | None = None) -> None:
        if job.chunks is not None:
            job.chunks.close()
        with self._changed:
            self._jobs.remove(job)
        self._ended += 1
        if not job.cancelled:
            job.deliver(error)


def warm_up(name: str, synthesizer: Synthesizer) -> None:
    """Has everything compiled, loaded and measured that the first request would wait for."""
    started, system = time.monotonic(), synthesizer.system
    for language in synthesizer.languages:
        synthesizer.frontend.phonemize(WARM_UP_TEXT, language)
    script = [utterance for _, utterance in synthesizer.script(WARM_UP_TEXT, synthesizer.languages[0])]
    system.speak_parts(script, sampling=Sampling())
    for _ in system.stream_part(script[0], sampling=Sampling()):
        pass
    log.info("%s: warm after %.1f s", name, time.monotonic() - started)
