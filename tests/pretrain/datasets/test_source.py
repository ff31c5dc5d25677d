from __future__ import annotations

import json
import shutil

import pytest
from data_formats import Document, write_lvis, write_openimages, write_voc

from pretrain.core.errors import InputError
from pretrain.core.settings import parse
from pretrain.data.index import Index
from pretrain.datasets.source import DataSettings, open_index

NOT_USED = "does not use it; remove it, or set it to null"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg/hcl"


def settings(**values) -> DataSettings:
    return parse(DataSettings, values, source="run.yaml", at="data")


def fails(*parts: str, **values) -> None:
    with pytest.raises(InputError) as caught:
        open_index(settings(**values))
    for part in parts:
        assert part in str(caught.value)


@pytest.fixture
def sets(scenes, tmp_path):
    """Settings of every reader for the same images."""
    file = scenes / "annotations/instances_train.json"
    document = Document(file)
    boxes, classes = write_openimages(document, tmp_path / "csv")
    write_voc(document, scenes / "train", tmp_path / "VOC2030")
    write_lvis(document, tmp_path / "lvis.json", "train")
    images = str(scenes / "train")
    return {
        "coco": {"annotations": str(file), "images": images},
        "lvis": {"annotations": str(tmp_path / "lvis.json"), "images": str(scenes)},
        "openimages": {"annotations": str(boxes), "images": images, "classes": str(classes)},
        "voc": {"annotations": str(tmp_path / "VOC2030"), "split": "train"},
        "folder": {"images": images},
    }


@pytest.mark.parametrize("reader", ["coco", "lvis", "openimages", "voc", "folder"])
def test_every_reader_is_indexed_once(sets, reader, cache):
    chosen = settings(reader=reader, **sets[reader])
    index = open_index(chosen)
    assert len(index) == 48
    assert all(index.path(row).is_file() for row in range(48))
    assert (index.box_count > 100) == (reader != "folder")
    inode = (index.folder / "meta.json").stat().st_ino
    assert (open_index(chosen).folder / "meta.json").stat().st_ino == inode
    assert index.meta["options"]["reader"] == reader
    assert index.meta["source"]["sha256"]
    assert open_index(settings(reader=reader, on_bad_image="drop", **sets[reader])).folder != (
        index.folder
    )


def test_prepared_index_and_nothing_else(sets, tmp_path, scenes):
    made = open_index(settings(index=str(tmp_path / "made"), **sets["coco"]))
    index = open_index(settings(reader="index", index=str(tmp_path / "made")))
    assert index.fingerprint == made.fingerprint
    shutil.copytree(scenes / "train", tmp_path / "scratch")
    moved = settings(reader="index", index=str(tmp_path / "made"), images=str(tmp_path / "scratch"))
    assert open_index(moved).path(0).parent == tmp_path / "scratch"
    fails("gone: no index here; check data.index", reader="index", index=str(tmp_path / "gone"))
    shutil.rmtree(tmp_path / "scratch")
    fails(
        "no such image folder",
        reader="index",
        index=str(tmp_path / "made"),
        images=str(tmp_path / "scratch"),
    )


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        ({}, ["missing key 'data.annotations'", "missing key 'data.images'"]),
        ({"reader": "voc"}, ["missing key 'data.annotations'"]),
        ({"reader": "folder"}, ["missing key 'data.images'"]),
        ({"reader": "index"}, ["missing key 'data.index'"]),
        (
            {"reader": "openimages", "images": "x", "class_folders": True},
            [
                "missing key 'data.annotations'",
                f"'data.class_folders': reader 'openimages' {NOT_USED}, got True",
            ],
        ),
        (
            {"annotations": "a", "images": "b", "split": "train"},
            [f"'data.split': reader 'coco' {NOT_USED}, got 'train'"],
        ),
        (
            {"reader": "folder", "images": "b", "clases": "x"},
            ["unknown key 'data.clases': did you mean 'classes'?"],
        ),
    ],
)
def test_what_a_reader_needs_and_does_not_know(values, lines):
    with pytest.raises(InputError) as caught:
        settings(**values)
    assert str(caught.value).splitlines() == [f"run.yaml: {line}" for line in lines]


