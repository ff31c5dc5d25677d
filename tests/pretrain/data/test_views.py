from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from pretrain.core.errors import InputError
from pretrain.core.settings import parse
from pretrain.data import random_streams
from pretrain.data.plan import Crop, ViewPlan
from pretrain.data.views import (
    ViewSettings,
    blank_views,
    choose_regions,
    choose_windows,
    cut,
    random_resized,
    resize,
    scaled,
    whole_pixels,
)

PLAN = ViewPlan(
    32,
    (
        Crop("first", "object_context", random_resized=True),
        Crop("second", "object_context", random_resized=True),
        Crop("object", "object", random_resized=False),
        Crop("scene", "scene", random_resized=False),
        Crop("image", "image", random_resized=True),
    ),
)
SMALL = ViewSettings(size=32, min_box_area=0, context=40)


@st.composite
def images(draw, least=0, most=9):
    """A size and boxes inside it."""
    width, height = draw(st.integers(4, 200)), draw(st.integers(4, 200))
    boxes = []
    for _ in range(draw(st.integers(least, most))):
        x = sorted(draw(st.tuples(st.floats(0, width - 1), st.floats(0, width - 1))))
        y = sorted(draw(st.tuples(st.floats(0, height - 1), st.floats(0, height - 1))))
        boxes.append([x[0], y[0], x[1] + 1, y[1] + 1])
    return (width, height), np.array(boxes, np.float32).reshape(-1, 4)


def contains(outer, inner) -> bool:
    return (
        outer[0] <= inner[0]
        and outer[1] <= inner[1]
        and outer[2] >= inner[2]
        and outer[3] >= inner[3]
    )


def inside(window, size) -> bool:
    return contains((0, 0, *size), window) and window[0] < window[2] and window[1] < window[3]


def area(window) -> int:
    return (window[2] - window[0]) * (window[3] - window[1])


@given(images(), st.integers(0, 2**32), st.integers(1, 150), st.integers(2, 4), st.integers(4, 7))
@settings(max_examples=300, deadline=None)
def test_regions_follow_the_rule(image, seed, context, least, most):
    size, boxes = image
    rule = ViewSettings(
        min_box_area=100, context=context, min_boxes=least, scene_boxes=(least, most)
    )
    regions = choose_regions(boxes, size, rule, np.random.default_rng(seed))
    for window in (regions.object, regions.object_context, regions.scene):
        assert inside(window, size)
    assert contains(regions.scene, regions.object)
    assert contains(regions.object_context, regions.object)

    valid = [box for box in boxes if (box[2] - box[0]) * (box[3] - box[1]) >= 100]
    windows = [tuple(window) for window in whole_pixels(np.array(valid).reshape(-1, 4), size)]
    assert regions.fallback == (len(valid) < least)
    if valid:
        assert regions.object in windows
    else:
        # Rounding moves each side by at most half a pixel.
        share = area(regions.object) / (size[0] * size[1])
        slack = 0.5 * (1 / size[0] + 1 / size[1]) + 0.25 / (size[0] * size[1])
        assert 0.1 - slack <= share <= 0.4 + slack
    if regions.fallback:
        assert regions.scene == (0, 0, *size)
    # No side moves by more than the object lacks.
    o, c = regions.object, regions.object_context
    for low, high in ((0, 2), (1, 3)):
        lacks = max(0, context - (o[high] - o[low]))
        assert o[low] - c[low] <= lacks
        assert c[high] - o[high] <= lacks
    if area(o) >= context**2:
        assert c == o


def test_scene_is_the_union_of_the_object_and_k_minus_1_others():
    # Boxes on a diagonal: a union tells its first and last box, so k can be bounded, and with
    # two boxes it is exact.
    boxes = np.array([[20 * n, 20 * n, 20 * n + 15, 20 * n + 15] for n in range(8)], np.float32)
    rule = ViewSettings(min_box_area=0, scene_boxes=(2, 3))
    spans = []
    for seed in range(300):
        regions = choose_regions(boxes, (160, 160), rule, np.random.default_rng(seed))
        first, last = regions.scene[0] // 20, (regions.scene[2] - 15) // 20
        assert regions.scene == (20 * first, 20 * first, 20 * last + 15, 20 * last + 15)
        assert first <= regions.object[0] // 20 <= last
        spans.append(last - first + 1)
    assert min(spans) == 2
    assert max(spans) == 8


