"""Says what is wrong with the machine and with a data set, and what mends it.

    python3 doctor.py
    python3 doctor.py -c configs/voice.json
    python3 doctor.py -i data/anna/train_ipa.txt data/anna/validation_ipa.txt --json outputs/doctor.json

Every recording is read whole. Ends with status 1 if there is an error (with --strict: or a warning), 2 if it cannot
look at all, else 0.
"""

import argparse
import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path

import cli
from health.environment import check_environment
from health.report import Check, table, worst

log = logging.getLogger(__name__)

MACHINE, TOGETHER = "this machine", "all filelists"


def examine(config_path: Path | None, filelists: list[Path], jobs: int) -> dict[str, list[Check]]:
    """All checks, of the machine and of each filelist (the config's come first). ValueError for a config or filelist
    that cannot be read."""
    config, fp16 = None, ()
    if config_path:
        from config import load_config  # here, as packages may be missing, which the checks would say

        config = load_config(config_path)
        fp16 = tuple(f"train.{name}" for name, stage in config.train if stage.precision == "fp16")
        filelists = list(dict.fromkeys(
            [Path(config.data.training_filelist), Path(config.data.validation_filelist), *filelists]))
    sections = {MACHINE: check_environment(Path(), config.data.workers if config else 2, fp16)}
    if not filelists or any(check.name == "packages" and check.state == "error" for check in sections[MACHINE]):
        return sections
    return sections | examine_dataset(config, filelists, jobs)


def examine_dataset(config, filelists: list[Path], jobs: int) -> dict[str, list[Check]]:
    """The checks of each filelist and of all together; without a config (None) by the defaults of one."""
    from tqdm import tqdm

    from config import AudioConfig, DataConfig, TextConfig
    from health.dataset import Limits, check_held_out, check_overlap, check_part, check_speakers, read_parts
    from health.recordings import measure_all
    from text import build_frontend

    audio = config.audio if config else AudioConfig()
    data = config.data if config else DataConfig(training_filelist="", validation_filelist="")
    limits = Limits(audio.sample_rate, data.min_seconds, data.max_seconds)
    text = config.text if config else TextConfig()
    parts = read_parts(filelists, lambda paths: tqdm(
        measure_all(paths, jobs), total=len(paths), unit="clip", desc="recordings"))
    sections = {str(part.path): check_part(part, limits, build_frontend(text)) for part in parts}
    together = [check_speakers(parts), *(check_overlap(parts) if len(parts) > 1 else [])]
    if config and parts[1:]:
        together += check_held_out(*parts[:2])
    return sections | {TOGETHER: together}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path,
                        help="JSON config: its filelists, sample rate, limits and frontend")
    parser.add_argument("-i", "--input", type=Path, nargs="+", default=[], metavar="FILELIST",
                        help="filelists of text or IPA, e.g. for training and for validation, or folders of recordings")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument("--json", metavar="FILE", help="also write all checks there; - for the standard output")
    parser.add_argument("--strict", action="store_true", help="status 1 for warnings, too")
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        raise ValueError(f"--jobs {arguments.jobs} must be at least 1")
    sections = examine(arguments.config, arguments.input, arguments.jobs)
    state = worst([check for checks in sections.values() for check in checks])
    log.info("\n%s\n\n%s", "\n\n".join(table(name, checks) for name, checks in sections.items()), verdict(sections))
    if arguments.json:
        checks = {name: [asdict(check) for check in checks] for name, checks in sections.items()}
        content = json.dumps({"state": state, "checks": checks}, indent=1, ensure_ascii=False) + "\n"
        if arguments.json == "-":
            sys.stdout.write(content)
        else:
            Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
            Path(arguments.json).write_text(content, encoding="utf-8")
    if state == "error" or (arguments.strict and state == "warning"):
        sys.exit(1)


def verdict(sections: dict[str, list[Check]]) -> str:
    """One line: how many errors and warnings."""
    states = [check.state for checks in sections.values() for check in checks]
    errors, warnings = states.count("error"), states.count("warning")
    return f"{len(states)} checks: {errors} errors, {warnings} warnings" if errors or warnings else "all is well"


if __name__ == "__main__":
    cli.run(main)
