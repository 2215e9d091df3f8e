"""Kills trainings and resumes them until they end, and compares what comes out with that of unbroken ones, bit for bit.

    OMP_NUM_THREADS=1 python3 kill_test.py -o outputs/kill_test                    # every stage, 20 SIGKILLs each
    OMP_NUM_THREADS=1 python3 kill_test.py -o outputs/kill_test --stages llm joint --kills 5 --fresh

Everything is made in the folder -o: a small corpus, the models that the stages build on, for each stage an unbroken run
and a killed one, and `kills.json`. A third of the kills each come while a run starts, between two steps, and as soon as
a file is being saved. Compared are weights, moving average, optimizers, discriminators, random states and counters of
the last pair, the best checkpoint, and the curves in TensorBoard. A difference ends in an error.
"""

import argparse
import importlib
import json
import logging
import multiprocessing
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm

import cli
from checkpoints import BEST_FILE, checkpoint_path, read_checkpoint, saved_steps

log = logging.getLogger(__name__)

ROOT = Path(__file__).parent
STEPS = 120
TRAINING = {"max_steps": STEPS, "save_interval": 4, "eval_interval": 40, "log_interval": 3, "batch_size": 2}
MOMENTS = ("starting", "training", "saving")
TRAINS = "one step on the longest batch"  # logged right before the first step
POLL_SECONDS = 0.0005
SHORT = {"max_steps": 4, "eval_interval": 4, "save_interval": 4, "batch_size": 2}


class Stage(NamedTuple):
    """What is trained, with which changes to the config, and which models it builds on."""

    script: str
    section: str
    training: dict
    needs: tuple[str, ...] = ()
    others: dict = {}
    """Of other sections, merged; `data.workers` among them."""


