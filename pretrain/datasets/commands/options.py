"""What several subcommands share."""

from __future__ import annotations

import argparse
import os
import sys
import time

MAX_WORKERS = 8


def cores() -> int:
    """The cores this process may use, where the platform tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def positive(text: str) -> int:
    """An argument that is a number of things, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


class Progress:
    """A counter on the terminal, a few times a second; silent where there is no terminal."""

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what = what
        self.total = total
        self._shown = 0.0
        self._terminal = sys.stderr.isatty()

    def __call__(self, done: int) -> None:
        """Show that so many are done."""
        now = time.monotonic()
        if self._terminal and (now - self._shown > 0.2 or done == self.total):
            self._shown = now
            of = "" if self.total is None else f"/{self.total}"
            print(f"\r{self.what}: {done}{of}\033[K", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Clear the line."""
        if self._terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
