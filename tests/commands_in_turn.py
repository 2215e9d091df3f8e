"""Runs several scripts in one process, one after the other: what a launcher starts in tests.

    torchrun --nproc-per-node 2 tests/commands_in_turn.py '[["train_llm", "-c", "config.json", "-m", "pair"]]'
"""

import json
import sys

from conftest import run_script

for name, *arguments in json.loads(sys.argv[1]):
    run_script(name, *arguments)
