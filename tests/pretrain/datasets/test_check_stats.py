from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import hcl
from pretrain.data.index import Index
from pretrain.datasets.check import check
from pretrain.datasets.index_stats import stats
from pretrain.datasets.index_writer import IndexWriter, build_index
from pretrain.datasets.readers import coco
from pretrain.datasets.records import Record, Stream


@pytest.fixture
def index(make_coco, tmp_path) -> Index:
    folder = make_coco(10)
    return build_index(coco.stream(folder.annotations, folder.images), tmp_path / "index")


def write(folder, images, records, categories=("a", "b")) -> Index:
    with IndexWriter(folder, images) as writer:
        for record in records:
            writer.append(record)
        writer.finish(
            Stream(
                folder / "p",
                images,
                categories=categories,
                category_ids=tuple(range(len(categories))),
                dropped={"group": 3},
                clipped=1,
            )
        )
    return Index.open(folder)


def row(name, size, boxes, labels=None, flags=None) -> Record:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.zeros(len(boxes), np.int32) if labels is None else np.array(labels, np.int32)
    return Record(name, *size, boxes, labels, 0, None if flags is None else np.uint8(flags))


def test_a_sound_index(index, capsys):
    report = check(index)
    assert (report.images, report.boxes, report.without_boxes) == (10, index.box_count, 2)
    assert report.faults == []
    assert hcl.main(["data", "check", str(index.folder), "--workers", "2"]) == 0
    assert "10 images (2 without boxes)" in capsys.readouterr().out


