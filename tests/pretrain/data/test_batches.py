"""What is handed over in each way: views or images, from files or from a pack."""

from __future__ import annotations

import gc
import math
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.core.errors import InputError
from pretrain.data import device, shared_memory
from pretrain.data import loader as loader_module
from pretrain.data.augment import AugmentSettings
from pretrain.data.batches import ViewDataset
from pretrain.data.decode import read_image
from pretrain.data.index import Index
from pretrain.data.loader import build_loader, choose_prefetch
from pretrain.data.pack import Pack
from pretrain.data.plan import Batch, Crop, ViewPlan
from pretrain.data.views import ViewSettings, choose_windows
from pretrain.datasets import packing
from pretrain.datasets.source import DataSettings, open_index

PLAN = ViewPlan(
    16,
    (
        Crop("first", "object_context", random_resized=True),
        Crop("second", "object_context", random_resized=True),
        Crop("object", "object", random_resized=False),
        Crop("scene", "scene", random_resized=False),
    ),
)
VIEWS = ViewSettings(size=16, min_box_area=16, context=24)
AUGMENT = AugmentSettings()
COLORS = AUGMENT.by_view(list(PLAN.sides))


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


def batches(index, batch_size=4, start=0, total=7, **options) -> list[Batch]:
    loader = build_loader(
        index,
        PLAN,
        VIEWS,
        AUGMENT,
        batch_size=batch_size,
        seed=5,
        start_step=start,
        total_steps=total,
        **options,
    )
    return list(loader)


def final(batch: Batch) -> dict[str, torch.Tensor]:
    return device.views(batch, torch.device("cpu"), COLORS, PLAN.sides)


def assert_same(a: list[Batch], b: list[Batch]) -> None:
    assert len(a) == len(b)
    for one, two in zip(a, b, strict=True):
        assert torch.equal(one.rows, two.rows)
        assert torch.equal(one.fallback, two.fallback)
        assert one.bad == two.bad
        for name in one.augmentation:
            assert torch.equal(one.augmentation[name], two.augmentation[name])
        mine, theirs = final(one), final(two)
        assert list(mine) == list(theirs) == [crop.name for crop in PLAN.crops]
        for name in mine:
            assert torch.equal(mine[name], theirs[name])


@pytest.mark.parametrize("workers", [0, 2])
def test_cutting_on_the_device_gives_the_same_views(index, workers):
    assert_same(batches(index), batches(index, device_crops=True, workers=workers))


@pytest.mark.parametrize("device_crops", [False, True])
def test_a_pack_that_does_not_shrink_changes_nothing(index, tmp_path, device_crops):
    pack = packing.write(index, tmp_path / "pack", None)
    for workers in (0, 2):
        found = batches(index, pack=pack, device_crops=device_crops, workers=workers)
        assert_same(batches(index), found)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("device_crops", [False, True])
def test_ranks_share_what_one_process_gets(index, tmp_path, world, device_crops):
    pack = packing.write(index, tmp_path / "pack", 30)
    whole = batches(index, pack=pack)
    parts = [
        batches(index, pack=pack, rank=rank, world=world, device_crops=device_crops)
        for rank in range(world)
    ]
    for step, batch in enumerate(whole):
        mine = final(batch)
        theirs = [final(part[step]) for part in parts]
        for name, view in mine.items():
            assert torch.equal(torch.cat([their[name] for their in theirs]), view)


@pytest.mark.parametrize("side", [None, 30])
def test_images_are_handed_over_whole(index, tmp_path, side):
    pack = None if side is None else packing.write(index, tmp_path / "pack", side)
    batch = batches(index, total=1, device_crops=True, pack=pack)[0]
    assert batch.images == {}
    sources = batch.sources
    assert sources is not None
    assert sources.greatest == tuple(sources.sizes.amax(0).tolist())
    for place, row in enumerate(batch.rows.tolist()):
        image = pack.image(row) if pack else read_image(index.path(row), index.size(row))
        start, (width, height) = int(sources.offsets[place]), sources.sizes[place].tolist()
        pixels = sources.pixels[start : start + 3 * width * height].view(height, width, 3)
        assert torch.equal(pixels.permute(2, 0, 1), image)


