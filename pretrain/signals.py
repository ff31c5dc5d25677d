"""Signals that ask a run to stop: noted at once, obeyed at a step boundary."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

# Slurm warns with SIGTERM or the signal of --signal; submitit uses SIGUSR2; SIGINT is Ctrl-C.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class StopFlag:
    """Inside ``with flag:``, ``flag.is_set`` tells whether a stop signal has come.

    A second Ctrl-C interrupts at once. A launcher may start the process with these signals
    blocked, so that one that comes during imports is not the end of it: it is noted here then.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._before: dict[int, Any] = {}
        self._blocked: set[int] = set()

    def __enter__(self) -> StopFlag:
        self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        self._blocked = set(signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS))
        return self

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)
        for number, handler in self._before.items():
            # Threads begun meanwhile do not block it: too late to be obeyed, no reason to die.
            if number not in self._blocked:
                signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.is_set:
            raise KeyboardInterrupt
        self.is_set = True
