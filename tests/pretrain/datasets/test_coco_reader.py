from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pretrain.core.errors import InputError
from pretrain.datasets.readers import coco


def fails(folder, *parts: str, **options) -> str:
    """Reading fails with one or two lines that hold all parts."""
    folder.save()
    with pytest.raises(InputError) as caught:
        coco.read(folder.annotations, folder.images, **options)
    message = str(caught.value)
    assert len(message.splitlines()) <= 2
    for part in parts:
        assert part in message
    return message


def test_reads_everything_in_the_order_of_the_file(make_coco):
    folder = make_coco(6)
    folder.document["annotations"].reverse()
    folder.save()
    report = coco.read(folder.annotations, folder.images)
    assert [record.image_id for record in report.records] == [10, 11, 12, 13, 14, 15]
    assert [len(record.boxes) for record in report.records] == [0, 1, 2, 3, 4, 0]
    assert report.categories == ("lamp", "mug")
    assert report.category_ids == (3, 7)
    for record, image in zip(report.records, folder.document["images"], strict=True):
        mine = [a for a in folder.document["annotations"] if a["image_id"] == record.image_id]
        expected = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in mine)]
        assert (record.file_name, record.width, record.height) == (
            image["file_name"],
            image["width"],
            image["height"],
        )
        np.testing.assert_array_equal(record.boxes, np.array(expected, np.float32).reshape(-1, 4))
        assert record.boxes.dtype == np.float32
        assert record.labels.dtype == np.int32
        assert [report.category_ids[n] for n in record.labels] == [a["category_id"] for a in mine]
    assert report.dropped == {"crowd": 0, "without area": 0, "outside the image": 0}
    assert report.clipped == 0
    assert (len(report.records), report.box_count, len(report.categories)) == (6, 10, 2)


def test_crowd_boxes_are_left_out_and_counted(make_coco):
    folder = make_coco(3)
    folder.annotate(10, [1, 1, 5, 5], iscrowd=1)
    folder.annotate(10, [0, 0, 0, -5], iscrowd=1)  # not looked at
    folder.save()
    report = coco.read(folder.annotations, folder.images)
    assert report.dropped["crowd"] == 2
    assert report.box_count == 3


def test_boxes_over_the_border_by_a_fraction_are_clipped(make_coco):
    folder = make_coco(1)
    folder.annotate(10, [-0.5, -1.0, 65.4, 49.5])
    folder.save()
    report = coco.read(folder.annotations, folder.images)
    np.testing.assert_array_equal(report.records[0].boxes, [[0, 0, 64, 48]])
    assert report.clipped == 1


@pytest.mark.parametrize(
    "box", [[10, 10, 60, 5], [-1.1, 0, 5, 5], [0, 44, 5, 5.5], [0, -3, 5, 9], [500, 500, 5, 5]]
)
def test_box_outside_its_image(make_coco, box):
    folder = make_coco(1)
    folder.annotate(10, [1, 1, 5, 5])
    number = folder.annotate(10, box)
    fails(
        folder,
        str(folder.annotations),
        f"annotation {number} (000000.jpg, 64x48)",
        f"[{', '.join(f'{value:g}' for value in box)}]",
        "outside the image",
        "on_bad_box=drop",
    )
    report = coco.read(folder.annotations, folder.images, on_bad_box="drop")
    assert report.dropped == {"crowd": 0, "without area": 0, "outside the image": 1}
    assert report.box_count == 1


@pytest.mark.parametrize(
    "box",
    [
        [29.65, 38.33, 1.03, 0.0],  # as in official COCO
        [5, 5, -2, 3],
        [5, 5, float("nan"), 3],
        [float("inf"), 5, 2, 3],
        [40.1, 5, 1e-9, 3],  # no area in float32
        [64.5, 5, 0.2, 3],  # nothing is left inside
    ],
)
def test_box_without_area(make_coco, box):
    folder = make_coco(1)
    number = folder.annotate(10, box)
    fails(folder, f"annotation {number} (000000.jpg, 64x48)", "without area", "on_bad_box=drop")
    report = coco.read(folder.annotations, folder.images, on_bad_box="drop")
    assert report.dropped == {"crowd": 0, "without area": 1, "outside the image": 0}
    assert report.box_count == 0


