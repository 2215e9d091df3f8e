"""Checks of the machine and of what is installed on it; imports nothing that may be missing before it has looked."""

import os
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from health.report import Check, judged

ROOT = Path(__file__).parents[1]
FOLDERS = ("checkpoints", "logs", "data", "outputs")
SHARED_MEMORY = Path("/dev/shm")
CGROUP = Path("/sys/fs/cgroup")
GB = 1e9
LEAST_PYTHON = (3, 11)


def check_environment(folder: Path, workers: int = 2, fp16_stages: tuple[str, ...] = ()) -> list[Check]:
    """All checks, for training in `folder` with so many data workers; `fp16_stages` need a GPU."""
    checks = [check_python(), check_packages(ROOT / "requirements.txt")]
    if checks[-1].state != "error":
        checks += [check_espeak(), check_gpu(fp16_stages), check_memory()]
    return [*checks, check_disk(folder), check_folders(folder), check_cores(workers), check_shared_memory(workers)]


def check_python() -> Check:
    """3.11 and newer will do."""
    name = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < LEAST_PYTHON:
        return Check("Python", "error", name, "Install Python 3.11 or newer, and make .venv anew with it.")
    return Check("Python", "ok", name)


def check_packages(requirements: Path) -> Check:
    """Whether all packages are there, in the versions that were tested."""
    pins = [line.split("==") for line in requirements.read_text(encoding="utf-8").splitlines()
            if "==" in line and not line.startswith("#")]
    missing, others = [], []
    for name, wanted in pins:
        try:
            found = version(name)
        except PackageNotFoundError:
            missing.append(f"{name}: missing, {wanted} wanted")
            continue
        if found.partition("+")[0] != wanted:  # torch's build for CUDA is called 2.13.0+cu130
            others.append(f"{name}: {found}, {wanted} wanted")
    mend = f"Run {sys.executable} -m pip install -r {requirements.name}."
    if missing:
        found = f"{len(missing)} of {len(pins)} missing, {len(others)} of another version"
        return Check("packages", "error", found, mend, missing + others)
    return judged("packages", "warning", others, "of another version than was tested", f"all {len(pins)} as in "
                  f"{requirements.name}", mend)


def check_espeak() -> Check:
    """Whether espeak-ng's library loads and speaks."""
    from text.espeak import Espeak, espeak_version, languages

    try:
        ipa = Espeak("en-us").ipa("hello")
        found = f"espeak-ng {espeak_version()}, {len(languages())} languages"
    except (RuntimeError, OSError, ValueError) as error:
        return Check("espeak", "error", f"does not load ({error})", f"Run {sys.executable} -m pip install "
                     "--force-reinstall espeakng-loader phonemizer.")
    return Check("espeak", "ok", f"{found}, hello is {ipa}")


def check_gpu(fp16_stages: tuple[str, ...] = ()) -> Check:
    """Which GPUs PyTorch can use."""
    import torch

    if torch.cuda.is_available():
        names = [f"{torch.cuda.get_device_name(i)} ({torch.cuda.get_device_properties(i).total_memory / GB:.0f} GB)"
                 for i in range(torch.cuda.device_count())]
        return Check("GPU", "ok", f"{', '.join(names)}; CUDA {torch.version.cuda}, torch {torch.__version__}")
    if fp16_stages:
        return Check("GPU", "error", "none that PyTorch can use, and precision is fp16",
                     f"Set precision of {' and '.join(fp16_stages)} to fp32 or bf16, or train where there is a GPU.")
    if shutil.which("nvidia-smi"):
        why = "PyTorch is the build for CPUs" if torch.version.cuda is None else "the driver is too old for it"
        return Check("GPU", "warning", f"nvidia-smi is there, but PyTorch {torch.__version__} finds no GPU",
                     f"Install the CUDA build of torch of that version, or a newer driver: {why}.")
    return Check("GPU", "ok", f"none; torch {torch.__version__} trains on the CPU")


def check_memory() -> Check:
    """What memory there is, in a container what it may take."""
    import psutil

    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    limit, used = (_number(CGROUP / name) for name in ("memory.max", "memory.current"))
    if limit:
        total, available = min(total, limit), min(available, limit - (used or 0))
    found = f"{available / GB:.1f} GB free of {total / GB:.1f} GB"
    mend = "Close other programs, lower train.<stage>.batch_size, or take a machine with more memory."
    if available < 4 * GB:
        return Check("memory", "error" if available < 1.5 * GB else "warning", found, mend)
    return Check("memory", "ok", found)


def check_disk(folder: Path) -> Check:
    """Free space where checkpoints go."""
    free = shutil.disk_usage(folder).free / GB
    if free < 10:
        return Check("disk", "error" if free < 1 else "warning", f"{free:.1f} GB free in {folder.resolve()}",
                     "Free disk space, lower train.<stage>.keep_last, or train from a folder on another disk.")
    return Check("disk", "ok", f"{free:.0f} GB free in {folder.resolve()}")


def check_folders(folder: Path) -> Check:
    """Whether what is written to can be written to."""
    refused = []
    for path in (folder / name for name in FOLDERS):
        there = next(part for part in (path, *path.absolute().parents) if part.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            refused.append(f"{path}: {error.strerror}")
    return judged("folders", "error", refused, "folders that cannot be written to",
                  f"{', '.join(FOLDERS)} can be written to",
                  "Give yourself the right to write there (chown, chmod), or train from another folder.")


def check_cores(workers: int) -> Check:
    """Cores that may be used, and threads that will be."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = CGROUP / "cpu.max"
    quota = limit.read_text().split() if limit.is_file() else ["max"]
    if quota[0] != "max":
        cores = min(cores, max(1, int(quota[0]) // int(quota[1])))
    threads = int(os.environ.get("OMP_NUM_THREADS") or cores)
    found = f"{cores} cores, {threads} threads, {workers} data workers"
    if threads > cores:
        return Check("cores", "warning", found, f"Set OMP_NUM_THREADS to {cores}: more threads than cores are slower.")
    if workers > cores:
        return Check("cores", "warning", found, f"Set data.workers to {cores} or less: more only wait for one another.")
    return Check("cores", "ok", found)


def check_shared_memory(workers: int) -> Check:
    """Where data workers leave their batches; containers give 64 MB."""
    if not SHARED_MEMORY.is_dir():
        return Check("shared memory", "ok", "this system has no /dev/shm")
    free = shutil.disk_usage(SHARED_MEMORY).free
    found = f"{free / GB:.2f} GB free in {SHARED_MEMORY}"
    if workers and free < 0.25 * GB:
        return Check("shared memory", "warning", found,
                     "Start the container with --shm-size=1g (or --ipc=host), or set data.workers to 0.")
    return Check("shared memory", "ok", found)


def _number(path: Path) -> int | None:
    """The number in a file of the control group; None if there is no file or no limit."""
    text = path.read_text().strip() if path.is_file() else "max"
    return None if text == "max" else int(text)
