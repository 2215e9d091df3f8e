"""What Prometheus is told at /metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client import generate_latest as as_text

SECONDS = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 30, 60)
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
SPEEDS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server."""

    def __init__(self):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

        def new(kind, name: str, text: str, labels: tuple[str, ...] = (), **options):
            return kind(f"tts_{name}", text, labels, registry=self.registry, **options)

        self.requests = new(Counter, "requests", "Responses by path and status", ("path", "status"))
        self.cancelled = new(Counter, "cancelled", "Requests whose client left before the end", ("model",))
        self.audio_seconds = new(Counter, "audio_seconds", "Seconds of speech made", ("model",))
        self.busy_seconds = new(
            Counter, "busy_seconds", "Seconds that the networks worked: audio over busy seconds is times real time",
            ("model",))
        self.first_byte = new(Histogram, "first_byte_seconds", "From request to first byte of audio", ("model",),
                              buckets=SECONDS)
        self.whole = new(Histogram, "request_seconds", "From request to last byte of audio", ("model",),
                         buckets=SECONDS)
        self.speed = new(Histogram, "times_real_time", "Seconds of speech over seconds of a request", ("model",),
                         buckets=SPEEDS)
        self.batch_size = new(Histogram, "batch_size", "Pieces spoken together", ("model",), buckets=SIZES)
        self.queue = new(Gauge, "queue_length", "Requests that wait or are being spoken")
        self.ready = new(Gauge, "ready", "Whether the models are loaded and warm")

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return as_text(self.registry)
