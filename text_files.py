"""Files of UTF-8 text."""

from pathlib import Path


def read_text(path: Path, what: str = "file") -> str:
    """The text of a file, without a byte order mark. ValueError if there is no such `what`, or if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such {what}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error