@pytest.mark.parametrize(
    ("count", "expected"), [(2, {2}), (3, {2, 3}), (5, {2, 3, 4, 5}), (9, {2, 3, 4, 5, 6})]
)
def test_number_of_boxes_in_the_scene_is_uniform(count, expected):
    """The written rule, repeated here on the same stream, and how often it gives each number."""
    boxes = np.array([[10 * n, 0, 10 * n + 8, 8] for n in range(count)], np.float32)
    seen = dict.fromkeys(expected, 0)
    trials = 1000
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        regions = choose_regions(boxes, (10 * count, 8), SMALL, rng)
        first = int((rng := np.random.default_rng(seed)).integers(count))
        taken = int(rng.integers(2, min(count, 6), endpoint=True))
        others = rng.permutation([n for n in range(count) if n != first])[: taken - 1]
        chosen = [first, *others]
        assert len(set(chosen)) == taken
        assert regions.scene == (10 * min(chosen), 0, 10 * max(chosen) + 8, 8)
        assert regions.object == (10 * first, 0, 10 * first + 8, 8)
        seen[taken] += 1
    share = trials / len(expected)
    # 0.999 quantiles of chi-square with 0, 1, 3, 4 degrees of freedom
    limit = {1: 1e-9, 2: 10.83, 4: 16.27, 5: 18.47}[len(expected)]
    assert sum((number - share) ** 2 / share for number in seen.values()) < limit


