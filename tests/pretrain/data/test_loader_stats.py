from __future__ import annotations

import time

import pytest

from pretrain.data import loader_stats
from pretrain.data.loader_stats import LoaderStats


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(loader_stats.time, "perf_counter", clock)
    return clock


def run(clock: Clock, workers: int, *, wait: float, compute: float, work: float) -> LoaderStats:
    """Eleven batches of 32, the first of which comes late, as it does."""
    found = LoaderStats(workers)
    for number in range(11):
        with found.waiting():
            clock.now += wait if number else 30
        found.add(32, work)
        clock.now += compute
    return found


def test_the_data_side_keeps_up(clock):
    found = run(clock, 4, wait=0.0, compute=1.0, work=1.0)
    assert found.samples == 320
    assert found.wait_share == 0
    assert found.busy_share == pytest.approx(10 / (4 * 11))
    assert found.summary().endswith("keeps up")


def test_training_is_held_up(clock):
    """Batches need 3 s of a worker; two give one every 1.5 s, the device takes one a second."""
    found = run(clock, 2, wait=0.5, compute=1.0, work=3.0)
    assert found.wait_share == pytest.approx(5 / 16)
    assert found.busy_share == pytest.approx(30 / 32)
    assert "training waits for data 31 %" in found.summary()
    assert found.summary().endswith("3 workers would keep up")


def test_without_workers(clock):
    found = run(clock, 0, wait=1.0, compute=1.0, work=1.0)
    assert found.wait_share == pytest.approx(10 / 21)
    assert "raise data.workers" in found.summary()


def test_before_there_is_anything_to_say():
    found = LoaderStats(2)
    assert found.summary() == "data: not yet two batches"
    assert found.wait_share == found.busy_share == found.seconds == 0
    with found.waiting():
        time.sleep(0.001)
    assert found.waited == 0
