"""What every command line shares: logging to the console, and one clear sentence for a user's mistake."""

import importlib.util
import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext


def run(main: Callable[[], None]) -> None:
    """Runs a script's `main`. A ValueError or OSError ends in one line `error: ...` and status 2, Ctrl-C in 130."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        with _beside_progress_bars():
            main()
    except (ValueError, OSError) as error:  # OSError: a full disk, a folder that may not be written
        logging.getLogger(__name__).debug("traceback", exc_info=True)
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


def _beside_progress_bars() -> AbstractContextManager:
    if importlib.util.find_spec("tqdm") is None:  # as before an installation, where doctor.py says what is missing
        return nullcontext()
    from tqdm.contrib.logging import logging_redirect_tqdm

    return logging_redirect_tqdm()
