"""How long work tells how far it is: as a callback, which a person sees as a bar or as quiet lines."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

Progress = Callable[[int, int], None]
"""Called with (done, in all)."""

QUIET_SECONDS = 30.0
"""Without a terminal a line appears this often at most."""


@contextmanager
def shown(label: str) -> Iterator[Progress]:
    """A bar on a terminal; elsewhere a line now and then, and none for what is done sooner."""
    bar: tqdm[Any]
    with tqdm(desc=label, disable=None, leave=False) as bar:
        spoken = time.monotonic()
        first: tuple[float, int] | None = None

        def progress(done: int, total: int) -> None:
            nonlocal first, spoken
            now = time.monotonic()
            began, before = first = first or (now, done)  # what an earlier run has done took this one no time
            bar.total = total
            bar.update(done - bar.n)
            if bar.disable and now - spoken >= QUIET_SECONDS and done > before:
                spoken = now
                left = clock((now - began) * (total - done) / (done - before))
                print(f"{label}  {done}/{total}  {left} left", file=sys.stderr, flush=True)

        yield progress


@contextmanager
def silent(label: str) -> Iterator[Progress]:  # noqa: ARG001
    """Nothing at all."""
    yield lambda done, total: None  # noqa: ARG005


def clock(seconds: float) -> str:
    """1:23, or 1:02:03 from an hour on."""
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
