"""The policy for bad samples: skipped, counted, named by reason, and loud above a limit."""

from __future__ import annotations

import logging
from collections import Counter

from pinxit.data.sample import BadSample
from pinxit.errors import PinxitError

logger = logging.getLogger(__name__)

LIMIT = 0.05
"""The share of bad samples that a source may have, by default."""

ENOUGH_TO_JUDGE = 100
"""Samples to have seen before the share says anything."""


class Faults:
    """Bad samples met so far, by reason. Logs the first, every tenfold and each new reason."""

    def __init__(self, limit: float = LIMIT) -> None:
        self.limit = limit
        self.seen = 0
        self.reasons: Counter[str] = Counter()
        self.last: BadSample | None = None

    def add(self, fault: BadSample) -> None:
        """Count this fault; its sample is counted in `seen` by the caller."""
        new = fault.reason not in self.reasons
        self.reasons[fault.reason] += 1
        self.last = fault
        bad = self.reasons.total()
        if new or bad == 10 ** (len(str(bad)) - 1):
            logger.warning("Skipped %d bad samples so far (%s). Last: %s", bad, self._listed(), fault)

    def judge(self) -> None:
        """Raise `PinxitError` where more than the limit of at least 100 samples were bad."""
        if self.seen >= ENOUGH_TO_JUDGE and self.reasons.total() > self.limit * self.seen:
            raise PinxitError(
                f"Too many bad samples: {self.reasons.total()} of {self.seen} ({self._listed()}); at most "
                f"{self.limit:.0%} are allowed. Last: {self.last} `pinxit data check` lists faulty ones."
            )

    def _listed(self) -> str:
        return ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common())
