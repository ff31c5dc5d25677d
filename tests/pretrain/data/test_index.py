from __future__ import annotations

import json
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest

from pretrain.core.errors import InputError
from pretrain.data.index import COLUMNS, Index
from pretrain.datasets.index_writer import build_index
from pretrain.datasets.readers import coco


@pytest.fixture
def built(make_coco, tmp_path):
    folder = make_coco(7)
    report = coco.read(folder.annotations, folder.images)
    return report, build_index(report, tmp_path / "cache/index", {"reader": "coco"})


def test_round_trip(built):
    report, index = built
    assert len(index) == 7
    assert index.box_count == report.box_count
    assert index.categories == ("lamp", "mug")
    assert index.category_ids == (3, 7)
    for row, record in enumerate(report.records):
        assert index.path(row) == report.images.resolve() / record.file_name
        assert index.path(row).is_file()
        assert index.size(row) == (record.width, record.height)
        assert index.image_id(row) == record.image_id
        np.testing.assert_array_equal(index.boxes(row), record.boxes)
        np.testing.assert_array_equal(index.labels(row), record.labels)
        assert index.boxes(row).dtype == np.float32
        assert index.labels(row).dtype == np.int32
    index.verify()


def test_columns_are_mapped_and_read_only(built):
    _, index = built
    boxes = index.boxes(4)
    base = boxes
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        boxes[0, 0] = 1


def test_meta_tells_the_source(built):
    report, index = built
    assert index.meta["source"]["path"] == str(report.annotations.resolve())
    assert index.meta["source"]["sha256"] == report.source_sha256
    assert index.meta["source"]["size"] == report.annotations.stat().st_size
    assert index.meta["options"] == {"reader": "coco"}
    assert index.meta["dropped"]["crowd"] == 0


def test_fingerprint_depends_on_content_alone(make_coco, tmp_path):
    first, second = make_coco(6, "a"), make_coco(6, "b")
    indexes = [
        build_index(coco.read(folder.annotations, folder.images), tmp_path / f"index{n}")
        for n, folder in enumerate((first, second))
    ]
    assert indexes[0].fingerprint == indexes[1].fingerprint
    second.document["annotations"][0]["bbox"][0] += 0.25
    second.save()
    changed = build_index(coco.read(second.annotations, second.images), tmp_path / "index2")
    assert changed.fingerprint != indexes[0].fingerprint


def test_pickle_is_a_name(built):
    _, index = built
    data = pickle.dumps(index)
    assert len(data) < 300
    copy = pickle.loads(data)
    assert len(copy) == 7
    np.testing.assert_array_equal(copy.boxes(4), index.boxes(4))


def test_index_without_boxes(make_coco, tmp_path):
    folder = make_coco(2)
    folder.document["annotations"] = []
    folder.save()
    index = build_index(coco.read(folder.annotations, folder.images), tmp_path / "index")
    assert index.boxes(1).shape == (0, 4)
    assert index.labels(0).shape == (0,)
    index.verify()


def test_names_beyond_ascii(make_coco, tmp_path):
    folder = make_coco(2)
    folder.document["images"][0]["file_name"] = "Straßenfest 写真.jpg"
    (folder.images / "000000.jpg").rename(folder.images / "Straßenfest 写真.jpg")
    folder.save()
    index = build_index(coco.read(folder.annotations, folder.images), tmp_path / "index")
    assert index.path(0).is_file()
    assert index.file_name(1) == "000001.jpg"


def test_build_leaves_nothing_else_behind(built):
    _, index = built
    assert [path.name for path in index.folder.parent.iterdir()] == ["index"]
    names = {path.name for path in index.folder.iterdir()}
    assert names == {"meta.json"} | {f"{name}.npy" for name in COLUMNS}


def test_the_first_to_finish_wins(built):
    report, index = built
    before = (index.folder / "meta.json").stat().st_ino
    again = build_index(report, index.folder)
    assert (index.folder / "meta.json").stat().st_ino == before
    assert again.fingerprint == index.fingerprint
    assert [path.name for path in index.folder.parent.iterdir()] == ["index"]


def test_a_foreign_folder_is_left_alone(built, tmp_path):
    report, _ = built
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("one")
    with pytest.raises(InputError, match=r"thesis: cannot write the index here .*data\.index"):
        build_index(report, foreign)
    assert [path.name for path in foreign.iterdir()] == ["chapter.txt"]


def test_an_empty_folder_is_used(built, tmp_path):
    report, _ = built
    (tmp_path / "empty").mkdir()
    assert len(build_index(report, tmp_path / "empty")) == 7


def test_no_index(tmp_path):
    with pytest.raises(InputError, match=r"no index here"):
        Index.open(tmp_path)


def test_other_version(built):
    _, index = built
    meta = index.meta | {"version": 99}
    (index.folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match=r"index of version 99, this program needs 2; delete"):
        Index.open(index.folder)


@pytest.mark.parametrize("name", COLUMNS)
def test_truncated_column(built, name):
    _, index = built
    file = index.folder / f"{name}.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"damaged index .*delete the folder"):
        Index.open(index.folder)
    file.write_bytes(content[:20])
    with pytest.raises(InputError, match=r"damaged index"):
        Index.open(index.folder)
    file.unlink()
    with pytest.raises(InputError, match=r"damaged index"):
        Index.open(index.folder)


def test_column_of_another_shape(built):
    _, index = built
    np.save(index.folder / "boxes.npy", np.zeros((3, 4), np.float32))
    with pytest.raises(InputError, match=r"damaged index \(boxes\.npy holds float32 \(3, 4\)"):
        Index.open(index.folder)


@pytest.mark.parametrize("content", ["", "{", "null", "[]", '{"version": 1}'])
def test_damaged_meta(built, content):
    _, index = built
    (index.folder / "meta.json").write_text(content)
    with pytest.raises(InputError, match=r"damaged"):
        Index.open(index.folder)


def test_changed_content_is_found_by_verify(built):
    _, index = built
    file = index.folder / "boxes.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="content has changed"):
        Index.open(index.folder).verify()


def _rows(index: Index) -> float:
    return float(sum(index.boxes(row).sum() for row in range(len(index))))


def test_use_in_another_process(built):
    _, index = built
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_rows, (index,)) == _rows(index)


@pytest.mark.coco
def test_real_coco(coco_tiny: Path, tmp_path):
    report = coco.read(coco_tiny / "annotations/instances_val2017.json", coco_tiny / "val2017")
    index = build_index(report, tmp_path / "index")
    assert len(index) == 80
    assert all(index.path(row).is_file() for row in range(80))