def test_object_is_uniform_over_the_valid_boxes():
    boxes = np.array([[9 * n, 0, 9 * n + 8, 8] for n in range(7)] + [[0, 0, 1, 1]], np.float32)
    rule = ViewSettings(min_box_area=64)
    counts = np.zeros(7)
    for row in range(3500):
        rng = random_streams.generator(0, 0, row, random_streams.REGIONS)
        counts[choose_regions(boxes, (64, 8), rule, rng).object[0] // 9] += 1
    assert ((counts - 500) ** 2 / 500).sum() < 22.46  # 6 degrees of freedom, 0.999


def test_boxes_of_the_least_area_are_valid():
    boxes = np.array([[0, 0, 56, 56], [0, 0, 56, 55.9], [10, 10, 66, 66.5]], np.float32)
    objects = {
        choose_regions(boxes, (100, 100), ViewSettings(), np.random.default_rng(n)).object
        for n in range(50)
    }
    assert objects == {(0, 0, 56, 56), (10, 10, 66, 67)}


def test_one_valid_box_is_the_object_of_the_whole_image():
    boxes = np.array([[5, 6, 70, 80]], np.float32)
    regions = choose_regions(boxes, (100, 90), ViewSettings(), np.random.default_rng(0))
    assert regions.object == (5, 6, 70, 80)
    assert regions.scene == (0, 0, 100, 90)
    assert regions.fallback


def test_window_bug_of_the_published_code():
    """A wide flat box: 250 px wide, 60 high; its width lacks 6 px, its height 196."""
    boxes = np.array([[100, 300, 350, 360], [100, 300, 350, 360]], np.float32)
    bottoms: dict[bool, list[int]] = {}
    tops: dict[bool, list[int]] = {}
    for bug in (False, True):
        rule = ViewSettings(official_window_bug=bug)
        contexts = [
            choose_regions(boxes, (800, 800), rule, np.random.default_rng(n)).object_context
            for n in range(400)
        ]
        bottoms[bug] = [context[3] - 360 for context in contexts]
        tops[bug] = [300 - context[1] for context in contexts]
    assert min(bottoms[False]) < 5
    assert 185 < max(bottoms[False]) <= 196
    assert set(bottoms[True]) == set(range(7))
    assert 185 < max(tops[True]) <= 196
    assert tops[True] == tops[False]


def test_whole_pixels():
    boxes = np.array([[0.2, 1.9, 3.1, 4.0], [9.7, 5, 10, 5.001], [0, 0, 10, 6]], np.float32)
    np.testing.assert_array_equal(
        whole_pixels(boxes, (10, 6)), [[0, 1, 4, 4], [9, 5, 10, 6], [0, 0, 10, 6]]
    )


@pytest.mark.parametrize("region", [(0, 0, 640, 480), (10, 20, 600, 160), (0, 0, 100, 900)])
def test_random_crop_is_distributed_as_torchvisions(region):
    trials = 4000
    width, height = region[2] - region[0], region[3] - region[1]
    rng = np.random.default_rng(0)
    mine = np.array([random_resized(region, ViewSettings(), rng) for _ in range(trials)])
    blank = torch.zeros(1, height, width)
    torch.manual_seed(0)
    theirs = np.array(
        [RandomResizedCrop.get_params(blank, (0.2, 1.0), (3 / 4, 4 / 3)) for _ in range(trials)]
    )
    ours = {
        "top": mine[:, 1] - region[1],
        "left": mine[:, 0] - region[0],
        "height": mine[:, 3] - mine[:, 1],
        "width": mine[:, 2] - mine[:, 0],
    }
    for column, values in enumerate(ours.values()):
        # The greatest distance of two empirical distributions of n values each exceeds
        # 1.95 sqrt(2 / n) once in a thousand.
        both = np.concatenate([values, theirs[:, column]])
        distance = max(
            abs((values <= v).mean() - (theirs[:, column] <= v).mean()) for v in np.unique(both)
        )
        assert distance < 1.95 * math.sqrt(2 / trials)
    assert all(inside(np.subtract(m, [*region[:2]] * 2), (width, height)) for m in mine)


def test_random_crop_area_and_aspect_are_uniform():
    """Inside a large square with little area wanted no attempt fails: the law shows bare."""
    rule = ViewSettings(scale=(0.1, 0.5), ratio=(0.5, 2.0))
    rng = np.random.default_rng(3)
    crops = np.array([random_resized((0, 0, 10000, 10000), rule, rng) for _ in range(5000)])
    w, h = crops[:, 2] - crops[:, 0], crops[:, 3] - crops[:, 1]
    uniform = [(w * h / 1e8 - 0.1) / 0.4, (np.log(w / h) / math.log(2) + 1) / 2]
    for values in uniform:
        counts, _ = np.histogram(values, bins=20, range=(-1e-3, 1 + 1e-3))
        assert counts.sum() == 5000
        assert ((counts - 250) ** 2 / 250).sum() < 43.8  # 19 degrees of freedom, 0.999


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 100))
@settings(deadline=None)
def test_random_crop_of_a_few_pixels(width, height, seed):
    crop = random_resized((3, 4, 3 + width, 4 + height), SMALL, np.random.default_rng(seed))
    assert inside(np.subtract(crop, [3, 4, 3, 4]), (width, height))


def some_image(width=100, height=80) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(5).integers(0, 256, (3, height, width), dtype=np.uint8)
    )


BOXES = np.array([[5, 5, 40, 60], [30, 20, 90, 70], [60, 5, 95, 35]], np.float32)


def test_cut_is_a_pure_function_of_seed_epoch_and_row():
    image = some_image()
    first = cut(image, BOXES, PLAN, SMALL, seed=1, epoch=2, row=3)
    again = cut(image, BOXES, PLAN, SMALL, seed=1, epoch=2, row=3)
    assert first.windows == again.windows
    assert list(first.images) == ["first", "second", "object", "scene", "image"]
    for name, view in first.images.items():
        assert view.dtype == torch.uint8
        assert view.shape == (3, 32, 32)
        assert torch.equal(view, again.images[name])
        assert first.generators[name].random() == again.generators[name].random()
    for other in ({"seed": 2}, {"epoch": 3}, {"row": 4}):
        different = cut(image, BOXES, PLAN, SMALL, **({"seed": 1, "epoch": 2, "row": 3} | other))
        assert different.windows != first.windows


