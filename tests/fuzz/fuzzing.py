"""What the fuzz tests share. Whatever is put in, the project takes it, or refuses it by a ValueError of its own whose
sentence names what is wrong; nothing else is raised, nothing takes long and nothing is left behind.

    python3 -m pytest tests/fuzz -q                                            # a few inputs of each, always the same
    python3 -m pytest tests/fuzz -q --hypothesis-profile=thorough              # thousands of each, at random
"""

import json
import math
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import currently_in_test_context, event
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
CPU_SECONDS = 30
"""For one input: what hangs is told from what is slow, however busy the machine is."""
LONGEST_MESSAGE = 4000


@contextmanager
def limited() -> Iterator[None]:
    """Stops what takes more than CPU_SECONDS of the process's time."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"still not done after {CPU_SECONDS} CPU seconds")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def tried(function: Callable, *arguments: Any, names: object = "", **options: Any) -> Any:
    """What the function gives; None if it refuses its arguments, which must be by our own ValueError, with `names` in
    its sentence."""
    try:
        with limited():
            result = function(*arguments, **options)
    except ValueError as error:
        message, raised_in = str(error), Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        assert raised_in.is_relative_to(ROOT), f"not a sentence of ours ({raised_in}): {message}"
        assert "site-packages" not in raised_in.parts, f"not a sentence of ours ({raised_in}): {message}"
        assert str(names) in message, f"does not name {names}: {message}"
        assert 10 < len(message) < LONGEST_MESSAGE, f"{len(message)} characters: {message[:200]}"
        note_outcome("refused")
        return None
    note_outcome("accepted")
    return result


def note_outcome(outcome: str) -> None:
    """For `--hypothesis-show-statistics`."""
    if currently_in_test_context():
        event(outcome)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from([0, -1, 1, 2, 3, 2**31, 2**63, 2**64, 10**400, 1e-320, 1e308, -0.0, math.inf, -math.inf, math.nan,
                     "", "\0", "\ud800", "..", "/", "/dev/null", ".", "a" * 5000]),
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner,
                                                                                        max_size=3), max_leaves=6)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths to everything in a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inside for place in places(part, (*path, key)))]


@st.composite
def changed_json(draw: st.DrawFn, source: Any, most: int = 3) -> Any:
    """`source` with some values exchanged for others, taken out, put elsewhere or under other names."""
    value = json.loads(json.dumps(source))
    for _ in range(draw(st.integers(1, most))):
        path = draw(st.sampled_from(places(value)[1:] or [()]))
        if not path:
            return draw(JSON)
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        old = parent[path[-1]]
        change = draw(st.sampled_from(["exchange", "exchange", "near", "remove", "wrap", "rename", "nest"]))
        if change == "exchange":
            parent[path[-1]] = draw(JSON)
        elif change == "near" and isinstance(old, int | float) and not isinstance(old, bool):
            parent[path[-1]] = draw(st.sampled_from([old + 1, old - 1, -old, old * 1000, old / 2, float(old), str(old),
                                                     [old]]))
        elif change == "wrap":
            parent[path[-1]] = draw(st.sampled_from([[old], {"kind": old}, {"": old}]))
        elif change == "nest":
            for _ in range(draw(st.sampled_from([3, 50]))):
                old = [old]
            parent[path[-1]] = old
        elif isinstance(parent, dict):
            del parent[path[-1]]
            if change == "rename":
                parent[draw(st.text(max_size=6) | st.just(str(path[-1]) + "s"))] = old
        else:
            del parent[path[-1]]
    return value


@st.composite
def damaged(draw: st.DrawFn, content: bytes, most: int = 4) -> bytes:
    """Bytes with some cut off, left out, put in, said twice or flipped."""
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, len(content)))
        change = draw(st.sampled_from(["cut", "drop", "insert", "flip", "flip", "flip", "twice", "number"]))
        if change == "cut":
            content = content[:at]
        elif change == "drop":
            content = content[:at] + content[at + draw(st.integers(1, 64)):]
        elif change == "insert":
            odd = [b"\xff", b"\0", b"\xef\xbb\xbf", b"\n", b"\r", b"|", b"\t", b"\xed\xa0\x80", b"\xe2\x80\xa8",
                   b"[" * 2000, b"1" * 5000, b"NaN", b"-Infinity"]
            content = content[:at] + draw(st.binary(max_size=16) | st.sampled_from(odd)) + content[at:]
        elif change == "twice":
            part = content[at : at + draw(st.integers(1, 200))]
            content = content[:at] + part + content[at:]
        elif change == "number":
            value = draw(st.sampled_from([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]))
            size = draw(st.sampled_from([2, 4, 8]))
            number = (value % 2 ** (8 * size)).to_bytes(size, draw(st.sampled_from(["little", "big"])))
            content = content[:at] + number + content[at + size:]
        elif at < len(content):
            content = content[:at] + bytes([content[at] ^ (1 << draw(st.integers(0, 7)))]) + content[at + 1:]
    return content
