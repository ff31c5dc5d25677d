"""Views of different sizes and colors in one plan."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pretrain.core.errors import InputError
from pretrain.data import device, loader, views
from pretrain.data.augment import AugmentSettings, ViewAugmentSettings, apply, draw
from pretrain.data.decode import read_image
from pretrain.data.index import Index
from pretrain.data.pairs import Neighbor, PairTable, choose_pair, pair_stream
from pretrain.data.plan import Batch, Crop, ViewPlan
from pretrain.data.sampler import BatchSampler
from pretrain.data.views import ViewSettings
from pretrain.datasets import packing
from pretrain.datasets.source import DataSettings, open_index
from pretrain.metrics import view_grid

PLAN = ViewPlan(
    24,
    (
        Crop("patch", "object", random_resized=False, size=7),
        Crop("view", "image", random_resized=True),
        Crop("large", "scene", random_resized=True, size=40),
    ),
)
SIDES = {"patch": 7, "view": 24, "large": 40}
VIEWS = ViewSettings(size=24, min_box_area=16, context=24)
AUGMENT = AugmentSettings(
    views={"patch": ViewAugmentSettings(blur_p=1.0, blur_sigma=(5.0, 9.0), jitter_p=0.0)}
)
CPU = torch.device("cpu")


@pytest.fixture
def index(make_coco, tmp_path) -> Index:
    folder = make_coco(13)
    return open_index(
        DataSettings(
            annotations=str(folder.annotations),
            images=str(folder.images),
            index=str(tmp_path / "index"),
        )
    )


def batches(index, plan=PLAN, augment=AUGMENT, start=0, total=7, **options) -> list[Batch]:
    return list(
        loader.build_loader(
            index, plan, VIEWS, augment, batch_size=4, seed=5, start_step=start,
            total_steps=total, **options,
        )
    )  # fmt: skip


def final(batch: Batch, plan=PLAN, augment=AUGMENT) -> dict[str, torch.Tensor]:
    return device.views(batch, CPU, augment.by_view(list(plan.sides)), plan.sides)


def assert_same(a: list[Batch], b: list[Batch]) -> None:
    assert len(a) == len(b)
    for one, two in zip(a, b, strict=True):
        assert torch.equal(one.rows, two.rows)
        mine, theirs = final(one), final(two)
        assert {name: view.shape[-1] for name, view in theirs.items()} == SIDES
        for name in mine:
            assert torch.equal(one.augmentation[name], two.augmentation[name])
            assert torch.equal(mine[name], theirs[name])


def test_sides_of_a_plan():
    assert PLAN.sides == SIDES
    assert list(PLAN.sides) == [crop.name for crop in PLAN.crops]


def test_views_and_parameters_are_of_the_crops_own_size_and_colors(index):
    patch = AUGMENT.of("patch")
    for batch, keys in zip(
        batches(index), BatchSampler(13, 4, 5, start_step=0, total_steps=7), strict=True
    ):
        for place, (epoch, row) in enumerate(keys):
            image = read_image(index.path(row), index.size(row))
            found = views.cut(image, index.boxes(row), PLAN, VIEWS, seed=5, epoch=epoch, row=row)
            for name, side in SIDES.items():
                assert batch.images[name].shape == (4, 3, side, side)
                assert torch.equal(batch.images[name][place], found.images[name])
                settings = patch if name == "patch" else AugmentSettings()
                parameters = draw(found.generators[name], settings, side)
                np.testing.assert_array_equal(batch.augmentation[name][place], parameters)


@pytest.mark.parametrize("options", [{"workers": 2}, {"device_crops": True}, {"pack": None}])
def test_every_way_gives_the_same(index, tmp_path, options):
    if "pack" in options:
        options = {"pack": packing.write(index, tmp_path / "pack", None)}
    whole = batches(index)
    assert_same(whole, batches(index, **options))
    assert_same(whole[3:], batches(index, start=3, **options))


def test_all_sizes_lie_in_one_block_that_is_just_large_enough(index):
    batch = batches(index, total=1)[0]
    starts = {view.untyped_storage().data_ptr() for view in batch.images.values()}
    assert len(starts) == 1
    spans = sorted((view.data_ptr(), view.numel()) for view in batch.images.values())
    for (start, length), (following, _) in itertools.pairwise(spans):
        assert start + length == following
    assert loader._batch_bytes(index, PLAN, 4, False) == sum(length for _, length in spans)
    for view in batch.images.values():
        assert view.is_contiguous(memory_format=torch.channels_last)


PLAIN = AugmentSettings(
    jitter_p=0.0,
    gray_p=0.0,
    blur_p=1.0,
    blur_sigma=(40.0, 50.0),
    flip_p=0.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    views={
        "kept": ViewAugmentSettings(blur_p=0.0),
        "inverted": ViewAugmentSettings(blur_p=0.0, solarize_p=1.0),
        "sharper": ViewAugmentSettings(blur_sigma=(10.0, 12.0)),
    },
)
COLORED = ViewPlan(
    24, tuple(Crop(name, "image", False) for name in ("kept", "inverted", "sharper", "blurred"))
)


@pytest.mark.parametrize("device_crops", [False, True])
def test_each_view_has_its_own_colors(index, device_crops):
    cut = batches(index, COLORED, PLAIN, total=1)[0].images["kept"]
    batch = batches(index, COLORED, PLAIN, total=1, device_crops=device_crops)[0]
    found = final(batch, COLORED, PLAIN)
    x = cut.float() / 255
    assert torch.equal(found["kept"], x)
    assert torch.equal(found["inverted"], torch.where(cut >= 128, 1 - x, x))
    contrast = {name: view.std((2, 3)).mean() for name, view in found.items()}
    assert contrast["blurred"] < 0.8 * contrast["sharper"] < 0.8 * contrast["kept"]
    for name in ("sharper", "blurred"):  # the blur reaches as far as the view's own settings say
        own = apply(cut, batch.augmentation[name], PLAIN.of(name))
        assert torch.equal(found[name], own)


def test_colors_of_a_view_that_there_is_not(index):
    augment = AugmentSettings(views={"view_2": ViewAugmentSettings(solarize_p=1.0)})
    message = "augment.views: no view 'view_2'; this method has patch, view, large"
    with pytest.raises(InputError, match=message):
        batches(index, augment=augment)


def test_grid_of_views_of_different_sizes():
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    large, small = torch.full((3, 3, 10, 10), 0.2), torch.full((3, 3, 4, 4), 0.6)
    grid = view_grid({"large": large, "small": small}, mean, std, rows=2)
    assert grid.shape == (3, 2 * 14, 14 + 8)
    for top in (0, 14):
        assert (grid[:, top + 2 : top + 12, 2:12] == 51).all()
        assert (grid[:, top + 2 : top + 6, 16:20] == 153).all()
        assert (grid[:, top + 6 : top + 14, 14:] == 255).all()
    assert (grid == 51).sum() == 2 * 3 * 100
    assert (grid == 153).sum() == 2 * 3 * 16


@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"device_crops": True}])
def test_the_partners_jpeg_file_leaves_the_rows_own_image_as_it_is(index, options):
    """Decoders write to memory that is used again; both images are needed at once."""
    plan = ViewPlan(
        24,
        (
            Crop("key", "pair_key", random_resized=False, size=9),
            Crop("query", "pair_query", random_resized=True),
            Crop("view", "image", random_resized=True),
        ),
    )
    boxes = np.array([[3, 4, 33, 40]], np.float32)
    rows = [[Neighbor((row + 5) % 13, boxes, boxes + 3)] for row in range(13)]
    table = PairTable.build(index.fingerprint, rows)
    found = batches(index, plan, AugmentSettings(), pairs=table, **options)
    for batch, keys in zip(found, BatchSampler(13, 4, 5, start_step=0, total_steps=7), strict=True):
        cut = device.cut(batch.sources, plan.sides) if batch.sources else batch.images
        for place, (epoch, row) in enumerate(keys):
            pair = choose_pair(table, row, index.size, pair_stream(5, epoch, row))
            assert pair is not None
            image, partner = (read_image(index.path(r), index.size(r)) for r in (row, pair.row))
            expected = views.cut(
                image, index.boxes(row), plan, VIEWS, seed=5, epoch=epoch, row=row,
                pair=(pair.query, pair.key), partner=partner,
            )  # fmt: skip
            for name, view in expected.images.items():
                assert torch.equal(cut[name][place], view)
