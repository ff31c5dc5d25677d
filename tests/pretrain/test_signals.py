"""Signals to stop, also those that come before anybody listens."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from pretrain.signals import StopFlag


@pytest.fixture
def _blocked() -> Iterator[None]:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    yield
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # drops one that is pending
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)


@pytest.mark.usefixtures("_blocked")
def test_a_signal_before_and_after() -> None:
    os.kill(os.getpid(), signal.SIGUSR2)  # as during imports, under a launcher that blocks it
    with StopFlag() as flag:
        assert flag.is_set
    assert signal.SIGUSR2 in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    os.kill(os.getpid(), signal.SIGUSR2)  # too late: neither obeyed nor the end of the process


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGUSR2)
    with StopFlag() as flag:
        assert not flag.is_set
        os.kill(os.getpid(), signal.SIGUSR2)
        assert flag.is_set
    assert signal.getsignal(signal.SIGUSR2) == before
