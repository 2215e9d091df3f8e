"""Speed and memory of a config's networks, with random weights and generated inputs: no data, no downloads.

    python3 benchmark.py -c configs/ipa_tts.json --json outputs/benchmark.json
    python3 benchmark.py -c configs/fsq_tts.json --precision int8 --parts synthesis
    python3 benchmark.py -c configs/fsq_tts.json configs/rvq_50hz.json configs/soprano_style.json

Several configs are compared: what each system is, and how fast it speaks. A config with a section `aligned` is one of
an aligned-duration system, and one of language models too if it has `codec` or `llm`.
Runs on the GPU if there is one, else on the CPU. Every measurement has a process of its own, so that its peak memory
is its own too; the machine's memory bandwidth and FLOP/s stand beside the figures, to relate them to. With one CPU
thread, all times are CPU time, which others on the machine disturb least.
"""

import argparse
import json
import logging
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

import cli
from benchmarking.aligned import aligned_lines, measure_aligned_synthesis
from benchmarking.comparison import compare, comparison_table
from benchmarking.decoding import decoding_lines, measure_decoding
from benchmarking.machine import measure_machine
from benchmarking.networks import count_parameters, systems_of
from benchmarking.stages import measure_training, stages_of
from benchmarking.synthesis import measure_synthesis, synthesis_lines
from config import Config, load_config
from decoding.weights import PRECISIONS

log = logging.getLogger(__name__)

PARTS = ("synthesis", "decoding", "training")


def benchmark(config: Config, steps: int, seconds: int, precision: str = "fp32", parts: Sequence[str] = PARTS) -> dict:
    """All figures as JSON values: `machine`, `parameters`, `training` with a dict for each stage; of a token language
    model `synthesis` and `decoding`, of an aligned-duration model `aligned_synthesis` (see `systems_of`).

    `steps`: how often each thing is timed; `seconds`: length of the sentence that is synthesised; `precision`: of the
    language model that speaks it; `parts`: which of PARTS to measure. ValueError if the sentence does not fit the
    language model, or if something does not fit into memory.
    """
    systems = systems_of(config)
    results = {
        "machine": in_own_process("the machine", measure_machine, config),
        "parameters": in_own_process("parameters", count_parameters, config),
    }
    if "tokens" in systems and "synthesis" in parts:
        results["synthesis"] = in_own_process("synthesis", measure_synthesis, config, steps, seconds, precision)
    if "tokens" in systems and "decoding" in parts:
        results["decoding"] = in_own_process("decoding", measure_decoding, config, steps)
    if "aligned" in systems and "synthesis" in parts:
        results["aligned_synthesis"] = in_own_process(
            "synthesis with aligned durations", measure_aligned_synthesis, config, steps, seconds)
    if "training" in parts:
        results["training"] = {name: in_own_process(f"training, {name}", measure_training, config, name, steps)
                               for name in stages_of(config)}
    return results


def in_own_process(name: str, function: Callable[..., dict], *arguments) -> dict:
    """What the function returns when a fresh process calls it. ValueError if that ran out of memory."""
    log.info("measuring %s", name)
    # the server imports everything once and never computes: each process starts from it quickly, and small
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarking.stages", "benchmarking.synthesis", "benchmarking.decoding",
                                    "benchmarking.aligned"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except (torch.OutOfMemoryError, BrokenProcessPool) as error:
            raise ValueError(f"{name}: ended, most likely for want of memory ({error}); lower batch_size or "
                             "data.max_seconds, or use precision fp16 or bf16") from error


def table(results: dict) -> str:
    """The figures for people to read."""
    machine = results["machine"]
    tflops = ", ".join(f"{value:.3g} TFLOP/s {precision}" for precision, value in machine["matmul_tflops"].items())
    lines = [
        f"{machine['name']}, {machine['threads']} thread(s), {machine['clock']}, torch {machine['torch']}: "
        f"{machine['bandwidth_gb_per_second']:.3g} GB/s, {tflops}", "",
    ]
    lines += [f"{name:24} {count / 1e6:8.2f} M parameters" for name, count in results["parameters"].items()]
    if "training" in results:
        lines += ["", *training_lines(results["training"], machine["memory"])]
    if "synthesis" in results:
        lines += ["", *synthesis_lines(results["synthesis"])]
    if "decoding" in results:
        lines += ["", *decoding_lines(results["decoding"])]
    if "aligned_synthesis" in results:
        lines += ["", *aligned_lines(results["aligned_synthesis"])]
    return "\n".join(lines)


def training_lines(stages: dict[str, dict], memory: str) -> list[str]:
    """The figures of training for people to read; `memory`: what is counted as such."""
    lines = [f"{'training':24} {'s/step':>8} {'min':>8} {'max':>8} {'batch':>6} {'clip s':>7} {'GB':>6}"]
    for name, row in stages.items():
        seconds = row["seconds_per_step"]
        accumulation = row["gradient_accumulation"]
        lines.append(
            f"{name:24} {seconds['median']:8.3f} {seconds['min']:8.3f} {seconds['max']:8.3f} {row['batch_size']:6} "
            f"{row['clip_seconds']:7.2f} {row['peak_memory_gb']:6.2f}  {row['precision']}"
            + (", gradient checkpointing" if row["gradient_checkpointing"] else "")
            + (f", {accumulation} batches a step" if accumulation > 1 else "")
        )
    return [*lines, f"(GB: {memory})"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-c", "--config", required=True, nargs="+", help="JSON config(s), e.g. configs/ipa_tts.json")
    parser.add_argument("--steps", type=cli.positive, default=5, help="how often each thing is timed, after a warm-up")
    parser.add_argument("--seconds", type=cli.positive, default=6, help="length of the sentence that is synthesised")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the language model that speaks the "
                        "sentence; its decoder is measured in both")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure, of a single config")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    arguments = parser.parse_args()
    if len(arguments.config) > 1 and arguments.parts != PARTS:
        raise ValueError("--parts: several configs are compared by how they speak; give it with a single one")
    configs = {path: load_config(path) for path in arguments.config}
    if len(configs) == 1:
        (path, config), = configs.items()
        results = {"config": path} | benchmark(
            config, arguments.steps, arguments.seconds, arguments.precision, arguments.parts)
        log.info("%s\n%s", path, table(results))
    else:
        results = compare(configs, arguments.steps, arguments.seconds, in_own_process, arguments.precision)
        log.info("%d thread(s)\n%s", torch.get_num_threads(), comparison_table(results))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
