"""What can be wrong with a text."""

SHOWN = 80  # characters


class Unspeakable(ValueError):
    """A sentence that cannot be spoken: there is nothing in it to say, or it cannot be cut to fit. A longer text goes
    on without it."""


def quoted(text: str) -> str:
    """The text in quotes for a message, or the beginning of a long one."""
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}..."
