"""Which of the processes of one command this is, as `accelerate launch` and `torchrun` say it: without PyTorch."""

import os
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def process_index() -> int:
    """0 is the main process, or the only one."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the one process that writes what there is one of."""
    return process_index() == 0


def own_part(items: Sequence[Item]) -> Sequence[Item]:
    """Every n-th item, from this process's own on: each item is one process's, and neighbours are different ones'."""
    return items[process_index() :: process_count()]
