"""What of the machine this process may use."""

from __future__ import annotations

import os

MAX_WORKERS = 8
"""Default limit of worker processes; more are seldom faster, and each has memory of its own."""


def cores() -> int:
    """The cores this process may use, where the platform tells, else all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_workers() -> int:
    """Worker processes of a command where ``--workers`` is not given."""
    return min(cores(), MAX_WORKERS)
