"""Who is spoken next, with a voice that waits until the test says so."""

import queue
import threading
from functools import partial

import pytest
from slow_voice import SlowVoice

from models.layers.sampling import Sampling
from serving import scheduler as scheduling
from serving.metrics import Metrics
from serving.scheduler import Job, QueueFull, Scheduler
from synthesis.synthesizer import Joined


@pytest.fixture
def serve():
    """A scheduler of a voice, which is closed in the end."""
    opened = []

    def start(voice: SlowVoice, **options) -> Scheduler:
        scheduler = Scheduler({"slow": voice}, Metrics(), **{"batch_size": 3, "max_queue": 8} | options)
        opened.append((scheduler, voice))
        assert scheduler.ready.wait(60)
        return scheduler

    yield start
    for scheduler, voice in opened:
        voice.open.set()
        scheduler.close()


def asked(scheduler: Scheduler, voice: SlowVoice, text: str, **options) -> tuple[Job, queue.Queue]:
    made = queue.Queue()
    job = Job("slow", partial(voice.script, text), made.put, Joined(voice.audio.sample_rate), **options)
    scheduler.submit(job)
    return job, made


def seconds_of(made: queue.Queue) -> float:
    """Of all that is delivered, up to its end."""
    seconds = 0.0
    while (item := made.get(timeout=60)) is not None:
        if isinstance(item, Exception):
            raise item
        seconds += item.seconds
    return seconds


def holding(scheduler: Scheduler, voice: SlowVoice) -> queue.Queue:
    """A request that keeps the networks busy until the voice is opened."""
    _, made = asked(scheduler, voice, "wait", retries=1)
    for _ in range(6000):
        if not scheduler._new:
            break
        threading.Event().wait(0.01)
    return made


def test_a_lone_request_is_streamed_and_the_rest_of_it_spoken_together(serve):
    voice = SlowVoice()
    voice.open.set()
    _, made = asked(serve(voice), voice, "a b c d e")
    assert seconds_of(made) == pytest.approx(5)
    assert voice.log == ["a-", "a.", ["b", "c", "d"], ["e"]]


def test_requests_are_heard_in_turns_and_their_pieces_spoken_together(serve, monkeypatch):
    voice = SlowVoice()
    scheduler = serve(voice)
    held = holding(scheduler, voice)
    long, short = (asked(scheduler, voice, text)[1] for text in ("a b c d", "x y"))
    voice.open.set()
    assert [seconds_of(made) for made in (held, long, short)] == pytest.approx([1, 4, 2])
    assert voice.log == [["wait"], "a-", "x-", "a.", "x.", ["b", "y", "c"], ["d"]]
    # many wait: nobody's first piece is streamed, and nobody waits for the second one of another
    monkeypatch.setattr(scheduling, "STREAMED", 1)
    voice.open.clear()
    voice.log.clear()
    held = holding(scheduler, voice)
    several = [asked(scheduler, voice, text)[1] for text in ("a b", "x y", "p q", "u v")]
    voice.open.set()
    assert [seconds_of(made) for made in (held, *several)] == pytest.approx([1, 2, 2, 2, 2])
    assert voice.log[:3] == [["wait"], ["a", "x", "p"], "u-"]
    batches = scheduler.metrics.registry.get_sample_value("tts_batch_size_count", {"model": "slow"})
    assert batches == sum(isinstance(turn, list) for turn in voice.log) + 3


def test_what_is_drawn_otherwise_is_not_spoken_together_and_a_system_that_gains_nothing_speaks_alone(serve):
    voice = SlowVoice()
    scheduler = serve(voice)
    held = holding(scheduler, voice)
    made = [asked(scheduler, voice, text, sampling=Sampling(temperature=t), retries=1)[1]
            for text, t in (("a", 0.5), ("b", 0.7), ("c", 0.5))]
    voice.open.set()
    assert [seconds_of(one) for one in (held, *made)] == pytest.approx([1, 1, 1, 1])
    assert voice.log == [["wait"], ["a", "c"], ["b"]]
    alone = SlowVoice(together=False)
    alone.open.set()
    _, made = asked(serve(alone), alone, "a b c")
    assert seconds_of(made) == pytest.approx(3)
    assert alone.log == ["a-", "a.", ["b"], ["c"]]


def test_what_fails_is_the_requests_own(serve):
    voice = SlowVoice()
    voice.open.set()
    scheduler = serve(voice)
    with pytest.raises(ValueError, match="nothing to speak in 'bad'"):
        seconds_of(asked(scheduler, voice, "bad")[1])
    with pytest.raises(RuntimeError, match="crashed"):
        seconds_of(asked(scheduler, voice, "fine crash never")[1])
    assert seconds_of(asked(scheduler, voice, "fine")[1]) == pytest.approx(1)
    assert len(scheduler) == 0


def test_a_cancelled_request_is_spoken_no_further(serve):
    voice = SlowVoice()
    scheduler = serve(voice)
    job, made = asked(scheduler, voice, "word " * 100)
    voice.seconds = 0.02
    voice.open.set()
    assert made.get(timeout=60).seconds == pytest.approx(0.5)
    scheduler.cancel(job)
    assert seconds_of(asked(scheduler, voice, "next")[1]) == pytest.approx(1)
    assert voice.log[-2:] == ["next-", "next."]
    assert len(voice.log) < 20  # of 36 turns
    assert len(scheduler) == 0


def test_a_voice_that_cannot_be_made_warm_is_never_ready(caplog):
    voice = SlowVoice()
    voice.languages = []
    voice.open.set()
    scheduler = Scheduler({"slow": voice}, Metrics(), batch_size=1, max_queue=1)
    assert seconds_of(asked(scheduler, voice, "a")[1]) == pytest.approx(1)
    assert not scheduler.ready.is_set()
    assert "the server will not be ready" in caplog.text
    scheduler.close()


def test_a_full_queue_and_a_closed_one(serve):
    voice = SlowVoice()
    scheduler = serve(voice, max_queue=2)
    made = [asked(scheduler, voice, "a")[1] for _ in range(2)]
    with pytest.raises(QueueFull, match=r"try again in 1 s"):
        asked(scheduler, voice, "a")
    assert scheduler.metrics.registry.get_sample_value("tts_queue_length") == 2
    voice.open.set()
    assert [seconds_of(one) for one in made] == pytest.approx([1, 1])
    scheduler.close()
    with pytest.raises(QueueFull):
        asked(scheduler, voice, "a")
