from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.datasets.proposals.filters import (
    BEYOND,
    ELONGATED,
    OVERLAPPING,
    SMALL,
    FilterSettings,
    overlaps,
    select,
)


def plain(boxes, rule: FilterSettings) -> list[int]:
    """ORL's filter as it is written: one proposal after the other, then the first so many."""
    kept: list[int] = []
    for number, (x1, y1, x2, y2) in enumerate(np.asarray(boxes, np.float64)):
        w, h = x2 - x1, y2 - y1
        if w < rule.min_side or h < rule.min_side:
            continue
        if w > rule.max_aspect * h or h > rule.max_aspect * w:
            continue
        for other in kept:
            a1, b1, a2, b2 = np.asarray(boxes[other], np.float64)
            wide, high = min(x2, a2) - max(x1, a1), min(y2, b2) - max(y1, b1)
            common = max(wide, 0) * max(high, 0)
            if common / (w * h + (a2 - a1) * (b2 - b1) - common) > rule.max_iou:
                break
        else:
            kept.append(number)
    kept = kept[: rule.top]
    return kept or ([0] if rule.keep_first and len(boxes) else [])


@st.composite
def proposals(draw):
    boxes = []
    for _ in range(draw(st.integers(0, 25))):
        x, y = draw(st.integers(0, 40)), draw(st.integers(0, 40))
        boxes.append([x, y, x + draw(st.integers(1, 40)), y + draw(st.integers(1, 40))])
    return np.array(boxes, np.float32).reshape(-1, 4)


rules = st.builds(
    FilterSettings,
    min_side=st.sampled_from([0.0, 5.0, 12.0]),
    max_aspect=st.sampled_from([1.0, 1.5, 3.0]),
    max_iou=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    top=st.integers(1, 10),
    keep_first=st.booleans(),
)


@given(proposals(), rules)
@settings(max_examples=300, deadline=None)
def test_the_filter_is_the_written_one(boxes, rule):
    kept, left_out = select(boxes, rule)
    assert kept.tolist() == plain(boxes, rule)
    rescued = len(kept) == 1 and sum(left_out.values()) == len(boxes)
    assert len(kept) + sum(left_out.values()) == len(boxes) + rescued


def test_the_limits_of_the_published_filter_are_inclusive():
    """96 px, an aspect of 3 and an overlap of a half may stay; beyond them, nothing."""
    boxes = np.array(
        [
            [0, 0, 96, 288],
            [0, 0, 95.9, 200],
            [200, 0, 296, 288.5],
            [0, 96, 96, 384],  # overlap 192 / 384: a half
            [0, 95, 96, 383],  # a little more
        ],
        np.float32,
    )
    kept, left_out = select(boxes, FilterSettings())
    assert kept.tolist() == [0, 3]
    assert left_out == {SMALL: 1, ELONGATED: 1, OVERLAPPING: 1, BEYOND: 0}


def test_a_hundred_are_kept_and_the_rest_is_counted():
    boxes = np.array([[100 * n, 0, 100 * n + 100, 100] for n in range(130)], np.float32)
    kept, left_out = select(boxes, FilterSettings())
    assert kept.tolist() == list(range(100))
    assert left_out[BEYOND] == 30


def test_where_nothing_survives_the_first_stands():
    boxes = np.array([[3, 4, 20, 30], [0, 0, 10, 10]], np.float32)
    kept, left_out = select(boxes, FilterSettings())
    assert kept.tolist() == [0]
    assert left_out[SMALL] == 2
    kept, _ = select(boxes, FilterSettings(keep_first=False))
    assert kept.tolist() == []
    kept, _ = select(np.empty((0, 4), np.float32), FilterSettings())
    assert kept.tolist() == []


def test_overlaps():
    box = np.array([0, 0, 10, 10], np.float32)
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4]], np.float32)
    np.testing.assert_allclose(overlaps(box, others), [1, 1 / 3, 0, 0.04])
