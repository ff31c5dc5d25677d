"""ORL's pairs: the jittered box within an image, the matched boxes across two."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.core.errors import InputError
from pretrain.data.jitter import jitter
from pretrain.data.pairs import (
    Neighbor,
    Pair,
    PairTable,
    choose_pair,
    pair_stream,
    top_pairs,
)
from pretrain.data.plan import Crop, ViewPlan
from pretrain.data.views import ViewSettings, choose_regions, choose_windows


def iou(a, b) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    common = max(wide, 0) * max(high, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return common / (sum(areas) - common)


@st.composite
def boxes_in_images(draw):
    width, height = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x2, y2 = draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))
    return (x1, y1, x2, y2), (width, height)


@given(boxes_in_images(), st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_the_jittered_box_shares_more_than_half_and_lies_inside(image, seed):
    box, size = image
    other = jitter(box, size, np.random.default_rng(seed))
    assert other == jitter(box, size, np.random.default_rng(seed))
    assert 0 <= other[0] < other[2] <= size[0]
    assert 0 <= other[1] < other[3] <= size[1]
    assert iou(box, other) > 0.5


def test_the_jittered_box_is_distributed_as_written():
    """The rule of the published code, repeated without rounding and all at once."""
    trials, box, size = 3000, (200, 250, 500, 450), (800, 700)
    rng = np.random.default_rng(1)
    ours = np.array([jitter(box, size, rng) for _ in range(trials)], float)

    draws = 100_000
    rng = np.random.default_rng(2)
    w, h = 300, 200
    area = w * h * rng.uniform(0.5, 2, draws)
    aspect = np.exp(rng.uniform(math.log(0.5), math.log(2), draws))
    new = np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], 1)
    center = np.array([350, 350]) + rng.uniform(-0.5, 0.5, (draws, 2)) * [w, h]
    boxes = np.concatenate([center - new / 2, center + new / 2], 1)
    common = np.clip(
        np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2]), 0, None
    ).prod(1)
    good = common > 0.5 * (w * h + area - common)
    good &= (boxes[:, :2] >= 0).all(1) & (boxes[:, 2:] <= size).all(1)
    theirs = boxes[good]
    assert len(theirs) > trials
    for column in range(4):
        values = np.sort(theirs[:, column])
        place = np.searchsorted(values, ours[:, column]) / len(values)
        counts, _ = np.histogram(place, bins=10, range=(0, 1))
        expected = trials / 10
        # 9 degrees of freedom, 0.999, with room for the reference's own scatter
        assert ((counts - expected) ** 2 / expected).sum() < 27.9 * (1 + trials / len(values))


def test_a_box_that_cannot_be_jittered_stands_for_itself():
    # Absolute aspects of 1/2 to 2 never share half with a box of 1 x 50.
    assert jitter((3, 0, 4, 50), (10, 50), np.random.default_rng(0)) == (3, 0, 4, 50)


def test_intra_pair_is_the_object_and_a_jittered_box_of_its_own_for_each_crop():
    plan = ViewPlan(
        96,
        (
            Crop("roi", "object", random_resized=False),
            Crop("roi_2", "object_jittered", random_resized=False),
            Crop("roi_3", "object_jittered", random_resized=False),
        ),
    )
    boxes = np.array([[10, 10, 120, 110], [150, 40, 290, 190]], np.float32)
    size = (300, 200)
    chosen = []
    for row in range(60):
        windows, _, fallback = choose_windows(
            boxes, size, plan, ViewSettings(), seed=3, epoch=1, row=row
        )
        again, _, _ = choose_windows(boxes, size, plan, ViewSettings(), seed=3, epoch=1, row=row)
        assert windows == again
        assert not fallback
        assert windows["roi"] in [(10, 10, 120, 110), (150, 40, 290, 190)]
        chosen.append(windows["roi"])
        assert iou(windows["roi"], windows["roi_2"]) > 0.5
        assert windows["roi_2"] != windows["roi_3"]
    assert len(set(chosen)) == 2


@pytest.mark.parametrize(
    ("regions", "fallbacks"),
    [
        (("image",), [False, False, False]),
        (("image", "object"), [True, False, False]),
        (("object_jittered",), [True, False, False]),
        (("object_context", "scene"), [True, True, False]),
    ],
)
def test_a_fallback_is_what_the_plan_had_to_do_without(regions, fallbacks):
    plan = ViewPlan(8, tuple(Crop(name, name, random_resized=False) for name in regions))
    boxes = np.array([[0, 0, 60, 60], [20, 20, 90, 90]], np.float32)
    for count, expected in enumerate(fallbacks):
        found = choose_windows(
            boxes[:count], (100, 100), plan, ViewSettings(), seed=0, epoch=0, row=0
        )
        assert found[2] == expected


def official_scene(boxes, first: int, rng) -> tuple[int, ...]:
    """The published loader's scene of these boxes, as it is written, on a generator of ours."""
    count = len(boxes)
    taken = int(rng.integers(2, max(min(count, 6), 3)))
    chosen = rng.permutation(count)[:taken].tolist()
    if first not in chosen:
        chosen.append(first)
    part = boxes[chosen]
    return (*part[:, :2].min(0).tolist(), *part[:, 2:].max(0).tolist())


