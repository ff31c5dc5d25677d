from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as oracle

from pretrain.datasets.scenes.coco_writer import bounds, encode


def check(mask: np.ndarray) -> None:
    counts = encode(mask)
    rle = {"size": list(mask.shape), "counts": counts}
    assert np.array_equal(oracle.decode(rle), mask)
    assert counts.encode() == oracle.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    if mask.any():
        assert list(bounds(mask)) == list(oracle.toBbox(rle))
        assert int(mask.sum()) == int(oracle.area(rle))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.02, 0.5, 0.97]), st.integers(0, 999)
)
def test_agrees_with_pycocotools(height: int, width: int, share: float, seed: int) -> None:
    check(np.random.default_rng(seed).random((height, width)) < share)


@pytest.mark.parametrize("fill", [False, True])
def test_uniform_masks(fill: bool) -> None:
    check(np.full((7, 5), fill))


def test_long_runs_need_several_groups() -> None:
    mask = np.zeros((3000, 40), dtype=bool)
    mask[100:2900, 3:30] = True
    mask[5, 35] = True
    check(mask)


def test_corner_pixels() -> None:
    for y, x in ((0, 0), (0, 8), (5, 0), (5, 8)):
        mask = np.zeros((6, 9), dtype=bool)
        mask[y, x] = True
        check(mask)
        assert bounds(mask) == (x, y, 1, 1)
