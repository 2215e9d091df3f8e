"""Files of UTF-8 text, and of JSON in it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn


def read_text(path: Path, what: str = "file") -> str:
    """The text of a file, without a byte order mark. ValueError if there is no such `what`, if it cannot be read, or if
    it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{path}: no such {what}") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error
    except ValueError as error:  # a path with a NUL character, or with half a surrogate pair
        raise ValueError(f"{str(path)!r}: no such {what} ({error})") from error


def read_json(path: Path, what: str = "file", keys: Iterable[str] = ()) -> Any:
    """The value in a JSON file; an object with these `keys`, if there are any. ValueError as of `read_text`, and for
    what JSON does not define: a key given twice, NaN, Infinity."""
    text = read_text(path, what)
    try:
        value = json.loads(text, object_pairs_hook=_without_repetition, parse_constant=_not_a_number)
    except RecursionError as error:
        raise ValueError(f"{path}: not valid JSON: brackets inside brackets beyond all measure") from error
    except ValueError as error:  # also a number of thousands of digits
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if missing:
        raise ValueError(f"{path}: not a {what}, it has no {' and '.join(missing)}")
    return value


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in values if keys.count(key) > 1)
        raise ValueError(f"the key {repeated[:80]!r} is given {keys.count(repeated)} times in one section; leave one")
    return values


def _not_a_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
