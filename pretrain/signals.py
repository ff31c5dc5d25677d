"""Signals that ask a run to stop: noted at once, obeyed at a step boundary."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

# Slurm warns with SIGTERM or the signal of --signal; submitit uses SIGUSR2; SIGINT is Ctrl-C.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class StopFlag:
    """Inside ``with flag:``, ``flag.is_set`` tells whether a stop signal has come.

    A second Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopFlag:
        self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.is_set:
            raise KeyboardInterrupt
        self.is_set = True
