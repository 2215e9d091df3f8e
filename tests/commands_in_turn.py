"""Runs several scripts in one process, one after the other: what a launcher starts in tests.

    torchrun --nproc-per-node 2 tests/commands_in_turn.py '[["train_llm", "-c", "config.json", "-m", "pair"]]'

With "told_to_stop" before its name, the last of the processes is told to stop in the second step of a training.
"""

import json
import os
import signal
import sys

import pytest
from conftest import run_script

from launcher import process_count, process_index
from run_steps import RunSteps


def run(name: str, *arguments: str) -> None:
    if name != "told_to_stop":
        run_script(name, *arguments)
        return
    train_step = RunSteps.train_step

    def signalled_step(run: RunSteps, *parts) -> None:
        train_step(run, *parts)
        if run.step == 2 and process_index() == process_count() - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunSteps, "train_step", signalled_step)
        run_script(*arguments)


for command in json.loads(sys.argv[1]):
    run(*command)
