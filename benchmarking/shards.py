"""Parquet shards of a generated corpus, streamed as train_llm.py does: speed, memory over the pass, time of a resume.

    python3 -m benchmarking.shards -c configs/voice.json --clips 1000000 --folder outputs/shards --json shards.json

Beside it the language model's own training step, in positions (symbols and code frames) a second: the loader must be
the faster one. With one CPU thread and --workers 0 both are CPU time, which others on the machine disturb least. The
shards are kept in --folder and used again.
"""

import argparse
import itertools
import json
import logging
import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
from datasets import Dataset

import cli
from benchmarking.machine import now
from benchmarking.networks import build_lm, codec_sizes
from benchmarking.stages import SYMBOLS_PER_SECOND, measure_training
from code_shards import CODES, open_shards, text_fingerprint, write_shards
from config import Config, load_config
from data_utils import CodeSequences
from shard_stream import Layout, PoolBatches, ShardStream
from text import Frontend, build_frontend

log = logging.getLogger(__name__)

PART_CLIPS = 50_000
MEAN_SECONDS, LEAST_SECONDS = 3.0, 0.5
FINGERPRINT = "generated"
POINTS = 10
"""How often memory is looked at in a pass."""


def make_corpus(config: Config, frontend: Frontend, folder: Path, clips: int) -> None:
    """Shards of so many clips of random codes and IPA, of 3 s on average, by 100 speakers."""
    sizes = codec_sizes(config)
    source = {"fingerprint": FINGERPRINT, "text": text_fingerprint(frontend.state())}
    random = np.random.default_rng(0)
    letters = np.array([symbol for symbol in frontend.symbols if len(symbol) == 1 and symbol.isalpha()])
    for start in range(0, clips, PART_CLIPS):
        count, part = min(PART_CLIPS, clips - start), folder / f"part-{start // PART_CLIPS:04d}"
        if part.is_dir():
            continue
        seconds = LEAST_SECONDS + random.exponential(MEAN_SECONDS - LEAST_SECONDS, count).clip(max=9)
        frames = (seconds * sizes["frame_rate"]).astype(np.int32)
        n_symbols = (seconds * SYMBOLS_PER_SECOND).astype(int)
        text = "".join(random.choice(letters, n_symbols.sum()))
        ends = np.cumsum(n_symbols)
        books = np.repeat(frames, sizes["n_codebooks"])
        codes = pa.array(random.integers(0, sizes["codebook_size"], books.sum()).astype(np.int16))
        codes = pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(books)]), pa.int32()), codes)
        codes = pa.ListArray.from_arrays(
            pa.array(np.arange(0, len(books) + 1, sizes["n_codebooks"]), pa.int32()), codes)
        table = pa.table({
            "path": [f"clips/{start + i:08d}.flac" for i in range(count)],
            "speaker": [f"speaker{i:03d}" for i in random.integers(0, 100, count)], "language": ["en-us"] * count,
            "ipa": [text[end - n : end] for n, end in zip(n_symbols, ends, strict=True)], "codes": codes,
            "frames": frames, "seconds": seconds.astype(np.float32),
        }).cast(CODES.arrow_schema)
        temporary = part.with_suffix(".tmp")
        write_shards(Dataset(table), temporary, source, frontend.encode, config.data.shard_clips)
        temporary.rename(part)
        log.info("%d clips written", start + count)


