"""What every command line shares: logging to the console, and one clear sentence for a user's mistake."""

import logging
import sys
from collections.abc import Callable

from tqdm.contrib.logging import logging_redirect_tqdm


def run(main: Callable[[], None]) -> None:
    """Runs a script's `main`. A ValueError or OSError ends in one line `error: ...` and status 2, Ctrl-C in 130."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        with logging_redirect_tqdm():
            main()
    except (ValueError, OSError) as error:  # OSError: a full disk, a folder that may not be written
        logging.getLogger(__name__).debug("traceback", exc_info=True)
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
