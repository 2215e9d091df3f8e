"""What every command line shares: logging to the console, and one clear sentence for a user's mistake."""

import logging
import sys
from collections.abc import Callable

from tqdm.contrib.logging import logging_redirect_tqdm


def run(main: Callable[[], None]) -> None:
    """Runs a script's `main`; a ValueError is printed as `error: ...` and ends the process with status 2."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        with logging_redirect_tqdm():
            main()
    except ValueError as error:
        logging.getLogger(__name__).debug("traceback", exc_info=True)
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