def measure_loader(config: Config, frontend: Frontend, folder: Path, workers: int) -> dict:
    """A whole epoch, batch by batch: seconds, sequences and positions, GB in memory at 10 points; then a resume near
    its end."""
    stage, lm = config.train.llm, build_lm(config)
    layout = Layout(stage.batch_size, config.llm.max_positions, stage.packing, lm.positions_for(0, 0))
    del lm
    clock = time.perf_counter if workers else now  # of workers this process does not count the CPU time
    started = clock()
    shards = open_shards([f"{folder}/*/*.parquet"], FINGERPRINT, text_fingerprint(frontend.state()))
    opened = clock()
    stream = ShardStream(shards, layout, stage.seed, buffer_shards=config.data.buffer_shards)
    n_batches = stream.batches_per_epoch
    planned = clock()
    speakers = sorted({speaker for speaker, _ in shards.voices})
    batches = PoolBatches(stream, partial(CodeSequences, encode=frontend.encode, speakers=speakers,
                                          languages=["en-us"])).stream_batches(workers)
    seen, positions, memory = 0, 0, [resident_gb()]
    looks = {n_batches * (point + 1) // POINTS - 1 for point in range(POINTS)}
    begun = clock()
    for number, batch in enumerate(itertools.islice(batches(0), n_batches)):
        seen += len(batch["name"])
        positions += int(layout.positions_for(batch["text_lengths"], batch["codes_lengths"]).sum())
        if number in looks:
            memory.append(resident_gb())
            log.info("%d sequences, %.2f GB", seen, memory[-1])
    seconds = clock() - begun
    resumed = clock()
    next(batches(n_batches - 2))
    return {
        "shards": len(shards.files), "clips": int(shards.counts.sum()), "sequences": seen, "batches": n_batches,
        "gb_on_disk": sum(os.path.getsize(file) for file in shards.files) / 1e9, "workers": workers,
        "hours": float(shards.frames.sum() / codec_sizes(config)["frame_rate"] / 3600),
        "seconds_to_open": opened - started, "seconds_to_plan": planned - opened, "seconds": seconds,
        "sequences_per_second": seen / seconds, "positions_per_second": positions / seconds,
        "gb_resident": memory, "seconds_to_resume": clock() - resumed,
    }


def measure_trainer(config: Config, steps: int) -> dict:
    """The positions a second that the language model's training step takes in."""
    measured = measure_training(config, "llm", steps)
    seconds, lm = measured["clip_seconds"], build_lm(config)
    positions = lm.positions_for(int(seconds * SYMBOLS_PER_SECOND), round(seconds * codec_sizes(config)["frame_rate"]))
    per_step = positions * measured["batch_size"]
    return {"seconds_per_step": measured["seconds_per_step"], "positions_per_step": per_step,
            "positions_per_second": per_step / measured["seconds_per_step"]["min"]}


def resident_gb() -> float:
    """What this process and its workers have in memory that they do not share, in GB."""
    process = psutil.Process()
    return sum(one.memory_full_info().uss for one in (process, *process.children(recursive=True))) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", required=True, help="JSON config: sizes, packing and batch size")
    parser.add_argument("--clips", type=cli.positive, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path("outputs/shards"), help="where the generated shards go")
    parser.add_argument("--workers", type=int, help="default: data.workers of the config")
    parser.add_argument("--steps", type=cli.positive, default=5, help="training steps that are timed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    frontend = build_frontend(config.text)
    make_corpus(config, frontend, arguments.folder, arguments.clips)
    workers = config.data.workers if arguments.workers is None else arguments.workers
    results = {"trainer": measure_trainer(config, arguments.steps),
               "loader": measure_loader(config, frontend, arguments.folder, workers)}
    loader, trainer = results["loader"], results["trainer"]
    log.info("%d clips (%.0f h, %.2f GB) in %d shards: opened in %.1f s, planned in %.1f s, resumed in %.1f s",
             loader["clips"], loader["hours"], loader["gb_on_disk"], loader["shards"], loader["seconds_to_open"],
             loader["seconds_to_plan"], loader["seconds_to_resume"])
    log.info("loader: %.0f sequences, %.0f positions a second; the trainer takes %.0f positions (%.0f times slower)",
             loader["sequences_per_second"], loader["positions_per_second"], trainer["positions_per_second"],
             loader["positions_per_second"] / trainer["positions_per_second"])
    log.info("GB in memory over the pass: %s", ", ".join(f"{value:.2f}" for value in loader["gb_resident"]))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
