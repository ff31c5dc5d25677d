"""What is known of fallbacks before a run starts is what its batches then hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.data.augment import AugmentSettings
from pretrain.data.batches import ViewDataset
from pretrain.data.coverage import Fallbacks, fallback_share, lack_of_boxes, objects_per_image
from pretrain.data.index import Index
from pretrain.data.pairs import Neighbor, PairTable
from pretrain.data.plan import Batch, Crop, Region, ViewPlan
from pretrain.data.views import ViewSettings, count_objects
from pretrain.datasets.index_writer import build_index
from pretrain.datasets.readers import coco


@pytest.fixture
def index(make_coco: Callable, tmp_path: Path) -> Index:
    """Ten images; row ``i`` has ``i % 5`` boxes."""
    folder = make_coco(10)
    return build_index(coco.read(folder.annotations, folder.images), tmp_path / "index")


def plan(*regions: Region) -> ViewPlan:
    crops = [Crop(f"view_{n}", region, False) for n, region in enumerate(regions)]
    return ViewPlan(8, tuple(crops))


def test_objects_per_image(index):
    for area in (0.0, 300.0, 1e9):
        settings = ViewSettings(min_box_area=area)
        expected = [count_objects(index.boxes(row), settings) for row in range(len(index))]
        assert objects_per_image(index, settings).tolist() == expected
    assert sum(expected) == 0


@pytest.mark.parametrize("settings", [{}, {"min_boxes": 4}, {"resample_weak_images": True}])
@pytest.mark.parametrize(
    "regions",
    [
        ("image",),
        ("object",),
        ("object_context", "image"),
        ("object", "scene"),
        ("pair_query", "pair_key"),
        ("scene", "pair_key"),
    ],
)
def test_share_is_that_of_the_batches(index, regions, settings):
    boxes = np.array([[0, 0, 20, 20]], np.float32)
    rows = [[] if row in (3, 4, 8) else [Neighbor(0, boxes, boxes)] for row in range(10)]
    table = PairTable.build(index.fingerprint, rows)
    views = ViewSettings(size=8, min_box_area=0, **settings)
    pairs = table if plan(*regions).pairs else None
    dataset = ViewDataset(index, plan(*regions), views, AugmentSettings(), 0, pairs=pairs)
    batch = dataset.__getitems__([(0, row) for row in range(len(index))])
    assert isinstance(batch, Batch)
    if views.resample_weak_images and plan(*regions).pairs:
        return  # which images stand in is drawn, and some of them have no pair
    assert fallback_share(index, plan(*regions), views, pairs) == pytest.approx(
        batch.fallback.double().mean().item()
    )


def test_lack_of_boxes(index, make_coco, tmp_path):
    objects, whole = plan("image", "object_context", "scene"), plan("image", "pair_key")
    assert lack_of_boxes(index, objects, ViewSettings(min_box_area=0)) is None
    large = lack_of_boxes(index, objects, ViewSettings(min_box_area=1e6))
    assert large is not None
    assert "none of the 20 boxes has views.min_box_area=1e+06 px²; lower it, make boxes" in large
    folder = make_coco(4, "bare")
    folder.document["annotations"] = []
    folder.save()
    bare = build_index(coco.read(folder.annotations, folder.images), tmp_path / "none")
    reason = lack_of_boxes(bare, objects, ViewSettings())
    assert reason is not None
    assert reason.startswith("views: view_1, view_2 are cut from boxes of objects, but no image")
    assert "hcl data propose" in reason
    assert "views.random_regions=true" in reason
    assert lack_of_boxes(bare, objects, ViewSettings(random_regions=True)) is None
    assert lack_of_boxes(bare, whole, ViewSettings()) is None


def test_fallbacks__counted_over_batches():
    counted = Fallbacks()
    nothing = torch.zeros(0, dtype=torch.int64)
    for weak in ([True, False, False], [False]):
        counted.add(Batch({}, {}, nothing, torch.tensor(weak), []))
    assert counted.summary().startswith("regions: 25.0% of the rows were fallbacks")
    counted = Fallbacks()
    counted.add(Batch({}, {}, nothing, torch.tensor([False]), []))
    assert counted.summary() == "regions: every row had the boxes that its views need"
