from __future__ import annotations

import pytest

from pinxit.data.faults import Faults
from pinxit.data.sample import BadSample
from pinxit.errors import PinxitError


def fault(number: int, reason: str = "cut") -> BadSample:
    return BadSample(str(number), reason, f"Sample {number} is {reason}.")


def test_the_first_every_tenfold_and_each_new_reason_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    faults = Faults()
    for number in range(1, 101):
        faults.add(fault(number, "blank" if number == 40 else "cut"))
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        f"Skipped {number} bad samples so far" for number in (1, 10, 40, 100)
    ]
    assert caplog.records[-1].getMessage().endswith("(cut 99, blank 1). Last: Sample 100 is cut.")


@pytest.mark.parametrize(
    ("seen", "bad", "stops"), [(99, 99, False), (100, 5, False), (100, 6, True), (1000, 50, False)]
)
def test_the_limit(seen: int, bad: int, stops: bool) -> None:
    faults = Faults(0.05)
    faults.seen = seen
    for number in range(bad):
        faults.add(fault(number))
    if stops:
        with pytest.raises(PinxitError, match=r"6 of 100 \(cut 6\); at most 5% are allowed\. Last: Sample 5 is cut\."):
            faults.judge()
    else:
        faults.judge()
