"""What can be wrong with a text."""


class Unspeakable(ValueError):
    """A sentence that cannot be spoken: there is nothing in it to say, or it cannot be cut to fit. A longer text goes
    on without it."""
