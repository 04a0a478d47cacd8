import signal
import threading
from collections.abc import Iterator

import pytest

from pinxit.training.interrupts import Interrupts


@pytest.fixture
def _listening() -> Iterator[None]:
    """A shell starts what it puts into the background deaf to SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_listening")
def test_the_first_is_noted_the_second_acts_and_all_is_as_before() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        assert interrupts.signal is None
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_thread_that_may_not_listen_still_trains() -> None:
    failed = []

    def work() -> None:
        try:
            with Interrupts() as interrupts:
                assert interrupts.signal is None
        except ValueError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed
