import pytest

from pinxit import progress
from pinxit.progress import clock, shown, silent


class Time:
    """A clock that is set by hand."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(progress, "time", time)
    return time


def test_a_quiet_line_now_and_then(time: Time, capsys: pytest.CaptureFixture[str]) -> None:
    with shown("encoding") as tell:
        for done in range(0, 101, 10):
            tell(done, 100)
            time.now += 12
    assert capsys.readouterr().err.splitlines() == [
        "encoding  30/100  1:24 left",
        "encoding  60/100  0:48 left",
        "encoding  90/100  0:12 left",
    ]


def test_what_was_done_before_tells_nothing_of_the_speed(time: Time, capsys: pytest.CaptureFixture[str]) -> None:
    with shown("encoding") as tell:
        tell(90, 100)
        time.now += 40
        tell(91, 100)
    assert capsys.readouterr().err == "encoding  91/100  6:00 left\n"


def test_what_takes_no_time_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with shown("drawing") as tell, silent("drawing") as nothing:
        tell(1, 1)
        nothing(1, 1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.2, "1:00"), (3599, "59:59"), (3723, "1:02:03")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
