"""Who waits for whom: the device for data, or the workers for the device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

STARVED = 0.05
"""Share of the time spent waiting for data from which on more workers are worth having."""


class LoaderStats:
    """Counts of one loader, from its first batch on, which also pays for the workers' start.

    Attributes:
        workers: processes that make batches; 0: the training process itself.
        samples: handed over.
        waited: seconds since the first batch in which the training process waited for a batch.
        worked: seconds the workers spent on the batches handed over, all workers together.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.samples = 0
        self.waited = 0.0
        self.worked = 0.0
        self._first: float | None = None

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The training process waits for its next batch inside this context."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if self._first is not None:
                self.waited += time.perf_counter() - start

    def add(self, samples: int, seconds: float) -> None:
        """A batch has come, which took a worker so many seconds."""
        if self._first is None:
            self._first = time.perf_counter()
            return
        self.samples += samples
        self.worked += seconds

    @property
    def seconds(self) -> float:
        """Since the first batch was handed over."""
        return 0.0 if self._first is None else time.perf_counter() - self._first

    @property
    def wait_share(self) -> float:
        """Share of the time in which the training process waited for data."""
        return min(1.0, self.waited / self.seconds) if self.samples else 0.0

    @property
    def busy_share(self) -> float:
        """Share of the workers' time that they spent on batches, the rest waiting for demand."""
        if not self.samples:
            return 0.0
        return min(1.0, self.worked / (self.seconds * max(1, self.workers)))

    def summary(self) -> str:
        """One line for people."""
        if not self.samples:
            return "data: not yet two batches"
        rate = self.samples / self.seconds
        counts = (
            f"data: {rate:.0f} images/s; training waits for data {100 * self.wait_share:.0f} % of "
            f"the time, {self.workers} workers are busy {100 * self.busy_share:.0f} %"
        )
        if self.wait_share < STARVED:
            return f"{counts}: the data side keeps up"
        if self.workers == 0:
            return f"{counts}: nothing is decoded ahead; raise data.workers"
        per_worker = self.samples / max(self.worked, 1e-9)
        unheld = self.seconds - self.waited
        wanted = max(self.workers + 1, round(self.samples / max(unheld, 1e-9) / per_worker + 0.5))
        return f"{counts}: training is held up by data; {wanted} workers would keep up"
