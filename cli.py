"""What every command line shares: logging to the console, one clear sentence for a user's mistake, and the arguments
that all training scripts have."""

import argparse
import importlib.util
import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from launcher import is_main, process_index


def run(main: Callable[[], None]) -> None:
    """Runs a script's `main`. A ValueError or OSError ends in one line `error: ...` and status 2, as does a want of
    memory, Ctrl-C in 130.

    Of several processes, those but the main one say only what goes wrong, and who they are.
    """
    who, level = ("", logging.INFO) if is_main() else (f"[process {process_index()}] ", logging.WARNING)
    logging.basicConfig(level=level, format=f"%(asctime)s {who}%(message)s", datefmt="%H:%M:%S")
    try:
        with _beside_progress_bars():
            main()
    except (ValueError, OSError) as error:  # OSError: a full disk, a folder that may not be written
        logging.getLogger(__name__).debug("traceback", exc_info=True)
        sys.stderr.write(f"error: {who}{error}\n")
        sys.exit(2)
    except MemoryError as error:
        sys.stderr.write(f"error: {who}out of memory ({error}); take smaller inputs or settings, or a larger machine\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


def _beside_progress_bars() -> AbstractContextManager:
    if importlib.util.find_spec("tqdm") is None:  # as before an installation, where doctor.py says what is missing
        return nullcontext()
    from tqdm.contrib.logging import logging_redirect_tqdm

    return logging_redirect_tqdm()


def stage_arguments(description: str) -> argparse.ArgumentParser:
    """The command line that every training script has."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("-c", "--config", required=True, help="JSON config, e.g. configs/ipa_tts.json")
    parser.add_argument("-m", "--model", required=True, help="name of the model: checkpoints/<model>, logs/<model>")
    parser.add_argument("--resume", default="auto", help="auto (go on where a checkpoint is), none, or a G file")
    parser.add_argument("--weights-from", metavar="G_FILE",
                        help="start from the weights of another run, or of an exported voice's folder (fine-tuning)")
    parser.add_argument("--max-steps", type=positive, help="stop at this step instead of the config's max_steps")
    parser.add_argument("--test-mode", action="store_true", help="10 steps on a handful of clips")
    parser.add_argument("--profile", action="store_true", help="say at the end where a step's time goes")
    return parser


def positive(value: str) -> int:
    """For argparse: a whole number over 0, as large as a config's."""
    if not 1 <= int(value) < 2**31:
        raise argparse.ArgumentTypeError(f"{value[:80]}: must be at least 1 and less than {2**31}")
    return int(value)
