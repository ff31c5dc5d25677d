from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pretrain.core.errors import InputError
from pretrain.data.batches import choose_row
from pretrain.data.index import Index
from pretrain.data.views import ViewSettings, count_objects
from pretrain.datasets.index_writer import build_index
from pretrain.datasets.readers import coco

OFFICIAL = ViewSettings(min_box_area=0, resample_weak_images=True)


@pytest.fixture
def index(make_coco: Callable, tmp_path: Path) -> Index:
    """Ten images; row ``i`` has ``i % 5`` boxes, so rows 0, 1, 5 and 6 are weak."""
    folder = make_coco(10)
    return build_index(coco.read(folder.annotations, folder.images), tmp_path / "index")


def test_strong_images_and_the_default_are_left_alone(index):
    for row in range(10):
        chosen = choose_row(index, ViewSettings(min_box_area=0), seed=0, epoch=0, row=row)
        assert chosen == row
        if row % 5 >= 2:
            assert choose_row(index, OFFICIAL, seed=0, epoch=0, row=row) == row


def test_a_weak_image_gives_way_to_any_strong_one_alike(index):
    trials = 1200
    chosen = Counter(
        choose_row(index, OFFICIAL, seed=1, epoch=epoch, row=5) for epoch in range(trials)
    )
    strong = [2, 3, 4, 7, 8, 9]
    assert sorted(chosen) == strong
    expected = trials / len(strong)
    difference = sum((chosen[row] - expected) ** 2 / expected for row in strong)
    assert difference < 20.5  # 5 degrees of freedom, 0.999


def test_the_choice_depends_on_seed_epoch_and_row_alone(index):
    first = [choose_row(index, OFFICIAL, seed=1, epoch=epoch, row=0) for epoch in range(20)]
    assert first == [choose_row(index, OFFICIAL, seed=1, epoch=e, row=0) for e in range(20)]
    assert first != [choose_row(index, OFFICIAL, seed=2, epoch=e, row=0) for e in range(20)]
    assert first != [choose_row(index, OFFICIAL, seed=1, epoch=e, row=1) for e in range(20)]


def test_boxes_below_the_least_area_do_not_count(index):
    boxes = np.array([[0, 0, 56, 56], [0, 0, 56, 55], [3, 3, 100, 100]], np.float32)
    assert count_objects(boxes, ViewSettings()) == 2
    assert count_objects(boxes, ViewSettings(min_box_area=0)) == 3
    assert count_objects(boxes[:0], ViewSettings()) == 0


def test_a_single_strong_image_is_found_and_its_absence_named(make_coco, tmp_path):
    folder = make_coco(10, "large")
    folder.document["annotations"] = []
    for _ in range(2):
        folder.annotate(19, [0, 0, 50, 40])
    folder.save()
    index = build_index(coco.read(folder.annotations, folder.images), tmp_path / "one")
    assert {choose_row(index, OFFICIAL, seed=0, epoch=e, row=0) for e in range(5)} == {9}
    with pytest.raises(InputError, match=r"no image has 2 boxes of at least 3136 px²"):
        choose_row(index, ViewSettings(resample_weak_images=True), seed=0, epoch=0, row=0)
