"""How long steps take, and how much of it is waiting for data."""

from __future__ import annotations

import time
from collections.abc import Iterator

from pretrain.data.plan import Batch


class Clock:
    """Laps of steps."""

    def __init__(self) -> None:
        self._start, self._waited, self._steps = time.monotonic(), 0.0, 0

    def wait(self, batches: Iterator[Batch]) -> Batch:
        """The next batch."""
        before = time.monotonic()
        batch = next(batches)
        self._waited += time.monotonic() - before
        self._steps += 1
        return batch

    def leave_out(self, seconds: float) -> None:
        """Time of this lap that no step took."""
        self._start += seconds

    def lap(self) -> tuple[float, float, int]:
        """Seconds, seconds waited and steps since the last lap."""
        now = time.monotonic()
        lap = (max(now - self._start, 1e-9), self._waited, self._steps)
        self._start, self._waited, self._steps = now, 0.0, 0
        return lap