def test_every_fault_is_found_and_named(index, capsys):
    images = index.images
    (images / "000001.jpg").write_bytes(b"")
    (images / "000003.jpg").unlink()
    content = (images / "000004.jpg").read_bytes()
    (images / "000004.jpg").write_bytes(content[:-80])
    Image.new("RGB", (5, 5)).save(images / "000006.jpg")
    assert hcl.main(["data", "check", str(index.folder), "--json", "--workers", "3"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["by_kind"] == {"image": 4}
    assert [(f["row"], f["file"]) for f in found["faults"]] == [
        (n, f"00000{n}.jpg") for n in (1, 3, 4, 6)
    ]
    reasons = [fault["reason"] for fault in found["faults"]]
    assert reasons[0] == "the file is empty"
    assert reasons[1] == "cannot be read: No such file or directory"
    assert "truncated" in reasons[2]
    assert reasons[3] == "it has 5x5 px, but the annotations say 48x64"
    assert hcl.main(["data", "check", str(index.folder)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "image: row 1 000001.jpg: the file is empty"
    assert said[-1].endswith("faults: 4 image")


def test_boxes_labels_flags_and_names(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    good = [0, 0, 30, 20]
    index = write(
        tmp_path / "index",
        tmp_path,
        [
            row("a.png", (30, 20), [good, [5, 5, np.nan, 9], [5, 5, 5, 9], [-1, 0, 9, 9]]),
            row("a.png", (30, 20), [good, [0, 0, 30.5, 20]], [0, 2], [0, 128]),
            row("../a.png", (30, 20), []),
        ],
    )
    faults = [(f.kind, f.row, f.reason) for f in check(index).faults]
    assert (
        faults
        == [
            ("name", 1, "the same file as row 0"),
            ("name", 2, "not a path inside the image folder"),
            ("box", 0, "box 1 [5, 5, nan, 9] of 30x20 px: not finite"),
            ("box", 0, "box 2 [5, 5, 5, 9] of 30x20 px: without area"),
            ("box", 0, "box 3 [-1, 0, 9, 9] of 30x20 px: outside the image"),
            ("box", 1, "box 1 [0, 0, 30.5, 20] of 30x20 px: outside the image"),
            ("label", 1, "box 1 [0, 0, 30.5, 20] of 30x20 px: a label without category"),
            ("label", 1, "box 1 [0, 0, 30.5, 20] of 30x20 px: an unknown flag"),
            ("image", 2, "cannot be read: No such file or directory"),
        ]
        or faults[:-1] == faults[:8]
    )


def test_changed_columns(index):
    boxes = np.load(index.folder / "boxes.npy")
    boxes[0, 0] += 0.5
    np.save(index.folder / "boxes.npy", boxes)
    faults = check(Index.open(index.folder)).faults
    assert [fault.kind for fault in faults] == ["index"]
    assert "content has changed" in faults[0].reason
    offsets = np.load(index.folder / "box_offsets.npy")
    offsets[3], offsets[4] = offsets[4] + 5, offsets[3]
    np.save(index.folder / "box_offsets.npy", offsets)
    faults = check(Index.open(index.folder)).faults
    assert [fault.reason for fault in faults] == ["box_offsets do not divide boxes"]


def test_no_index_ends_in_two(tmp_path, capsys):
    assert hcl.main(["data", "check", str(tmp_path)]) == 2
    assert "no index here" in capsys.readouterr().err


def test_statistics_against_counting_by_hand(tmp_path):
    small, medium, large = [0, 0, 31, 33], [0, 0, 32, 32], [0, 0, 96, 96]
    thin = [0, 0, 100, 10]
    index = write(
        tmp_path / "index",
        tmp_path,
        [
            row("a", (100, 100), [small, medium, large], [0, 1, 1], [1, 64, 0]),
            row("b", (200, 100), [large, thin], [1, 1]),
            row("c", (300, 100), []),
            row("d", (400, 100), [thin], [0]),
        ],
        categories=("a", "b", "c"),
    )
    found = stats(index, min_box_area=1000, min_boxes=2)
    assert (found["images"], found["boxes"], found["categories"]) == (4, 6, 3)
    assert found["box_sizes"] == {"small": 3, "medium": 1, "large": 2}
    per_image = found["boxes_per_image"]
    assert (per_image["without"], per_image["one"], per_image["two_or_more"]) == (1, 1, 2)
    assert per_image["mean"] == 1.5
    assert found["image_width"]["100%"] == 400
    assert found["box_aspect"]["100%"] == 10
    assert found["flags"]["group"] == 1
    assert found["flags"]["proposal"] == 1
    assert found["classes"] == [
        {"name": "b", "boxes": 4, "images": 2},
        {"name": "a", "boxes": 2, "images": 2},
    ]
    assert found["classes_per_image"]["100%"] == 2
    # Of 31x33, 32x32, 96x96, 96x96, 100x10, 100x10 px all but none are below 1000 px².
    assert found["usable"]["boxes"] == 6
    assert found["usable"]["images"] == 2
    assert found["usable"]["share"] == 0.5
    assert found["dropped"] == {"group": 3}
    assert stats(index, min_box_area=1001, min_boxes=1)["usable"]["boxes"] == 4


def test_stats_command(index, tmp_path, capsys):
    assert hcl.main(["data", "stats", str(index.folder), "--top", "1"]) == 0
    said = capsys.readouterr().out
    assert "images            10" in said
    assert "and 1 more" in said
    assert "usable for HCL    0 images" in said
    arguments = ["data", "stats", str(index.folder), "--json", "--min-box-area", "1"]
    assert hcl.main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["usable"]["images"] == 6
    empty = write(tmp_path / "empty", tmp_path, [row("a", (5, 5), [])], categories=())
    assert hcl.main(["data", "stats", str(empty.folder)]) == 0
    assert "boxes             0 in 0 categories" in capsys.readouterr().out


@pytest.mark.coco
def test_real_coco(coco_tiny, tmp_path, capsys):
    arguments = ["data", "prepare", "coco", str(coco_tiny), "--output", str(tmp_path / "index")]
    assert hcl.main(arguments) == 0
    assert hcl.main(["data", "check", str(tmp_path / "index")]) == 0
    assert hcl.main(["data", "stats", str(tmp_path / "index")]) == 0
    said = capsys.readouterr().out
    assert "80 images, 699 boxes" in said
    assert "no faults" in said
    assert "usable for HCL    61 images (76.2%)" in said