def test_many_faults_name_three_and_the_number(make_coco):
    folder = make_coco(1)
    numbers = [folder.annotate(10, [1, 1, 0, 5]) for _ in range(5)]
    message = fails(folder, "(5 in all)", *(f"annotation {n} " for n in numbers[:3]))
    assert f"annotation {numbers[3]}" not in message


@pytest.mark.parametrize("box", [None, [1, 2, 3], "1 2 3 4", [1, 2, "3", 4], [1, 2, None, 4]])
def test_box_that_is_none(make_coco, box):
    folder = make_coco(1)
    number = folder.annotate(10, box)
    fails(folder, f"annotation {number}: {box!r}", "not a list of 4 numbers")


def test_missing_annotation_file(make_coco):
    folder = make_coco(1)
    file = folder.root / "nowhere.json"
    with pytest.raises(InputError, match=r"nowhere\.json: cannot read .*No such file"):
        coco.read(file, folder.images)


def test_broken_json_names_line_and_column(make_coco):
    folder = make_coco(1)
    folder.annotations.write_text('{"images": [],\n "annotations": [}')
    with pytest.raises(InputError, match=r"instances\.json: not valid JSON at line 2, column 18"):
        coco.read(folder.annotations, folder.images)


def test_truncated_json(make_coco):
    folder = make_coco(5)
    text = folder.annotations.read_text()
    folder.annotations.write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match=r"not valid JSON at line 1, column \d+"):
        coco.read(folder.annotations, folder.images)


def test_binary_file(make_coco):
    folder = make_coco(1)
    with pytest.raises(InputError, match="not JSON in UTF-8"):
        coco.read(folder.images / "000000.jpg", folder.images)


@pytest.mark.parametrize("content", ["[]", "3", '"images"'])
def test_json_of_another_kind(make_coco, content):
    folder = make_coco(1)
    folder.annotations.write_text(content)
    with pytest.raises(InputError, match="not a COCO file: the outermost value"):
        coco.read(folder.annotations, folder.images)


@pytest.mark.parametrize("key", ["images", "categories"])
def test_missing_list(make_coco, key):
    folder = make_coco(2)
    del folder.document[key]
    fails(folder, f"no list '{key}'", "'annotations'")
    folder.document[key] = {"a": 1}
    fails(folder, f"no list '{key}'")


def test_annotations_that_are_no_list(make_coco):
    folder = make_coco(2)
    folder.document["annotations"] = None
    fails(folder, "no list 'annotations'")
    folder.document["annotations"] = [3]
    fails(folder, "entry 0 of 'annotations' is not an object: 3")


def test_images_only_file_has_no_boxes(make_coco):
    folder = make_coco(3)
    del folder.document["annotations"]
    folder.document |= {"info": {}, "licenses": []}
    folder.save()
    report = coco.read(folder.annotations, folder.images)
    assert [record.boxes.shape for record in report.records] == [(0, 4)] * 3
    assert report.categories == ("lamp", "mug")
    del folder.document["categories"]
    folder.save()
    assert coco.read(folder.annotations, folder.images).categories == ()


def test_misspelt_annotations_are_not_taken_for_images_only(make_coco):
    folder = make_coco(3)
    folder.document["annotation"] = folder.document.pop("annotations")
    fails(folder, "no list 'annotations', but 'annotation'")


def test_no_images(make_coco):
    folder = make_coco(1)
    folder.document["images"] = []
    fails(folder, "the list 'images' is empty")