GAN = {"adversarial_start": STEPS // 3, "segment_frames": 16, "ema_decay": 0.9}
STAGES = {
    "codec": Stage("train_codec", "codec", {"gradient_accumulation": 2, "ema_decay": 0.9, "segment_frames": 32},
                   others={"data": {"workers": 2}}),
    "codec_adversarial": Stage(
        "train_codec", "codec",
        {"segment_frames": 32, "adversarial_start": STEPS // 3,
         "loss_weights": {"mel": 1.0, "mel_delta": 0.5, "commitment": 0.25, "adversarial": 1.0,
                          "feature_matching": 1.0}},
        others={"codec": {"bottleneck": {"kind": "rvq", "n_codebooks": 2, "codebook_size": 16, "latent_size": 8,
                                         "quantizer_dropout": True}}},
    ),
    "llm": Stage("train_llm", "llm", {"packing": True, "voice_probability": 0.5, "ema_decay": 0.9}, ("codec",),
                 {"data": {"workers": 1}}),
    "vocoder_mel": Stage("train_vocoder", "vocoder", GAN | {"conditioning": "mel"}),
    "vocoder_codes": Stage("train_vocoder", "vocoder", GAN | {"conditioning": "codes", "gradient_accumulation": 2},
                           ("codec",)),
    "vocoder_hidden": Stage("train_vocoder", "vocoder",
                            GAN | {"conditioning": "hidden", "segment_frames": 24, "adversarial_frames": 12},
                            ("codec", "llm")),
    "joint": Stage("train_vocoder", "vocoder", GAN | {"conditioning": "hidden", "joint": True}, ("codec", "llm"),
                   {"data": {"workers": 1}}),
    "aligner": Stage("align", "aligner", {"diagonal_steps": STEPS // 2}),
    "aligned": Stage("train_aligned", "aligned", {"ema_decay": 0.9}, ("aligner",)),
}
NETWORKS = {
    "codec": {"hidden_size": 16, "encoder_layers": 1, "decoder_layers": 1},
    "llm": {"hidden_size": 16, "n_layers": 1, "dropout": 0.1},
    "vocoder": {"hidden_size": 8, "resblock_kernel_sizes": [3], "resblock_dilations": [1]},
    "hidden_decoder": {"hidden_size": 8, "n_layers": 1}, "token_decoder": {"hidden_size": 8, "n_layers": 1},
    "discriminators": {"periods": [2], "period_channels": [2, 2], "resolution_channels": 1},
    "aligner": {"hidden_size": 16, "n_layers": 1},
    "aligned": {"hidden_size": 16, "n_layers": 1, "n_heads": 2, "feed_forward_size": 16, "predictor_size": 16,
                "decoder": {"kind": "flow", "hidden_size": 16, "n_layers": 1}},
}


def merged(values: dict, changes: dict) -> dict:
    """`values` with `changes`, dicts in dicts as well; one of a `kind` replaces what was there."""
    both = {name: merged(values[name], change) for name, change in changes.items()
            if isinstance(change, dict) and isinstance(values.get(name), dict) and "kind" not in change}
    return values | changes | both


def write_config(path: Path, training: dict, others: dict) -> None:
    """The shipped tiny config, much smaller still, in the present folder's `data`."""
    values = json.loads((ROOT / "configs/tiny/ipa_tts.json").read_text(encoding="utf-8"))
    values = merged(values, NETWORKS | {"train": training})
    path.write_text(json.dumps(merged(values, others), indent=1), encoding="utf-8")


def run_script(name: str, arguments: list[str], output: str) -> None:
    """In a process of its own: one of our scripts, what it prints in a file."""
    with open(output, "a", encoding="utf-8") as file:
        sys.stdout = sys.stderr = file
        logging.getLogger().handlers.clear()
        sys.argv = [f"{name}.py", *arguments]
        tqdm.set_lock(threading.RLock())  # a copy's would be shared with all others, and held by one that was killed
        cli.run(importlib.import_module(name).main)


class Laboratory:
    """A folder in which trainings are started, killed and compared."""

    def __init__(self, context: BaseContext, kills: int, seed: int):
        self.context, self.kills, self.random = context, kills, random.Random(seed)

    def start(self, script: str, *arguments: object) -> BaseProcess:
        """Starts a script in the present folder."""
        process = self.context.Process(target=run_script, args=(script, list(map(str, arguments)), "output.txt"))
        process.start()
        return process

    def finish(self, script: str, *arguments: object) -> None:
        """Runs a script to its end; ValueError if it fails."""
        self.ended(self.start(script, *arguments), script)

    @staticmethod
    def ended(process: BaseProcess, what: str) -> None:
        """Waits for a process; ValueError if it failed."""
        process.join()
        if process.exitcode:
            raise ValueError(f"{what}: ended with status {process.exitcode}, see {Path('output.txt').resolve()}")

    def prepare(self, needed: set[str]) -> None:
        """The corpus, and shortly trained models that the stages build on."""
        write_config(Path("base.json"), {name: SHORT for name in ("codec", "llm", "aligner")}, {})
        self.finish("make_demo_corpus", "-o", "data/demo", "--sentences", 12)
        for part in ("train", "validation"):
            self.finish("preprocess_ipa", "-i", f"data/demo/{part}.txt", "-o", f"data/demo/{part}_ipa.txt",
                        "--jobs", 1)
        if "codec" in needed:
            self.finish("train_codec", "-c", "base.json", "-m", "base")
            self.finish("preprocess_codes", "-c", "base.json", "-m", "base")
        if "llm" in needed:
            self.finish("train_llm", "-c", "base.json", "-m", "base")
        if "aligner" in needed:
            self.finish("align", "-c", "base.json", "-m", "base")

    def measure(self, name: str) -> dict:
        """Trains a stage unbroken and killed, and compares the two. ValueError where they differ."""
        stage, config = STAGES[name], f"{name}.json"
        write_config(Path(config), {stage.section: TRAINING | stage.training}, stage.others)
        models = {kind: f"{name}_{kind}" for kind in ("unbroken", "killed")}
        for model in models.values():
            for needed in set(stage.needs) & {"codec", "llm"}:
                Path("checkpoints", model).mkdir(parents=True, exist_ok=True)
                Path("checkpoints", model, needed).symlink_to(Path("checkpoints/base", needed).resolve())
        log.info("%s: unbroken", name)
        begun = time.monotonic()
        process = self.start(stage.script, "-c", config, "-m", models["unbroken"])
        self.await_training(process, stage, models["unbroken"], 0)
        starting = time.monotonic() - begun
        self.ended(process, name)
        step = (time.monotonic() - begun - starting) / STEPS
        log.info("%s: %.1f s to start, %.3f s a step; killing", name, starting, step)
        moments, saving = self.kill(name, models["killed"], starting, step)
        differences = [*differing(models, stage.section)]
        if differences:
            raise ValueError(f"{name}: differs from the unbroken run in {', '.join(differences[:5])}")
        return {"stage": name, "kills": sum(moments.values()), "moments": moments, "amid_saving": saving,
                "steps": STEPS, "differences": 0}

    def kill(self, name: str, model: str, starting: float, step: float) -> tuple[dict, int]:
        """Trains a stage to its end through all kills; how many came when, and after how many half a save was left."""
        stage, moments, amid_saving = STAGES[name], Counter(), 0
        folder = Path("checkpoints", model, stage.section)
        for number in range(self.kills):
            moment = MOMENTS[number % len(MOMENTS)]
            written = log_size(stage, model)
            process = self.start(stage.script, "-c", f"{name}.json", "-m", model)
            if moment != "starting":
                self.await_training(process, stage, model, written)
            self.await_moment(process, moment, folder, starting if moment == "starting" else 8 * step)
            if not process.is_alive():
                raise ValueError(f"{name}: ended by itself after {number} kills, with status {process.exitcode}; see "
                                 f"{Path('output.txt').resolve()}")
            process.kill()
            process.join()
            half = [*folder.glob("*.tmp")]
            half += [d for d in folder.glob("D_step*.pth") if not d.with_name("G" + d.name[1:]).exists()]
            amid_saving += bool(half)
            moments[moment] += 1
        self.finish(stage.script, "-c", f"{name}.json", "-m", model)
        return dict(moments), amid_saving

    def await_training(self, process: BaseProcess, stage: Stage, model: str, written: int) -> None:
        """Returns when a run has begun to train, as its log says from the byte `written` on."""
        path = log_path(stage, model)
        wait_while(process, lambda: log_size(stage, model) <= written
                   or TRAINS not in path.read_bytes()[written:].decode(errors="replace"))

    def await_moment(self, process: BaseProcess, moment: str, folder: Path, seconds: float) -> None:
        """Returns some time after the next file has begun to be saved, or within `seconds`."""
        if moment == "saving":
            wait_while(process, lambda: not any(folder.glob("*.tmp")))
            time.sleep(self.random.uniform(0, 0.01))
            return
        # not so long that the run ends before it was killed often enough
        until, last = time.monotonic() + self.random.uniform(0, seconds), newest_step(folder) + 4
        wait_while(process, lambda: time.monotonic() < until and newest_step(folder) < last)


def wait_while(process: BaseProcess, condition: Callable[[], bool]) -> None:
    """Returns when the condition holds no longer, or the process has ended."""
    while process.is_alive() and condition():
        time.sleep(POLL_SECONDS)


def newest_step(folder: Path) -> int:
    """Of the last pair that is there."""
    return max(saved_steps(folder), default=0)


def log_path(stage: Stage, model: str) -> Path:
    """Where a run of a stage logs."""
    return Path("logs", model, stage.section, "train.log")


def log_size(stage: Stage, model: str) -> int:
    """Bytes that runs of a stage have logged."""
    path = log_path(stage, model)
    return path.stat().st_size if path.exists() else 0


def differing(models: dict[str, str], section: str) -> list[str]:
    """Where the last pair, the best checkpoint and the curves of two runs differ."""
    found = []
    unbroken, killed = (Path("checkpoints", model, section) for model in models.values())
    names = {path.name for path in (checkpoint_path(unbroken, network, STEPS) for network in ("G", "D"))
             if path.exists()} | {BEST_FILE}
    if checkpoint_path(unbroken, "G", STEPS).name not in names:
        raise ValueError(f"{unbroken}: no checkpoint of step {STEPS}")
    for name in sorted(names):
        found += differences_in(read_checkpoint(unbroken / name), read_checkpoint(killed / name), name)
    return found + differences_in(*(curves(Path("logs", model, section)) for model in models.values()), "curves")


def differences_in(first: object, second: object, where: str) -> list[str]:
    """The places where two nested values are not the same to the last bit."""
    if torch.is_tensor(first):
        same = torch.is_tensor(second) and first.dtype == second.dtype and torch.equal(first, second)
        return [] if same else [where]
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [where]
        return [place for key in first for place in differences_in(first[key], second[key], f"{where}.{key}")]
    if isinstance(first, list | tuple):
        if len(first) != len(second):
            return [where]
        return [place for i, pair in enumerate(zip(first, second, strict=True))
                for place in differences_in(*pair, f"{where}[{i}]")]
    return [] if first == second else [where]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every scalar in TensorBoard but the speed."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)]
            for tag in events.Tags()["scalars"] if not tag.endswith("steps_per_second")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=[*STAGES])
    parser.add_argument("--kills", type=cli.positive, default=20, help="of each stage")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--fresh", action="store_true",
                        help="start a new interpreter each time, not a copy of this one, which takes seconds more")
    options = parser.parse_args()
    if options.output.exists():
        raise ValueError(f"{options.output}: is there already; remove it, or take another -o")
    if not options.fresh:  # what the copies then need not import again
        for script in {stage.script for stage in STAGES.values()}:
            importlib.import_module(script)
        importlib.import_module("torch.utils.tensorboard")
    torch.set_num_threads(1)
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every file that it reads
    options.output.mkdir(parents=True)
    laboratory = Laboratory(multiprocessing.get_context("spawn" if options.fresh else "fork"), options.kills,
                            options.seed)
    os.chdir(options.output)
    laboratory.prepare({need for name in options.stages for need in STAGES[name].needs})
    results = []
    for name in options.stages:
        results.append(laboratory.measure(name))
        Path("kills.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        log.info("%s: %d kills (%s), %d amid a save; no difference", name, results[-1]["kills"],
                 ", ".join(f"{count} {moment}" for moment, count in results[-1]["moments"].items()),
                 results[-1]["amid_saving"])


if __name__ == "__main__":
    cli.run(main)
