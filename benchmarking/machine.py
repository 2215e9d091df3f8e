"""The device that is measured, and how its time and memory are taken."""

import platform
import resource
import sys
import time
from collections.abc import Callable

import torch

from config import Config, StageConfig

COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}  # far beyond any cache
MATRIX_SIZE = {"cpu": 2048, "cuda": 8192}
REPEATS = 5
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def clock() -> str:
    """What time is taken: with one CPU thread its own, which others on the machine disturb least."""
    return "CPU time" if device().type == "cpu" and torch.get_num_threads() == 1 else "wall time"


def now() -> float:
    """Seconds on the clock, the GPU's work done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.process_time() if clock() == "CPU time" else time.perf_counter()


def seconds_of(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = now()
    function()
    return now() - started


def peak_memory_gb() -> float:
    """The most that tensors took on the GPU (without the CUDA context), else the most this process had resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def precision_of(stage: StageConfig) -> str:
    """The stage's precision; fp16, which is not for training on CPUs, is fp32 there."""
    return "fp32" if stage.precision == "fp16" and device().type == "cpu" else stage.precision


def measure_machine(config: Config) -> dict:
    """Name, memory bandwidth (a large copy, bytes read and written) and FLOP/s of a matrix product in each precision
    that the config trains in; each the best of 5."""
    kind, cuda = device().type, device().type == "cuda"
    cpu_name = torch.cpu.get_capabilities().get("cpu_name", platform.machine())
    name = torch.cuda.get_device_name() if cuda else cpu_name
    source = torch.ones(COPY_BYTES[kind] // 4, device=kind)
    target = torch.ones_like(source)
    copy_seconds = min(seconds_of(lambda: target.copy_(source)) for _ in range(REPEATS))
    return {
        "device": kind,
        "name": name,
        "threads": torch.get_num_threads(),
        "clock": clock(),
        "torch": torch.__version__,
        "bandwidth_gb_per_second": 2 * source.nbytes / copy_seconds / 1e9,
        "matmul_tflops": {
            precision: matmul_tflops(MATRIX_SIZE[kind], DTYPES[precision])
            for precision in sorted({"fp32", *(precision_of(stage) for _, stage in config.train)})
        },
        "memory": "peak of the CUDA allocator" if cuda else "peak RSS of the process, about 0.4 GB of it libraries",
    }


def matmul_tflops(n: int, dtype: torch.dtype) -> float:
    """TFLOP/s of an n x n matrix product, best of 5."""
    matrix = torch.randn(n, n, device=device(), dtype=dtype)
    return 2 * n**3 / min(seconds_of(lambda: matrix @ matrix) for _ in range(REPEATS)) / 1e12