def test_missing_image_folder(make_coco):
    folder = make_coco(1)
    with pytest.raises(InputError, match=r"elsewhere: no such image folder; check data\.images"):
        coco.read(folder.annotations, folder.root / "elsewhere")


def test_missing_image_files(make_coco):
    folder = make_coco(5)
    for name in ("000001.jpg", "000003.jpg"):
        (folder.images / name).unlink()
    fails(folder, "2 of the 5 images", "the first is 000001.jpg", "data.images")


def test_images_in_subfolders(make_coco):
    folder = make_coco(2)
    (folder.images / "deep").mkdir()
    (folder.images / "000001.jpg").rename(folder.images / "deep/000001.jpg")
    fails(folder, "1 of the 2 images", "000001.jpg")
    folder.document["images"][1]["file_name"] = "deep/000001.jpg"
    folder.save()
    report = coco.read(folder.annotations, folder.images)
    assert report.records[1].file_name == "deep/000001.jpg"
    folder.document["images"][1]["file_name"] = "gone/000001.jpg"
    fails(folder, "the first is gone/000001.jpg")


@pytest.mark.parametrize("name", ["/etc/passwd", "../instances.json", "", 5, "a\0b"])
def test_file_names_stay_inside_the_folder(make_coco, name):
    folder = make_coco(2)
    folder.document["images"][1]["file_name"] = name
    fails(folder, f"image 11: {name!r}", "not a path inside the image folder")


@pytest.mark.parametrize("size", [(0, 48), (64, -1)])
def test_image_without_extent(make_coco, size):
    folder = make_coco(2)
    folder.document["images"][1].update(width=size[0], height=size[1])
    fails(folder, f"image 11 (000001.jpg): {size[0]}x{size[1]}")


def test_unknown_category(make_coco):
    folder = make_coco(1)
    number = folder.annotate(10, [1, 1, 5, 5], category=99)
    fails(folder, f"annotation {number}: 99", "category_id without category")


def test_unknown_image(make_coco):
    folder = make_coco(1)
    number = folder.annotate(99, [1, 1, 5, 5])
    fails(folder, f"annotation {number}: 99", "unknown images")


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_duplicate_ids(make_coco, key):
    folder = make_coco(3)
    entries = folder.document[key]
    entries[1]["id"] = entries[0]["id"]
    fails(folder, f"{key} with the same id: id {entries[0]['id']} (2 times)")


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("images", "id"),
        ("images", "file_name"),
        ("images", "width"),
        ("annotations", "id"),
        ("annotations", "bbox"),
        ("annotations", "image_id"),
        ("annotations", "category_id"),
        ("categories", "id"),
        ("categories", "name"),
    ],
)
def test_missing_field(make_coco, key, field):
    folder = make_coco(3)
    entry = folder.document[key][1]
    del entry[field]
    name = f"id {entry['id']}" if "id" in entry else "entry 1"
    fails(folder, f"{key} without '{field}': {name}")


@pytest.mark.parametrize("value", ["12", 1.5, None, True])
def test_ids_are_integers(make_coco, value):
    folder = make_coco(3)
    folder.document["annotations"][0]["image_id"] = value
    fails(folder, "'image_id' of annotations is not an integer", f"{value!r}")


@pytest.mark.coco
@pytest.mark.parametrize(
    ("split", "annotations", "crowd", "kept"),
    [("train2017", 705, 6, 699), ("val2017", 815, 11, 804)],
)
def test_real_coco(coco_tiny: Path, split, annotations, crowd, kept):
    file = coco_tiny / f"annotations/instances_{split}.json"
    report = coco.read(file, coco_tiny / split)
    document = json.loads(file.read_text())
    assert len(document["annotations"]) == annotations
    assert report.dropped == {"crowd": crowd, "without area": 0, "outside the image": 0}
    assert report.box_count == kept
    assert len(report.records) == 80
    assert len(report.categories) == 80
    assert report.categories[0] == "person"
    assert report.category_ids[-1] == 90
