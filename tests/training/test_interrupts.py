import signal
import threading

import pytest

from pinxit.training.interrupts import Interrupts


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
