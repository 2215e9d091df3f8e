"""What the processes of one command (`accelerate launch`) share: counts, sums, decisions, values of the main one.

Without a launcher there is one process, and nothing here communicates. All functions but `several` and `alone` are to
be called by all processes alike; they raise ValueError where another process has ended.
"""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from launcher import process_count

Value = TypeVar("Value")
PATIENCE = timedelta(days=7)
"""How long a process waits for the others: a validation that speaks many sentences takes the main one an hour, and the
launcher ends all processes when one of them fails."""

_alone = ContextVar("alone", default=False)


def on_cpu() -> bool:
    """Whether this machine's processes compute on its CPU: where it has no GPU, or ACCELERATE_USE_CPU is set."""
    return not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")


def join() -> torch.device:
    """Meets the other processes of this command, if there are any; the device of this one."""
    if process_count() == 1:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    from accelerate import PartialState  # here, as every network's module imports this one, and one process needs none

    if not dist.is_initialized():
        atexit.register(_leave)
    return PartialState(cpu=on_cpu(), timeout=PATIENCE).device


def use_own_gpu() -> None:
    """Makes "cuda" the GPU of this process of its machine, without meeting the others."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def several() -> bool:
    """Whether what is done now is done by several processes together."""
    return dist.is_initialized() and dist.get_world_size() > 1 and not _alone.get()


@contextmanager
def alone() -> Iterator[None]:
    """What is done in it is this process's own: nothing communicates."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def share(count: Tensor) -> Tensor:
    """What this process divides a sum by, so that the mean over processes is the mean of all they have together.

    `count`: how many it has itself (frames, tokens). DistributedDataParallel averages gradients over processes, and a
    mean of means would give a token of a short batch more weight than one of a long batch. At least 1 in all.
    """
    if not several():
        return count.clamp(min=1)
    total = count.detach().clone()
    dist.all_reduce(total)
    return total.clamp(min=1) / dist.get_world_size()


def add_up_(values: Tensor) -> None:
    """Puts the sum over processes in place of values; no gradient passes."""
    if several():
        dist.all_reduce(values)


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        # every process has the same loss of this sum; their gradients are averaged, where the sum is meant
        return gradient * dist.get_world_size()


def all_sum(values: Tensor) -> Tensor:
    """The sum over processes of what each has; its gradient is right after the processes' gradients are averaged."""
    return _AllSum.apply(values) if several() else values


def widest(x: Tensor) -> int:
    """The most columns (last dimension) that x has in any process."""
    if not several():
        return x.shape[-1]
    size = torch.tensor(x.shape[-1], device=x.device)
    dist.all_reduce(size, dist.ReduceOp.MAX)
    return int(size)


def rows_of_all(x: Tensor) -> Tensor:
    """The rows x (n, C) of all processes, as many as each has, in the order of the processes; no gradient passes."""
    if not several():
        return x
    counts = x.new_zeros(dist.get_world_size(), dtype=torch.long)
    counts[dist.get_rank()] = len(x)
    dist.all_reduce(counts)
    padded = x.new_zeros(int(counts.max()), x.shape[1])
    padded[: len(x)] = x.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts.tolist(), strict=True)])


def main_ones_(x: Tensor) -> Tensor:
    """x, overwritten by the main process's."""
    if several():
        dist.broadcast(x, src=0)
    return x


def any_of(flag: bool) -> bool:
    """Whether it is so in any process."""
    if not several():
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    value = torch.tensor(float(flag), device=device)
    with _ended_otherwise():
        dist.all_reduce(value)
    return bool(value)


def wait() -> None:
    """Until all processes have come so far."""
    any_of(False)


def from_main(value: Value) -> Value:
    """The main process's value; what the others give is not looked at."""
    if not several():
        return value
    values = [value]
    with _ended_otherwise():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def of_all(value: Value) -> list[Value]:
    """Every process's value, in order."""
    if not several():
        return [value]
    values: list = [None] * dist.get_world_size()
    with _ended_otherwise():
        dist.all_gather_object(values, value)
    return values


def to_main(value: Value) -> list[Value]:
    """Every process's value, in order, in the main process; an empty list in the others."""
    if not several():
        return [value]
    values: list | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    with _ended_otherwise():
        dist.gather_object(value, values)
    return values or []


@contextmanager
def _ended_otherwise() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ValueError(f"another process of this run has ended, see what it said ({str(error).splitlines()[0]})") \
            from error
