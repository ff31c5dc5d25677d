from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.core.errors import InputError
from pretrain.core.settings import parse
from pretrain.data import views
from pretrain.data.augment import PARAMETERS, AugmentSettings, apply, draw
from pretrain.data.decode import read_image
from pretrain.data.index import Index
from pretrain.data.loader import BadImages, build_loader, choose_workers
from pretrain.data.plan import Batch, Crop, ViewPlan
from pretrain.data.sampler import BatchSampler
from pretrain.data.views import ViewSettings
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


def settings_of(folder, **more) -> DataSettings:
    return DataSettings(annotations=str(folder.annotations), images=str(folder.images), **more)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/hcl"


@pytest.fixture
def index(make_coco) -> Index:
    return open_index(settings_of(make_coco(13)))


def batches(index, batch_size=4, start=0, total=7, **options) -> list[Batch]:
    return list(
        build_loader(
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
    )


def assert_same(a: list[Batch], b: list[Batch]) -> None:
    assert len(a) == len(b)
    for one, two in zip(a, b, strict=True):
        assert torch.equal(one.rows, two.rows)
        assert torch.equal(one.fallback, two.fallback)
        assert one.bad == two.bad
        for name in one.images:
            assert torch.equal(one.images[name], two.images[name])
            assert torch.equal(one.augmentation[name], two.augmentation[name])


def test_a_batch_is_what_views_and_augmentation_make_of_its_rows(index):
    sampler = BatchSampler(13, 4, 5, start_step=0, total_steps=7)
    for batch, keys in zip(batches(index), sampler, strict=True):
        assert list(batch.images) == list(batch.augmentation) == [crop.name for crop in PLAN.crops]
        assert batch.rows.tolist() == [row for _, row in keys]
        assert batch.bad == []
        for place, (epoch, row) in enumerate(keys):
            image = read_image(index.path(row), index.size(row))
            expected = views.cut(image, index.boxes(row), PLAN, VIEWS, seed=5, epoch=epoch, row=row)
            assert batch.fallback[place] == expected.fallback
            for name, view in expected.images.items():
                assert torch.equal(batch.images[name][place], view)
                parameters = draw(expected.generators[name], AUGMENT, 16)
                np.testing.assert_array_equal(batch.augmentation[name][place], parameters)


def test_shapes_and_kinds(index):
    batch = batches(index, total=1)[0]
    for name in batch.images:
        assert batch.images[name].shape == (4, 3, 16, 16)
        assert batch.images[name].dtype == torch.uint8
        assert batch.augmentation[name].shape == (4, PARAMETERS)
        assert batch.augmentation[name].dtype == torch.float32
        augmented = apply(batch.images[name], batch.augmentation[name], AUGMENT)
        assert torch.isfinite(augmented).all()
    assert batch.rows.dtype == torch.int64
    assert batch.fallback.dtype == torch.bool


@pytest.mark.parametrize("workers", [1, 2])
def test_same_bytes_for_any_number_of_workers(index, workers):
    assert_same(batches(index), batches(index, workers=workers))


@pytest.mark.parametrize("world", [2, 4])
def test_same_bytes_for_any_number_of_processes(index, world):
    whole = batches(index)
    parts = [batches(index, rank=rank, world=world) for rank in range(world)]
    for step, batch in enumerate(whole):
        for name in batch.images:
            together = torch.cat([part[step].images[name] for part in parts])
            assert torch.equal(together, batch.images[name])
            together = torch.cat([part[step].augmentation[name] for part in parts])
            assert torch.equal(together, batch.augmentation[name])


@pytest.mark.parametrize("start", [2, 3, 6, 7])
def test_resumed_equals_uninterrupted(index, start):
    assert_same(batches(index, start=start), batches(index)[start:])


def test_epochs_differ(index):
    first, second = {}, {}
    for step, batch in enumerate(batches(index, total=6)):
        for place, row in enumerate(batch.rows.tolist()):
            (first if step < 3 else second)[row] = batch.images["first"][place]
    both = first.keys() & second.keys()
    assert len(both) > 5
    assert not any(torch.equal(first[row], second[row]) for row in both)


def test_the_runs_random_state_is_left_alone(index):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    batches(index, workers=1, total=2)
    batches(index, total=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_length(index):
    loader = build_loader(
        index, PLAN, VIEWS, AUGMENT, batch_size=4, seed=0, start_step=3, total_steps=10
    )
    assert len(loader) == 7


def test_batch_larger_than_the_data(index):
    with pytest.raises(InputError, match="batch size 14 exceeds the 13 images"):
        batches(index, batch_size=14)


def test_workers_survive_the_signals_of_a_job(index):
    loader = build_loader(
        index, PLAN, VIEWS, AUGMENT, batch_size=4, seed=5, start_step=0, total_steps=30, workers=2
    )
    received = []
    for batch in loader:
        received.append(batch)
        if len(received) == 3:
            workers = multiprocessing.active_children()
            assert len(workers) == 2
            pids = [str(worker.pid) for worker in workers]
            # Not from this process: as its parent it may end a worker.
            for name in ("TERM", "INT", "USR1", "USR2"):
                subprocess.run(["kill", "-s", name, *pids], check=True)
            assert all(worker.is_alive() for worker in workers)
    assert_same(received, batches(index, total=30))


CRASH = """
import sys
from pathlib import Path
from pretrain.data.augment import AugmentSettings
from pretrain.data.index import Index
from pretrain.data.loader import build_loader
from pretrain.data.plan import Crop, ViewPlan
from pretrain.data.views import ViewSettings

plan = ViewPlan(16, (Crop("a", "image", True),))
loader = build_loader(
    Index.open(Path(sys.argv[1])), plan, ViewSettings(size=16), AugmentSettings(), batch_size=4,
    seed=0, start_step=0, total_steps=1000, workers=2
)
batches = iter(loader)
next(batches)
raise ValueError("the step failed")
"""


def test_a_crash_of_the_run_does_not_hang_on_its_workers(index):
    result = subprocess.run(
        [sys.executable, "-c", CRASH, str(index.folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert "the step failed" in result.stderr


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_replaced_by_the_next(index, workers):
    good = batches(index, batch_size=13, total=1)[0]
    for row in (5, 6, 12):
        truncate(index.path(row))
    batch = batches(index, batch_size=13, total=1, workers=workers)[0]
    replaced = {5: 7, 6: 7, 12: 0}
    assert batch.rows.tolist() == [replaced.get(row, row) for row in good.rows.tolist()]
    assert sorted(row for row, _, _ in batch.bad) == [5, 6, 6, 12]
    for row, path, reason in batch.bad:
        assert path == str(index.path(row))
        assert "runcated" in reason
    # The replacement is what that row gives anyway.
    order = good.rows.tolist()
    for place, row in enumerate(batch.rows.tolist()):
        for name in batch.images:
            assert torch.equal(batch.images[name][place], good.images[name][order.index(row)])


def test_image_of_another_size_is_bad(make_coco):
    folder = make_coco(4)
    folder.document["images"][2]["width"] += 1
    folder.save()
    bad = [bad for batch in batches(open_index(settings_of(folder)), total=1) for bad in batch.bad]
    assert [row for row, _, _ in bad] == [2]
    assert bad[0][2] == "it has 80x60 px, but the annotations say 81x60"


@pytest.mark.parametrize("workers", [0, 1])
def test_no_image_can_be_read(index, workers):
    for row in range(13):
        index.path(row).unlink()
    with pytest.raises(InputError) as caught:
        batches(index, workers=workers)
    message = str(caught.value)
    assert "cannot be read: No such file" in message
    assert "the 12 images after it" in message
    assert len(message.splitlines()) == 1


def batch_with(seen: int, bad: int) -> Batch:
    reasons = [(n, f"{n}.jpg", "truncated") for n in range(bad)]
    return Batch({}, {}, torch.zeros(seen, dtype=torch.int64), torch.zeros(seen), reasons)


def test_few_bad_images_are_tolerated_and_many_are_not():
    tally = BadImages(0.01, count=1000)
    tally.add(batch_with(32, 10))  # 1 % of the data set
    with pytest.raises(InputError, match=r"0\.jpg \(row 0\): truncated; 11 of 75 images"):
        tally.add(batch_with(32, 1))


def test_bad_images_after_the_first_epoch_count_by_those_seen():
    tally = BadImages(0.01, count=100)
    for _ in range(50):
        tally.add(batch_with(99, 1))
    assert (tally.seen, tally.bad) == (5000, 50)
    with pytest.raises(InputError, match=r"max_bad_images=0\.01"):
        tally.add(batch_with(1, 1))


def test_index_is_built_once_and_found_again(make_coco, cache):
    folder = make_coco(5)
    first = open_index(settings_of(folder))
    assert first.folder.parent == cache
    inode = (first.folder / "meta.json").stat().st_ino
    again = open_index(settings_of(folder))
    assert again.folder == first.folder
    assert (again.folder / "meta.json").stat().st_ino == inode


def test_changed_source_or_options_have_an_index_of_their_own(make_coco):
    folder = make_coco(5)
    indexes = [open_index(settings_of(folder))]
    indexes.append(open_index(settings_of(folder, on_bad_box="drop")))
    folder.annotate(10, [1, 1, 20, 20])
    folder.save()
    indexes.append(open_index(settings_of(folder)))
    assert len({index.folder for index in indexes}) == 3
    assert indexes[0].fingerprint == indexes[1].fingerprint != indexes[2].fingerprint
    assert indexes[2].box_count == indexes[0].box_count + 1


def test_bad_boxes_are_dropped_if_asked(make_coco):
    folder = make_coco(5)
    folder.annotate(10, [1, 1, 0, 20])
    folder.save()
    with pytest.raises(InputError, match="on_bad_box=drop"):
        open_index(settings_of(folder))
    index = open_index(settings_of(folder, on_bad_box="drop"))
    assert index.meta["dropped"]["without area"] == 1


def test_index_in_a_folder_of_the_users(make_coco, tmp_path, cache):
    folder = make_coco(5)
    chosen = settings_of(folder, index=str(tmp_path / "my/index"))
    assert open_index(chosen).folder == tmp_path / "my/index"
    assert not cache.exists()
    os.utime(folder.annotations, (1, 1))  # copied: another time, the same content
    assert len(open_index(chosen)) == 5
    folder.annotate(10, [1, 1, 20, 20])
    folder.save()
    with pytest.raises(InputError, match=r"my/index: this index was built from .*instances\.json"):
        open_index(chosen)


def test_index_of_another_data_set_is_refused(make_coco, tmp_path):
    chosen = str(tmp_path / "index")
    open_index(settings_of(make_coco(5, "a"), index=chosen))
    with pytest.raises(InputError, match="with other options or before"):
        open_index(settings_of(make_coco(5, "b"), index=chosen))


def test_index_that_cannot_be_written(make_coco, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write the index .*data\.index"):
        open_index(settings_of(make_coco(2), index=str(tmp_path / "file/index")))


def test_missing_annotations(make_coco):
    folder = make_coco(2)
    folder.annotations.unlink()
    with pytest.raises(InputError, match=r"instances\.json: cannot read the annotation file"):
        open_index(settings_of(folder))


def _open(settings: DataSettings) -> tuple[str, str]:
    index = open_index(settings)
    index.verify()
    return str(index.folder), index.fingerprint


def test_many_processes_open_at_once(make_coco, cache):
    settings = settings_of(make_coco(40))
    with multiprocessing.get_context("fork").Pool(6) as pool:
        results = pool.map(_open, [settings] * 12, chunksize=1)
    assert len(set(results)) == 1
    assert [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == [
        Path(results[0][0]).name
    ]


def test_number_of_workers(monkeypatch):
    assert choose_workers(3, 8) == 3
    assert choose_workers(0, 1) == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(24)))
    assert choose_workers(None, 1) == 8
    assert choose_workers(None, 4) == 6
    assert choose_workers(None, 64) == 1


def test_unknown_settings_are_refused():
    with pytest.raises(InputError, match="did you mean 'on_bad_box'"):
        parse(
            DataSettings,
            {"annotations": "a", "images": "b", "on_bad_boxes": "drop"},
            source="x.yaml",
            at="data",
        )


@pytest.mark.coco
def test_real_coco(coco_tiny):
    index = open_index(
        DataSettings(
            annotations=str(coco_tiny / "annotations/instances_train2017.json"),
            images=str(coco_tiny / "train2017"),
        )
    )
    plan = ViewPlan(64, PLAN.crops)
    loader = build_loader(
        index, plan, ViewSettings(), AUGMENT, batch_size=40, seed=0, start_step=0, total_steps=2
    )
    seen = list(loader)
    assert sorted(row for batch in seen for row in batch.rows.tolist()) == list(range(80))
    assert not any(batch.bad for batch in seen)
    for batch in seen:
        for row, fallback in zip(batch.rows.tolist(), batch.fallback.tolist(), strict=True):
            sides = index.boxes(row)[:, 2:] - index.boxes(row)[:, :2]
            assert fallback == ((sides.prod(1) >= 3136).sum() < 2)
