"""How far a command is: a bar on a terminal, a line now and then where the output is a file."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

LINE_SECONDS = 30.0
"""Between two lines where there is no terminal."""


class Interval:
    """Tells when it is time again.

    Args:
        seconds: between two times.
    """

    def __init__(self, seconds: float = LINE_SECONDS) -> None:
        self.seconds = seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether so much time has passed since this was last true, or since the start."""
        now = time.monotonic()
        if now - self._last < self.seconds:
            return False
        self._last = now
        return True


class Progress:
    """Counts what is done, on standard error.

    Args:
        unit: what is counted, such as ``images``.
        total: how many there are, where that is known.
    """

    def __init__(self, unit: str, total: int | None = None) -> None:
        self.unit, self.total = unit, total
        self._start = time.monotonic()
        self._interval = Interval()
        self._first: int | None = None
        self._bar: tqdm[None] | None = None

    def __call__(self, done: int, total: int | None = None) -> None:
        """Show that so many are done.

        Args:
            done: of all, those of an earlier call that was interrupted included.
            total: how many there are, where that was not known before.
        """
        self.total = self.total if total is None else total
        if self._first is None:
            self._first = done  # what was there before says nothing of the speed
        if sys.stderr.isatty():
            self._draw(done)
        elif self._interval.due() or done == self.total:
            print(self._line(done), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _draw(self, done: int) -> None:
        if self._bar is None:
            self._bar = tqdm(
                total=self.total, initial=done, unit=f" {self.unit}", leave=False, file=sys.stderr
            )
        self._bar.update(done - self._bar.n)
        if done == self.total:
            self.close()

    def _line(self, done: int) -> str:
        return str(
            tqdm.format_meter(
                done,
                self.total,
                time.monotonic() - self._start,
                initial=self._first or 0,
                bar_format=f"{self.unit}: {{n_fmt}}/{{total_fmt}}, {{elapsed}} passed, "
                "{remaining} left, {rate_fmt}"
                if self.total
                else f"{self.unit}: {{n_fmt}}, {{elapsed}} passed, {{rate_fmt}}",
            )
        )
