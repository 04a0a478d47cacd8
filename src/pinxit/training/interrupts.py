"""Ctrl-C and SIGTERM: the step is finished, the run saved and left."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Stopped(Exception):  # noqa: N818
    """The run was asked to stop, and is saved. `signal` is what asked."""

    def __init__(self, step: int, number: int) -> None:
        super().__init__(f"Stopped after step {step} and saved. The same command goes on from there.")
        self.step = step
        self.signal = number


class Interrupts:
    """Notes the first signal in `signal`, for the loop to see after its step. The second one acts as ever."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self.before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.signal is None:
            self.signal = number
            return
        signal.signal(number, self.before[number])
        signal.raise_signal(number)
