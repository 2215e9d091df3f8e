"""One check, and the table of many."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

STATES = ("ok", "warning", "error")
WIDTH = 120
SHOWN = 3
"""Places of each check in the table; the JSON has them all."""


@dataclass(frozen=True)
class Check:
    """What was found, how bad it is, and what mends it."""

    name: str
    state: Literal["ok", "warning", "error"]
    found: str
    mend: str = ""
    """One sentence; empty if all is well."""
    places: list[str] = field(default_factory=list)
    """Where: `path: what`."""


def judged(name: str, state: Literal["warning", "error"], places: list[str], found: str, fine: str, mend: str) -> Check:
    """A check that is `fine` if there are no places; `found`: what these are."""
    return Check(name, state, f"{found}: {len(places)}", mend, places) if places else Check(name, "ok", fine)


def worst(checks: Sequence[Check]) -> str:
    """The worst state of all."""
    return max((check.state for check in checks), key=STATES.index, default="ok")


def table(title: str, checks: Sequence[Check]) -> str:
    """The checks for people to read, what must be mended below each."""
    wide = max(len(check.name) for check in checks)
    lines = [title]
    for check in checks:
        head = f"  {check.state:8} {check.name:{wide}}  "
        lines += textwrap.wrap(check.found, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
        below = " " * len(head)
        lines += [f"{below}- {place}" for place in check.places[:SHOWN]]
        if len(check.places) > SHOWN:
            lines.append(f"{below}- ... and {len(check.places) - SHOWN} more (--json FILE names all)")
        if check.mend:
            lines += textwrap.wrap(f"mend: {check.mend}", WIDTH, initial_indent=below, subsequent_indent=below)
    return "\n".join(lines)