@pytest.mark.parametrize(
    ("count", "numbers"), [(2, {2}), (3, {2}), (4, {2, 3}), (5, {2, 3, 4}), (9, {2, 3, 4, 5})]
)
def test_official_number_of_boxes_in_the_scene(count, numbers):
    boxes = np.array([[100 * n, 0, 100 * n + 80, 80] for n in range(count)], np.float32)
    rule = ViewSettings(official_scene_count=True)
    seen = dict.fromkeys(numbers, 0)
    for seed in range(800):
        regions = choose_regions(boxes, (100 * count, 80), rule, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        first = int(rng.integers(count))
        assert regions.object == tuple(boxes[first])
        assert regions.scene == official_scene(boxes, first, rng)
        rng = np.random.default_rng(seed)
        rng.integers(count)
        seen[int(rng.integers(2, max(min(count, 6), 3)))] += 1
    share = 800 / len(numbers)
    # 0.999 quantiles of chi-square with 0, 1, 2, 3 degrees of freedom
    limit = {1: 1e-9, 2: 10.83, 3: 13.82, 4: 16.27}[len(numbers)]
    assert sum((number - share) ** 2 / share for number in seen.values()) < limit


def test_the_official_scene_is_another_one_than_ours():
    boxes = np.array([[100 * n, 0, 100 * n + 80, 80] for n in range(6)], np.float32)
    scenes = []
    for official in (False, True):
        rule = ViewSettings(official_scene_count=official)
        scenes.append(
            [
                choose_regions(boxes, (600, 80), rule, np.random.default_rng(seed)).scene
                for seed in range(50)
            ]
        )
    assert scenes[0] != scenes[1]


SIMILARITY = np.array([[0.1, 0.9, 0.3], [0.8, 0.2, 0.9], [0.0, 0.5, 0.7]])


@pytest.mark.parametrize(
    ("share", "pairs"),
    [
        (0.1, [(0, 1)]),  # of 3 regions less than one: one
        (0.7, [(0, 1), (1, 2)]),
        (1.0, [(0, 1), (1, 2), (1, 0)]),  # a region may come twice
    ],
)
def test_top_pairs_are_a_share_of_the_images_own_regions(share, pairs):
    rows, columns = top_pairs(SIMILARITY, share)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == pairs


def test_top_pairs_at_the_edges():
    rows, _ = top_pairs(np.ones((50, 3)))
    assert rows.tolist() == [0, 0, 0, 1, 1]
    rows, columns = top_pairs(np.ones((30, 1)), 1.0)
    assert rows.tolist() == list(range(30))
    assert set(columns.tolist()) == {0}
    assert len(top_pairs(np.ones((3, 0)))[0]) == 0


def table() -> PairTable:
    """Row 0: one pair with row 1, three with row 2. Row 1: none. Row 2: one with row 0."""

    def boxes(*lefts: float) -> np.ndarray:
        return np.array([[x, 0, x + 10, 10] for x in lefts], np.float32).reshape(-1, 4)

    return PairTable.build(
        "abc",
        [
            [Neighbor(1, boxes(1), boxes(2)), Neighbor(2, boxes(3, 4, 5), boxes(30, 40, 50.5))],
            [Neighbor(0, boxes(), boxes())],
            [Neighbor(0, boxes(7), boxes(8))],
        ],
    )


def size_of(row: int) -> tuple[int, int]:
    return [(40, 20), (12, 12), (60, 9)][row]


def test_a_pair_is_uniform_over_neighbors_and_then_over_their_pairs():
    counts: dict[Pair, int] = {}
    trials = 1200
    for epoch in range(trials):
        pair = choose_pair(table(), 0, size_of, pair_stream(5, epoch, 0))
        assert pair == choose_pair(table(), 0, size_of, pair_stream(5, epoch, 0))
        assert pair is not None
        counts[pair] = counts.get(pair, 0) + 1
    expected = {
        Pair((1, 0, 11, 10), 1, (2, 0, 12, 10), 0): trials / 2,
        Pair((3, 0, 13, 10), 2, (30, 0, 40, 9), 1): trials / 6,
        Pair((4, 0, 14, 10), 2, (40, 0, 50, 9), 2): trials / 6,
        Pair((5, 0, 15, 10), 2, (50, 0, 60, 9), 3): trials / 6,
    }
    assert set(counts) == set(expected)
    difference = sum((counts[pair] - wanted) ** 2 / wanted for pair, wanted in expected.items())
    assert difference < 16.27  # 3 degrees of freedom, 0.999


def test_a_row_without_pairs_has_none():
    assert choose_pair(table(), 1, size_of, pair_stream(0, 0, 1)) is None
    only = choose_pair(table(), 2, size_of, pair_stream(0, 0, 2))
    assert only == Pair((7, 0, 17, 9), 0, (8, 0, 18, 10), 4)


def test_a_table_is_written_and_mapped(tmp_path: Path):
    folder = tmp_path / "deep" / "pairs"
    table().write(folder)
    found = PairTable.open(folder)
    assert len(found) == 3
    assert found.fingerprint == "abc"
    for name in ("neighbour_offsets", "neighbours", "pair_offsets", "query", "key"):
        assert isinstance(getattr(found, name).base, np.memmap)
        np.testing.assert_array_equal(getattr(found, name), getattr(table(), name))
    with pytest.raises(InputError, match="cannot be written"):
        table().write(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["pairs"]


def test_faulty_tables_are_named(tmp_path: Path):
    folder = tmp_path / "pairs"
    with pytest.raises(InputError, match="no table of pairs here"):
        PairTable.open(folder)
    table().write(folder)
    meta = json.loads((folder / "pairs.json").read_text())
    (folder / "pairs.json").write_text(json.dumps(meta | {"version": 0}))
    with pytest.raises(InputError, match="of version 0"):
        PairTable.open(folder)
    (folder / "pairs.json").write_text(json.dumps(meta))
    np.save(folder / "key.npy", np.zeros((2, 4), np.float32))
    with pytest.raises(InputError, match=r"damaged table of pairs \(key\.npy holds"):
        PairTable.open(folder)
    (folder / "pairs.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        PairTable.open(folder)