def test_unknown_reader_and_flag():
    with pytest.raises(InputError, match=r"'data\.reader': input should be 'coco', 'openimages'"):
        settings(reader="kitti", images="x")
    with pytest.raises(InputError, match=r"data\.leave_out"):
        settings(annotations="a", images="b", leave_out=["blurred"])


def test_an_old_cached_index_is_built_again_and_an_own_one_refused(sets, tmp_path, cache):
    index = open_index(settings(**sets["coco"]))
    old = index.meta | {"version": 1}
    own = tmp_path / "own"
    shutil.copytree(index.folder, own)
    (own / "meta.json").write_text(json.dumps(old))
    fails(
        "index of version 1, this program needs 2; delete the folder",
        index=str(own),
        **sets["coco"],
    )
    fails("index of version 1", reader="index", index=str(own))
    # The cache's folders are named for the version, among others: an old one is not looked at.
    from pretrain.datasets import source

    source_version = source.VERSION
    try:
        source.VERSION = 1
        index.folder.rename(index.folder.with_name("aside"))
        other = open_index(settings(**sets["coco"]))
    finally:
        source.VERSION = source_version
    (other.folder / "meta.json").write_text(json.dumps(old))
    assert open_index(settings(**sets["coco"])).folder != other.folder


def test_changed_class_descriptions_and_lists_are_noticed(sets, tmp_path):
    values = sets["openimages"]
    before = open_index(settings(reader="openimages", **values))
    with open(values["classes"], "a", encoding="utf-8") as file:  # noqa: PTH123
        file.write("/m/99999,something else\n")
    after = open_index(settings(reader="openimages", **values))
    assert len(after.categories) == len(before.categories) + 1
    fails("cannot be read", "data.split", reader="openimages", split=str(tmp_path / "no"), **values)


def test_a_folder_that_changes_is_indexed_again(sets, tmp_path, scenes):
    shutil.copytree(scenes / "train", tmp_path / "photos")
    values = {"reader": "folder", "images": str(tmp_path / "photos")}
    assert len(open_index(settings(**values))) == 48
    shutil.copy(tmp_path / "photos/000000000001.jpg", tmp_path / "photos/more.jpg")
    assert len(open_index(settings(**values))) == 49


def test_group_boxes_are_kept_if_asked(make_coco):
    folder = make_coco(3)
    folder.annotate(10, [1, 1, 20, 20], iscrowd=1)
    folder.save()
    values = {"annotations": str(folder.annotations), "images": str(folder.images)}
    index = open_index(settings(leave_out=[], **values))
    assert index.flags(0).tolist() == [1]
    assert index.meta["dropped"]["crowd"] == 0
    assert open_index(settings(**values)).meta["dropped"]["crowd"] == 1


def test_missing_coco_images_are_left_out_if_asked(make_coco):
    folder = make_coco(5)
    (folder.images / "000002.jpg").unlink()
    values = {"annotations": str(folder.annotations), "images": str(folder.images)}
    fails("1 of the 5 images", "000002.jpg", "on_bad_image=drop", **values)
    index = open_index(settings(on_bad_image="drop", **values))
    assert len(index) == 4
    assert index.meta["dropped"]["images missing"] == 1
    assert index.meta["dropped"]["of missing images"] == 2
    assert index.image_id(2) == 13


def test_index_without_a_source_has_no_options_to_compare(sets, tmp_path):
    open_index(settings(index=str(tmp_path / "a"), **sets["coco"]))
    assert Index.exists(tmp_path / "a")
    fails("with other options", index=str(tmp_path / "a"), on_bad_box="drop", **sets["coco"])