def test_views_of_a_shrunk_pack_show_the_same_parts(index, tmp_path):
    """Half as large a picture, the same windows: close to the views of the files."""
    pack = packing.write(index, tmp_path / "pack", 24)
    assert min(pack.size(0)) == 24
    for one, two in zip(batches(index), batches(index, pack=pack), strict=True):
        assert torch.equal(one.rows, two.rows)
        for name in one.images:
            assert torch.equal(one.augmentation[name], two.augmentation[name])
            ours, theirs = one.images[name].float(), two.images[name].float()
            assert (ours - theirs).abs().mean() < 12
            coarse, fine = ours.mean((1, 2, 3)), theirs.mean((1, 2, 3))
            assert (coarse - fine).abs().max() < 12


def test_a_broken_image_is_replaced_whichever_way_it_comes(index, tmp_path):
    for row in (5, 12):
        content = index.path(row).read_bytes()
        index.path(row).write_bytes(content[: len(content) // 2])
    pack = packing.write(index, tmp_path / "pack", None)
    assert [row for row, _ in pack.meta["bad"]] == [5, 12]
    plain = batches(index, batch_size=13, total=1)
    assert sorted(row for row, _, _ in plain[0].bad) == [5, 12]
    for options in ({"device_crops": True}, {"pack": pack}, {"pack": pack, "device_crops": True}):
        assert_same(plain, batches(index, batch_size=13, total=1, **options))


def test_views_of_a_batch_lie_in_one_block(index):
    batch = batches(index, total=1)[0]
    blocks = {view.untyped_storage().data_ptr() for view in batch.images.values()}
    assert len(blocks) == 1
    for view in batch.images.values():
        assert view.is_contiguous(memory_format=torch.channels_last)


def test_pack_of_another_index_is_refused(index, make_coco, tmp_path):
    folder = make_coco(5, "other")
    other = open_index(DataSettings(annotations=str(folder.annotations), images=str(folder.images)))
    pack = packing.write(other, tmp_path / "pack", None)
    with pytest.raises(InputError, match="made of other images than those of the index"):
        batches(index, pack=pack)


def test_pack_of_the_same_images_with_other_boxes(make_coco, tmp_path):
    folder = make_coco(6)
    settings = DataSettings(annotations=str(folder.annotations), images=str(folder.images))
    pack = packing.write(open_index(settings), tmp_path / "pack", None)
    folder.annotate(10, [1, 1, 30, 20])
    folder.save()
    changed = open_index(settings)
    assert_same(batches(changed), batches(changed, pack=pack))


def test_prefetch_fits_into_shared_memory():
    gigabyte = 10**9
    assert choose_prefetch(10**6, 8, gigabyte) == 4
    assert choose_prefetch(10**8, 1, gigabyte) == 3
    assert choose_prefetch(10**8, 2, gigabyte) == 0


def blocks_of(batch: Batch) -> set[int]:
    return {view.data_ptr() for view in batch.images.values()}


@pytest.mark.parametrize("workers", [0, 1])
def test_memory_is_used_again_once_it_is_let_go(index, workers):
    loader = build_loader(
        index, PLAN, VIEWS, AUGMENT, batch_size=4, seed=5, start_step=0, total_steps=40,
        workers=workers, prefetch=2,
    )  # fmt: skip
    seen: set[int] = set()
    for batch in loader:
        seen |= blocks_of(batch)
        del batch
    assert len(seen) <= len(PLAN.crops) * (2 + shared_memory.SPARE)


@pytest.mark.parametrize("device_crops", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_in_use_is_not_written_to(index, workers, device_crops):
    """More batches are kept than there are blocks, and a single view keeps its block."""
    options = {"total": 30, "workers": workers, "device_crops": device_crops, "prefetch": 1}
    kept = batches(index, **options)
    assert_same(kept, batches(index, total=30))
    views = [batch.images["scene"] for batch in batches(index, total=30, prefetch=1)]
    for view, batch in zip(views, kept, strict=True):
        if not device_crops:
            assert torch.equal(view, batch.images["scene"])


def test_without_shared_memory_for_blocks(index, monkeypatch):
    expected = batches(index)
    monkeypatch.setattr(loader_module, "_free_shared_memory", lambda: 0)
    for workers in (0, 2):
        assert_same(expected, batches(index, workers=workers))


def test_a_batch_outlives_its_loader(index):
    loader = build_loader(
        index, PLAN, VIEWS, AUGMENT, batch_size=4, seed=5, start_step=0, total_steps=7, workers=1
    )
    first = next(iter(loader))
    copy = {name: view.clone() for name, view in first.images.items()}
    del loader
    gc.collect()
    for name, view in first.images.items():
        assert torch.equal(view, copy[name])


def test_a_batch_that_fails_gives_its_block_back(index):
    own = shared_memory.Blocks(1, 1, 4 * 4 * 3 * 16 * 16)
    dataset = ViewDataset(index, PLAN, VIEWS, AUGMENT, 5, blocks=own)
    for row in range(13):
        index.path(row).unlink()
    for _ in range(2):
        assert isinstance(dataset.__getitems__([(0, 0)] * 4), InputError)
    assert own.take(1)[0] == 0


def test_spawned_workers_use_the_same_blocks(index):
    own = shared_memory.Blocks(1, 2, 4 * 4 * 3 * 16 * 16)
    dataset = ViewDataset(index, PLAN, VIEWS, AUGMENT, 5, blocks=own)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        parcel = pool.apply(dataset.__getitems__, ([(0, 1), (0, 2), (0, 3), (0, 4)],))
    assert isinstance(parcel, shared_memory.Parcel)
    assert own.take(1)[0] == 1
    plain = ViewDataset(index, PLAN, VIEWS, AUGMENT, 5).__getitems__(
        [(0, 1), (0, 2), (0, 3), (0, 4)]
    )
    assert_same([parcel.open()], [plain])


# ------------------------------------------------- choices of one run, over rows and epochs

BOXES = np.array([[40 * n, 0, 40 * n + 30, 300] for n in range(6)], np.float32)


def chosen(epoch: int, row: int, views: ViewSettings) -> dict[str, tuple[int, int, int, int]]:
    return choose_windows(BOXES, (400, 300), PLAN, views, seed=1, epoch=epoch, row=row)[0]


def chi_square(counts: np.ndarray) -> float:
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("over", ["rows", "epochs"])
def test_objects_are_uniform_over(over):
    trials = 1200
    places = [(0, n) if over == "rows" else (n, 3) for n in range(trials)]
    objects = np.array([chosen(*place, ViewSettings())["object"][0] // 40 for place in places])
    assert chi_square(np.bincount(objects, minlength=6)) < 20.52  # 5 degrees of freedom, 0.999
    pairs = 6 * objects[:-1] + objects[1:]
    assert chi_square(np.bincount(pairs, minlength=36)) < 66.62  # 35: neighbors independent


def test_scale_and_aspect_of_random_crops_are_uniform_over_rows():
    """Where every attempt fits, the law shows bare."""
    plan = ViewPlan(16, (Crop("a", "image", True), Crop("b", "image", True)))
    views = ViewSettings(scale=(0.1, 0.4), ratio=(0.5, 2.0))
    found = {"a": [], "b": []}
    for row in range(1500):
        windows, _, _ = choose_windows(BOXES, (4000, 4000), plan, views, seed=1, epoch=2, row=row)
        for name, (x1, y1, x2, y2) in windows.items():
            w, h = x2 - x1, y2 - y1
            scale = (w * h / 16e6 - 0.1) / 0.3
            aspect = (math.log(w / h) / math.log(2) + 1) / 2
            place = x1 / (4000 - w)
            found[name].append((scale, aspect, place))
    a, b = np.array(found["a"]), np.array(found["b"])
    for values in (*a.T, *b.T):
        counts, _ = np.histogram(values, bins=15, range=(-1e-3, 1 + 1e-3))
        assert counts.sum() == 1500
        assert chi_square(counts) < 36.12  # 14 degrees of freedom, 0.999
    # The two views of a row are drawn apart.
    assert np.abs(np.corrcoef(a.T, b.T)[:3, 3:]).max() < 3.3 / math.sqrt(1500)


@pytest.mark.coco
def test_real_coco_every_way(coco_tiny, tmp_path):
    index = open_index(
        DataSettings(
            annotations=str(coco_tiny / "annotations/instances_train2017.json"),
            images=str(coco_tiny / "train2017"),
            index=str(tmp_path / "index"),
        )
    )
    plain = batches(index, batch_size=40, total=2)
    assert_same(plain, batches(index, batch_size=40, total=2, device_crops=True))
    pack = packing.write(index, Path(tmp_path / "pack"), None)
    pack.verify()
    assert_same(plain, batches(index, batch_size=40, total=2, pack=Pack.open(pack.folder)))
