"""Signals to stop, also those that come before anybody listens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from pretrain.signals import StopFlag

BLOCKED = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
from pretrain.signals import StopFlag
os.kill(os.getpid(), signal.SIGUSR2)  # as during imports, under a launcher that blocks it
with StopFlag() as flag:
    assert flag.is_set
assert signal.SIGUSR2 in signal.pthread_sigmask(signal.SIG_BLOCK, ())
os.kill(os.getpid(), signal.SIGUSR2)  # too late: neither obeyed nor the end of the process
print("alive")
"""


def test_a_signal_before_and_after() -> None:
    # In a process of its own: here a thread that does not block the signal would be ended by it.
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGUSR2)
    with StopFlag() as flag:
        assert not flag.is_set
        os.kill(os.getpid(), signal.SIGUSR2)
        assert flag.is_set
    assert signal.getsignal(signal.SIGUSR2) == before