def test_crops_of_one_region_share_it_but_not_the_random_part():
    for row in range(20):
        windows, generators, _ = choose_windows(
            BOXES, (100, 80), PLAN, SMALL, seed=0, epoch=0, row=row
        )
        regions = choose_regions(
            BOXES, (100, 80), SMALL, random_streams.generator(0, 0, row, random_streams.REGIONS)
        )
        assert windows["object"] == regions.object
        assert windows["scene"] == regions.scene
        for name in ("first", "second"):
            assert contains(regions.object_context, windows[name])
        assert windows["first"] != windows["second"]
        assert len({generator.random() for generator in generators.values()}) == 5


def test_a_view_does_not_depend_on_the_views_after_it():
    image = some_image()
    short = ViewPlan(32, PLAN.crops[:2])
    all_views = cut(image, BOXES, PLAN, SMALL, seed=0, epoch=0, row=0)
    some_views = cut(image, BOXES, short, SMALL, seed=0, epoch=0, row=0)
    for name in ("first", "second"):
        assert torch.equal(all_views.images[name], some_views.images[name])


@pytest.mark.parametrize("window", [(0, 0, 100, 80), (20, 10, 90, 70), (3, 3, 20, 9)])
@pytest.mark.parametrize("layout", ["planar", "interleaved"])
def test_resize_is_that_of_pillow(window, layout):
    """Crop, then antialiased bilinear: within 1 of 255 of Pillow everywhere."""
    image = some_image()
    if layout == "interleaved":
        image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    view = resize(image, window, 32)
    crop = Image.fromarray(image.permute(1, 2, 0).numpy()).crop(window)
    expected = np.asarray(crop.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(view.numpy().astype(int) - expected).max() <= 1


def test_resize_of_a_view_of_the_right_size_copies():
    image = some_image()
    view = resize(image, (10, 10, 42, 42), 32)
    assert torch.equal(view, image[:, 10:42, 10:42])
    view.zero_()
    assert image[:, 10:42, 10:42].any()


@pytest.mark.parametrize("window", [(0, 0, 100, 80), (20, 10, 90, 70), (10, 10, 42, 42)])
@pytest.mark.parametrize("layout", ["planar", "interleaved"])
def test_resize_into_memory_that_is_there(window, layout):
    image = some_image()
    if layout == "interleaved":
        image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    block = blank_views(3, 32).fill_(7)
    returned = resize(image, window, 32, out=block[1])
    assert returned.data_ptr() == block[1].data_ptr()
    assert torch.equal(block[1], resize(image, window, 32))
    assert (block[0] == 7).all()
    assert (block[2] == 7).all()


@given(
    st.tuples(st.integers(1, 900), st.integers(1, 900)),
    st.tuples(st.integers(1, 900), st.integers(1, 900)),
    st.data(),
)
@settings(deadline=None)
def test_scaled_windows(size, to, data):
    x = sorted(data.draw(st.lists(st.integers(0, size[0]), min_size=2, max_size=2, unique=True)))
    y = sorted(data.draw(st.lists(st.integers(0, size[1]), min_size=2, max_size=2, unique=True)))
    window = (x[0], y[0], x[1], y[1])
    found = scaled(window, size, to)
    assert inside(found, to)
    assert scaled((0, 0, *size), size, to) == (0, 0, *to)
    assert scaled(window, size, size) == window
    for place in range(4):
        exact = window[place] * to[place % 2] / size[place % 2]
        assert abs(found[place] - exact) <= 1


@pytest.mark.parametrize(
    "values",
    [
        {"scale": [0.0, 1.0]},
        {"scale": [0.9, 0.2]},
        {"ratio": [2.0, 1.0]},
        {"scene_boxes": [0, 3]},
        {"scene_boxes": [4, 3]},
        {"min_boxes": 1},
        {"context": 0},
        {"size": 0},
        {"min_box_area": -1},
        {"officialwindowbug": True},
    ],
)
def test_impossible_settings(values):
    with pytest.raises(InputError, match=r"x\.yaml: "):
        parse(ViewSettings, values, source="x.yaml", at="views")
