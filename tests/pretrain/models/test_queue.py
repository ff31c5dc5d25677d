"""The ring buffer of keys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretrain.models import Queue

GOLDEN = Path(__file__).resolve().parents[2] / "golden"


@given(
    size=st.integers(1, 12),
    batches=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    start=st.sampled_from(["random", "empty"]),
)
def test_enqueue__holds_the_newest_in_ring_order(size: int, batches: list[int], start: str) -> None:
    queue = Queue(size, 1, start=start)  # type: ignore[arg-type]
    ring: list[float | None] = [None] * size
    position = 0
    for batch in batches:
        values = [float(100 + position + i) for i in range(batch)]
        queue.enqueue(torch.tensor(values).view(-1, 1))
        for value in values:
            ring[position % size] = value
            position += 1
    assert int(queue.pointer) == position % size
    if start == "empty":
        assert queue.keys().flatten().tolist() == [v for v in ring if v is not None]
    else:
        for row, value in zip(queue.rows.flatten().tolist(), ring, strict=True):
            assert value is None or row == value


def test_enqueue__golden_official_moco() -> None:
    golden = np.load(GOLDEN / "moco_queue.npz")
    queue = Queue(16, 8)
    queue.rows.copy_(torch.from_numpy(golden["queue0"].T))
    for step, keys in enumerate(golden["keys"]):
        queue.enqueue(torch.from_numpy(keys))
        np.testing.assert_array_equal(queue.keys().numpy(), golden["ref32_queue"][step].T)
        assert int(queue.pointer) == golden["queue_ptr"][step]


def test_random_start__has_the_length_asked_for() -> None:
    queue = Queue(50, 8, length=0.7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(queue.keys().norm(dim=1), torch.full((50,), 0.7))


def test_state__resumes_in_mid_ring() -> None:
    queue, other = Queue(5, 2, start="empty"), Queue(5, 2)
    queue.enqueue(torch.ones(3, 2))
    other.load_state_dict(queue.state_dict())
    for each in (queue, other):
        each.enqueue(torch.full((4, 2), 2.0))
    assert torch.equal(queue.rows, other.rows)
    assert torch.equal(queue.keys(), other.keys())
