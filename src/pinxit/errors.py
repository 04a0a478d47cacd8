"""The one error that a person is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST = 30
"""Names that are listed in full."""


class PinxitError(Exception):
    """A fault that the person at the keyboard can mend.

    Its text is the one line they see: what was given, what is allowed, what to do.
    """


def unknown(kind: str, given: str, allowed: Iterable[str]) -> PinxitError:
    """The error for a name that does not exist: points to the nearest and lists those that do, some where many do."""
    names = sorted(allowed)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(names) if len(names) <= MOST else f"{', '.join(names[:: len(names) // 8])} and more"
    return PinxitError(f"There is no {kind} {given!r}.{hint} Known: {listed or 'none'}.")
