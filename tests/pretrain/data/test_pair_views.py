"""Views of pairs of images: every pixel says which image and which place it is from."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.core.errors import InputError
from pretrain.data import device, loader
from pretrain.data.augment import AugmentSettings
from pretrain.data.batches import ViewDataset, choose_row
from pretrain.data.contact_sheet import CELL, GAP, LINE, WIDE, sample, sheet
from pretrain.data.index import Index
from pretrain.data.pairs import Neighbor, PairTable, choose_pair, pair_stream
from pretrain.data.plan import Batch, Crop, ViewPlan
from pretrain.data.views import ViewSettings
from pretrain.datasets import packing
from pretrain.datasets.source import DataSettings, open_index

ROWS = 11
LONELY = (4, 8)
"""Rows without pairs."""
SIDE = 12
PLAN = ViewPlan(
    20,
    (
        Crop("view", "image", random_resized=True),
        Crop("object", "object", random_resized=False, size=SIDE),
        Crop("query", "pair_query", random_resized=False, size=SIDE),
        Crop("key", "pair_key", random_resized=False, size=SIDE),
    ),
)
VIEWS = ViewSettings(size=20, min_box_area=0)
AUGMENT = AugmentSettings()
SEED = 5
CPU = torch.device("cpu")


def size_of(row: int) -> tuple[int, int]:
    return 60 + 3 * row, 80 - 2 * row


@pytest.fixture
def index(make_coco, tmp_path) -> Index:
    """Images whose red is 20 times the row, green the column and blue the line of the pixel."""
    folder = make_coco(0)
    for row in range(ROWS):
        width, height = size_of(row)
        y, x = np.mgrid[0:height, 0:width]
        pixels = np.stack([np.full_like(x, 20 * row), x, y], -1).astype(np.uint8)
        Image.fromarray(pixels).save(folder.images / f"{row}.png")
        folder.document["images"].append(
            {"id": row, "file_name": f"{row}.png", "width": width, "height": height}
        )
        # Row 0 has a single box, of few pixels.
        for box in range(1 + row % 3):
            folder.annotate(row, [5 + box, 2 + row, 9 + box, 7])
    folder.save()
    return open_index(
        DataSettings(
            annotations=str(folder.annotations),
            images=str(folder.images),
            index=str(tmp_path / "index"),
        )
    )


def boxes(count: int, row: int, rng: np.random.Generator) -> np.ndarray:
    """As large as a view, so that it holds the very pixels of its window."""
    width, height = size_of(row)
    start = np.stack([rng.integers(0, width - SIDE, count), rng.integers(0, height - SIDE, count)])
    return np.concatenate([start.T, start.T + SIDE], 1).astype(np.float32)


@pytest.fixture
def table(index, tmp_path) -> PairTable:
    rng = np.random.default_rng(0)
    rows = []
    for row in range(ROWS):
        others = [] if row in LONELY else [(row + 1) % ROWS, (row + 4) % ROWS]
        rows.append([Neighbor(o, boxes(3, row, rng), boxes(3, o, rng)) for o in others])
    PairTable.build(index.fingerprint, rows).write(tmp_path / "pairs")
    return PairTable.open(tmp_path / "pairs")


def batches(index, pairs, plan=PLAN, views=VIEWS, start=0, total=4, **options) -> list[Batch]:
    return list(
        loader.build_loader(
            index, plan, views, AUGMENT, batch_size=5, seed=SEED, start_step=start,
            total_steps=total, pairs=pairs, **options,
        )
    )  # fmt: skip


def views_of(batch: Batch, plan=PLAN) -> dict[str, torch.Tensor]:
    """As cut, in whichever way the batch was made."""
    return device.cut(batch.sources, plan.sides) if batch.sources is not None else batch.images


def assert_same(a: list[Batch], b: list[Batch]) -> None:
    assert len(a) == len(b)
    for one, two in zip(a, b, strict=True):
        assert torch.equal(one.rows, two.rows)
        assert torch.equal(one.fallback, two.fallback)
        assert one.bad == two.bad
        mine, theirs = views_of(one), views_of(two)
        assert list(mine) == list(theirs) == list(PLAN.sides)
        for name in mine:
            assert torch.equal(one.augmentation[name], two.augmentation[name])
            assert torch.equal(mine[name], theirs[name])


def part(row: int, window: tuple[int, int, int, int]) -> torch.Tensor:
    """What a view of this window must hold."""
    x1, y1, x2, y2 = window
    y, x = np.mgrid[y1:y2, x1:x2]
    return torch.from_numpy(np.stack([np.full_like(x, 20 * row), x, y]).astype(np.uint8))


def pair_of(table, index, row: int, epoch: int = 0, stream: int | None = None):
    rng = pair_stream(SEED, epoch, row if stream is None else stream)
    return choose_pair(table, row, index.size, rng)


WAYS = [
    {},
    {"workers": 2},
    {"device_crops": True},
    {"device_crops": True, "workers": 2},
    {"pack": True},
    {"pack": True, "device_crops": True},
]


def prepared(index: Index, tmp_path: Path, options: dict) -> dict:
    """Options of the loader, with the pack that they ask for."""
    if "pack" not in options:
        return options
    return {**options, "pack": packing.write(index, tmp_path / "pack", None)}


@pytest.mark.parametrize("way", WAYS)
def test_query_and_key_show_the_windows_of_their_images(index, table, tmp_path, way):
    seen = set()
    found = batches(index, table, **prepared(index, tmp_path, way))
    for step, batch in enumerate(found):
        views = views_of(batch)
        for place, row in enumerate(batch.rows.tolist()):
            pair = pair_of(table, index, row, epoch=step // 2)
            if pair is None:
                assert row in LONELY
                continue
            assert torch.equal(views["query"][place], part(row, pair.query))
            assert torch.equal(views["key"][place], part(pair.row, pair.key))
            assert (views["object"][place, 0] == 20 * row).all()
            assert (views["view"][place, 0] == 20 * row).all()
            seen.add((row, pair.row))
    assert len({row for row, _ in seen}) >= ROWS - len(LONELY) - 1
    assert len(seen) > ROWS - len(LONELY)  # neighbors change with the epoch


@pytest.mark.parametrize("way", WAYS)
def test_every_way_and_a_resumed_run_give_the_same(index, table, tmp_path, way):
    whole = batches(index, table)
    options = prepared(index, tmp_path, way)
    assert_same(whole, batches(index, table, **options))
    assert_same(whole[3:], batches(index, table, start=3, **options))


def test_a_row_without_pairs_has_its_object_twice(index, table):
    lonely = 0
    for batch in batches(index, table):
        views = views_of(batch)
        for place, row in enumerate(batch.rows.tolist()):
            assert batch.fallback[place] == (row in LONELY)
            same = torch.equal(views["query"][place], views["object"][place])
            assert same == (row in LONELY)
            if row in LONELY:
                assert torch.equal(views["key"][place], views["object"][place])
                lonely += 1
    assert lonely > 1


def test_pairs_do_not_ask_for_boxes(index, table):
    """A plan of pairs alone is a fallback only where there is no pair."""
    plan = ViewPlan(SIDE, (Crop("a", "pair_query", False), Crop("b", "pair_key", False)))
    views = ViewSettings(size=SIDE, min_box_area=1e6)
    for batch in batches(index, table, plan, views):
        for place, row in enumerate(batch.rows.tolist()):
            assert batch.fallback[place] == (row in LONELY)


@pytest.mark.parametrize("random_resized", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_partner_that_cannot_be_read(index, table, tmp_path, way, random_resized):
    plan = ViewPlan(
        SIDE, (Crop("query", "pair_query", False), Crop("key", "pair_key", random_resized))
    )
    whole = batches(index, table, plan, total=8)
    broken = 2
    index.path(broken).write_bytes(b"no image")
    options = prepared(index, tmp_path, way)
    without = batches(index, table, plan, total=8, **options)
    hits = 0
    for step, (before, after) in enumerate(zip(whole, without, strict=True)):
        assert {row for row, _, _ in after.bad} <= {broken}
        views, expected = views_of(after, plan), views_of(before, plan)
        reads = 0
        for place, row in enumerate(before.rows.tolist()):
            if row == broken:  # replaced as a whole, see the next test
                assert after.rows[place] == broken + 1
                reads += 1
                continue
            assert after.rows[place] == row
            pair = pair_of(table, index, row, epoch=step // 2)
            assert torch.equal(views["query"][place], expected["query"][place])
            if pair is not None and pair.row == broken:
                hits, reads = hits + 1, reads + 1
                key = views["key"][place]
                assert (key[0] == 20 * row).all()  # the row's own image
                x1, y1, x2, y2 = pair.query
                assert key[1].amin() >= x1
                assert key[1].amax() < x2
                assert key[2].amin() >= y1
                assert key[2].amax() < y2
                if not random_resized:
                    assert torch.equal(key, views["query"][place])
                assert not after.fallback[place]
            else:
                assert torch.equal(views["key"][place], expected["key"][place])
        assert len(after.bad) == reads
    assert hits > 0
    again = batches(index, table, plan, total=8)
    for one, two in zip(without, again, strict=True):
        for name in plan.sides:
            assert torch.equal(views_of(one, plan)[name], views_of(two, plan)[name])


@pytest.mark.parametrize("way", WAYS)
def test_the_pair_is_of_the_image_that_replaces_another(index, table, tmp_path, way):
    index.path(6).write_bytes(b"no image")
    options = prepared(index, tmp_path, way)
    found = batches(index, table, **options)
    assert any(row == 6 for batch in found for row, _, _ in batch.bad)
    for step, batch in enumerate(found):
        views = views_of(batch)
        for place, row in enumerate(batch.rows.tolist()):
            pair = pair_of(table, index, row, epoch=step // 2)
            assert (views["query"][place, 0] == 20 * row).all()
            if pair is not None and pair.row != 6:
                assert torch.equal(views["query"][place], part(row, pair.query))
                assert torch.equal(views["key"][place], part(pair.row, pair.key))


@pytest.mark.parametrize("device_crops", [False, True])
def test_the_pair_is_of_the_image_that_stands_in_for_a_weak_one(index, table, device_crops):
    views = ViewSettings(size=20, min_box_area=0, min_boxes=3, resample_weak_images=True)
    keys = [(0, row) for row in range(ROWS)]
    dataset = ViewDataset(index, PLAN, views, AUGMENT, SEED, pairs=table, device_crops=device_crops)
    batch = dataset.__getitems__(keys)
    assert isinstance(batch, Batch)
    cut = views_of(batch)
    moved = 0
    for row, used in enumerate(batch.rows.tolist()):
        assert used == choose_row(index, views, seed=SEED, epoch=0, row=row)
        pair = pair_of(table, index, used, stream=row)
        moved += used != row
        if pair is not None:
            assert torch.equal(cut["query"][row], part(used, pair.query))
            assert torch.equal(cut["key"][row], part(pair.row, pair.key))
    assert moved > 3


@pytest.mark.parametrize("device_crops", [False, True])
def test_windows_are_scaled_with_the_partner_of_a_shrunk_pack(index, table, tmp_path, device_crops):
    """Each image of the pack is shrunk by a factor of its own."""
    pack = packing.write(index, tmp_path / "pack", 40)
    for step, batch in enumerate(batches(index, table, pack=pack, device_crops=device_crops)):
        views = views_of(batch)
        for place, row in enumerate(batch.rows.tolist()):
            pair = pair_of(table, index, row, epoch=step // 2)
            if pair is None:
                continue
            for name, source, window in (("query", row, pair.query), ("key", pair.row, pair.key)):
                assert (views[name][place, 0] == 20 * source).all()
                middle = views[name][place, 1:].float().mean((1, 2))
                wanted = torch.tensor([window[0] + window[2], window[1] + window[3]]) / 2 - 0.5
                assert (middle - wanted).abs().max() < 1.5


def test_parts_of_a_device_batch_lie_in_memory_once(index, table):
    """A row without a partner has its own image in both places."""
    batch = batches(index, table, total=1, device_crops=True)[0]
    sources = batch.sources
    assert sources is not None
    assert sources.of_partner == ("key",)
    assert len(sources.offsets) == 2 * len(batch.rows)
    for place, row in enumerate(batch.rows.tolist()):
        same = sources.offsets[place] == sources.offsets[len(batch.rows) + place]
        assert same == (row in LONELY)
    images = {row: 3 * size_of(row)[0] * size_of(row)[1] for row in range(ROWS)}
    pairs = [pair_of(table, index, row) for row in batch.rows.tolist()]
    partners = sum(images[pair.row] for pair in pairs if pair is not None)
    assert len(sources.pixels) == sum(images[row] for row in batch.rows.tolist()) + partners


def test_as_an_accelerator_cuts(index, table, monkeypatch):
    batch = batches(index, table, total=1, device_crops=True)[0]
    expected = views_of(batch)
    monkeypatch.setattr(device, "_one_by_one", lambda _: False)
    monkeypatch.setattr(device, "PADDED_BYTES", 2 * 12 * 90 * 80)  # two images at a time
    for name, view in views_of(batch).items():
        assert (view.int() - expected[name].int()).abs().max() <= 1


def test_a_table_of_another_index(index, table, make_coco, tmp_path):
    folder = make_coco(5, "other")
    other = open_index(DataSettings(annotations=str(folder.annotations), images=str(folder.images)))
    for plan in (PLAN, ViewPlan(20, PLAN.crops[:1])):
        with pytest.raises(InputError) as caught:
            batches(other, table, plan)
        message = str(caught.value)
        assert str(tmp_path / "pairs") in message
        assert index.fingerprint[:12] in message
        assert other.fingerprint[:12] in message
        assert "make it again with hcl correspond" in message


def test_no_table(index):
    message = "data.pairs: not set, but the views query, key .* hcl correspond"
    with pytest.raises(InputError, match=message):
        batches(index, None)


def test_other_plans_are_not_changed_by_a_table(index, table):
    plan = ViewPlan(20, PLAN.crops[:2])
    for one, two in zip(batches(index, None, plan), batches(index, table, plan), strict=True):
        assert torch.equal(one.fallback, two.fallback)
        for name in one.images:
            assert torch.equal(one.images[name], two.images[name])


def test_a_spawned_worker_gets_the_name_of_the_table(table):
    content = pickle.dumps(table)
    assert len(content) < 500
    assert np.array_equal(pickle.loads(content).query, table.query)
    held = PairTable.build("x", [[Neighbor(0, table.query[:1], table.key[:1])]])
    again = pickle.loads(pickle.dumps(held))
    assert again.fingerprint == "x"
    assert np.array_equal(again.key, table.key[:1])


# ------------------------------------------------------------------------- contact sheet


def test_a_sample_of_the_sheet_is_what_the_loader_gives(index, table):
    broken = 2
    index.path(broken).write_bytes(b"no image")
    dataset = ViewDataset(index, PLAN, VIEWS, AUGMENT, SEED, pairs=table)
    keys = [(epoch, row) for epoch in range(4) for row in (0, 1, *LONELY)]
    batch = dataset.__getitems__(keys)
    assert isinstance(batch, Batch)
    alone = []
    for place, (epoch, row) in enumerate(keys):
        one = sample(index, PLAN, VIEWS, AUGMENT, seed=SEED, epoch=epoch, row=row, pairs=table)
        assert one.fallback == batch.fallback[place] == (row in LONELY)
        for name in PLAN.sides:
            assert torch.equal(one.before[name], batch.images[name][place])
        if "which is unreadable" in one.title:
            alone.append(row)
    assert len(alone) == len(batch.bad)
    assert set(alone) == {1}  # of whose two neighbors one is broken
    assert len(alone) < 4


def test_the_sheet_shows_the_partner_beside_the_image(index, table):
    rows = [0, LONELY[0]]
    samples = [
        sample(index, PLAN, VIEWS, AUGMENT, seed=SEED, epoch=0, row=row, pairs=table)
        for row in rows
    ]
    assert [one.fallback for one in samples] == [False, True]
    picture = np.asarray(sheet(samples, PLAN, "heading"))
    height = (len(picture) - 3 * LINE - GAP) // 2
    pair = pair_of(table, index, 0)
    assert pair is not None
    for number, row in enumerate((pair.row, None)):
        top = 3 * LINE + GAP + number * height + LINE
        left = 2 * GAP + WIDE
        place = picture[top : top + CELL, left : left + WIDE]
        if row is None:
            assert (place == 255).all()
        else:
            assert ((place[..., 0] == 20 * row) & (place[..., 1] < 100)).mean() > 0.3
