"""How a running server (serve.py) bears load: throughput, first byte, whole requests, errors, memory.

    python3 serve.py --port 8000 &
    python3 -m benchmarking.load --url http://127.0.0.1:8000 --requests 200 --clients 1 4 16

Clients ask one request after the other, all with sentences of the same list, of 5 to 21 words.
"""

import argparse
import asyncio
import logging
import time

import httpx
import numpy as np

log = logging.getLogger(__name__)

SENTENCES = [
    "The train to the coast leaves at nine.",
    "She had never seen a winter as long and as cold as this one, and she hoped that it would end soon.",
    "Where did you put the keys?",
    "Most of the houses on the island are built of stone, with small windows towards the sea.",
    "He closed the book, and looked out into the garden for a while. Then it began to rain.",
    "Nobody had told them that the bridge was closed.",
]
PCM_RATE = 24000
PERCENTILES = (50, 95)


async def measure(url: str, model: str, n_requests: int, n_clients: int) -> dict[str, float]:
    """Seconds of speech per second, percentiles of first byte and of whole requests in seconds, how many failed."""
    waiting, first, whole, audio, failed = iter(range(n_requests)), [], [], 0.0, 0

    async def client() -> None:
        nonlocal audio, failed
        for i in waiting:
            body = {"model": model, "input": SENTENCES[i % len(SENTENCES)], "response_format": "pcm", "seed": i}
            started, size, heard = time.perf_counter(), 0, None
            try:
                async with api.stream("POST", "/v1/audio/speech", json=body) as response:
                    response.raise_for_status()
                    async for chunk in response.aiter_raw():
                        heard = heard or time.perf_counter() - started
                        size += len(chunk)
            except httpx.HTTPError as error:
                log.warning("request %d: %s", i, error)
                failed += 1
                continue
            first.append(heard)
            whole.append(time.perf_counter() - started)
            audio += size / 2 / PCM_RATE

    async with httpx.AsyncClient(base_url=url, timeout=300, limits=httpx.Limits(max_connections=n_clients)) as api:
        started = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(n_clients)))
        seconds = time.perf_counter() - started
    figures = {"times_real_time": audio / seconds, "requests_per_second": len(whole) / seconds, "failed": failed}
    for name, values in (("first_byte", first), ("whole", whole)):
        figures |= {f"{name}_p{share}": float(np.percentile(values or [np.nan], share)) for share in PERCENTILES}
    return figures


def memory_mb(url: str) -> float:
    """Of the server, from its metrics."""
    lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("process_resident_memory_bytes")) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="default")
    parser.add_argument("--requests", type=int, default=200, help="for each number of clients")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16], help="who ask at once")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    asyncio.run(measure(options.url, options.model, max(options.clients), max(options.clients)))  # warms up
    log.info("| clients | times real time | requests/s | first byte p50, p95 | whole p50, p95 | failed | memory |")
    log.info("|---|---|---|---|---|---|---|\n| before | | | | | | %.0f MB |", memory_mb(options.url))
    for n in options.clients:
        figures = asyncio.run(measure(options.url, options.model, options.requests, n))
        log.info("| %d | %.1f | %.1f | %.3f, %.3f s | %.3f, %.3f s | %d | %.0f MB |", n, figures["times_real_time"],
                 figures["requests_per_second"], figures["first_byte_p50"], figures["first_byte_p95"],
                 figures["whole_p50"], figures["whole_p95"], figures["failed"], memory_mb(options.url))


if __name__ == "__main__":
    main()
