"""`hcl data crops`: objects as a folder of class folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import read_image

import hcl
from downstream.retrieval.datasets import class_folders
from downstream.retrieval.datasets.crop_folder import Options, file_names, folder_names, write_crops
from pretrain.core.errors import InputError


@pytest.fixture
def coco_set(tmp_path) -> Path:
    """Two images in folders of the same file name; class by color; one box small, one bad."""
    images, annotations = [], []
    boxes = [(1, [4, 4, 20, 24]), (2, [40, 10, 20, 20]), (3, [10, 40, 18, 18]), (1, [50, 50, 6, 6])]
    for number, part in enumerate(("a", "b"), start=1):
        pixels = np.zeros((64, 80, 3), np.uint8)
        for category, (x, y, w, h) in boxes:
            pixels[y : y + h, x : x + w, category - 1] = 100 * number
        (tmp_path / "images" / part).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "images" / part / "same.png")
        images.append({"id": number, "file_name": f"{part}/same.png", "width": 80, "height": 64})
        for category, box in boxes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [
        {"id": 1, "name": "red thing", "supercategory": "warm"},
        {"id": 2, "name": "green/thing", "supercategory": "cold"},
        {"id": 3, "name": "blue", "supercategory": "cold"},
    ]
    save(tmp_path, images, annotations, categories)
    return tmp_path


def save(root: Path, images: list, annotations: list, categories: list) -> None:
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "set.json").write_text(json.dumps(content))


def command(root: Path, *more: str) -> list[str]:
    return ["data", "crops", str(root / "set.json"), str(root / "images"), str(root / "out"), *more]


def test_every_object_of_enough_pixels_is_a_file_in_the_folder_of_its_class(coco_set, capsys):
    assert hcl.main(command(coco_set, "--size", "16", "--context", "0")) == 0
    printed = capsys.readouterr().out
    assert "6 objects of 3 classes" in printed
    found = sorted(str(p.relative_to(coco_set / "out")) for p in coco_set.glob("out/*/*"))
    names = [
        *("blue/a_same_02.png", "blue/b_same_02.png"),
        *("green_thing/a_same_01.png", "green_thing/b_same_01.png"),
        *("red thing/a_same_00.png", "red thing/b_same_00.png"),
    ]
    assert found == names
    for name in names:
        pixels = read_image(str(coco_set / "out" / name))
        assert pixels.shape == (3, 16, 16)
        channel = {"r": 0, "g": 1, "b": 2}[name[0]]
        color = [0, 0, 0]
        color[channel] = 100 if "/a_" in name else 200
        assert torch.equal(pixels, torch.tensor(color).view(3, 1, 1).expand(3, 16, 16)), name
    images = class_folders.read(coco_set / "out", train_classes=1)
    assert images.counts() == {"train": (2, 1), "test": (4, 2)}


def test_coarse_classes_and_context(coco_set):
    options = Options(
        annotations=coco_set / "set.json",
        images=coco_set / "images",
        output=coco_set / "out",
        size=32,
        classes="coarse",
        min_side=0,
        context=0.5,
    )
    made = write_crops(options)
    assert made == {"cold": 4, "warm": 4}
    wide = read_image(str(coco_set / "out/warm/b_same_00.png"))
    assert (wide[:, 0, 16] == 0).all(), "half of the box's height above it is black, or cut off"
    assert wide[0, 16, 16] == 200


def test_nothing_is_overwritten_and_nothing_half_done_stays(coco_set, capsys):
    (coco_set / "out").mkdir()
    (coco_set / "out/mine.txt").write_text("mine")
    assert hcl.main(command(coco_set)) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert [p.name for p in (coco_set / "out").iterdir()] == ["mine.txt"]
    (coco_set / "out/mine.txt").unlink()
    (coco_set / "images/b/same.png").write_bytes(b"no image")
    assert hcl.main(command(coco_set)) == 2
    assert "b/same.png" in capsys.readouterr().err
    assert sorted(p.name for p in coco_set.iterdir()) == ["images", "out", "set.json"]
    assert not list((coco_set / "out").iterdir())


def test_bad_boxes_are_refused_or_left_out(coco_set, capsys):
    content = json.loads((coco_set / "set.json").read_text())
    content["annotations"][0]["bbox"] = [200, 200, 30, 30]
    (coco_set / "set.json").write_text(json.dumps(content))
    assert hcl.main(command(coco_set)) == 2
    assert "set.json" in capsys.readouterr().err
    assert hcl.main(command(coco_set, "--on-bad-box", "drop")) == 0
    assert "5 objects of 3 classes" in capsys.readouterr().out
    for option, value in (("--context", "-1"), ("--min-side", "nan"), ("--min-side", "inf")):
        with pytest.raises(SystemExit) as stopped:
            hcl.main([*command(coco_set)[:-1], str(coco_set / "o"), option, value])
        assert stopped.value.code == 2
        assert f"{option}: must be a number from 0" in capsys.readouterr().err


def test_images_whose_objects_would_share_files_are_refused(coco_set, capsys):
    content = json.loads((coco_set / "set.json").read_text())
    (coco_set / "images/b/same.png").rename(coco_set / "images/a_same.png")
    content["images"][1]["file_name"] = "a_same.png"
    (coco_set / "set.json").write_text(json.dumps(content))
    assert hcl.main(command(coco_set)) == 2
    assert "'a/same.png' and 'a_same.png' would both be 'a_same_00.png'" in capsys.readouterr().err
    assert not (coco_set / "out").exists()


@pytest.mark.parametrize("absolute", [True, False])
def test_images_elsewhere_are_refused(coco_set, capsys, absolute):
    content = json.loads((coco_set / "set.json").read_text())
    elsewhere = str(coco_set / "images/a/same.png") if absolute else "../images/a/same.png"
    content["images"][0]["file_name"] = elsewhere
    (coco_set / "set.json").write_text(json.dumps(content))
    before = sorted(coco_set.rglob("*.png"))
    assert hcl.main(command(coco_set)) == 2
    assert "not a path inside the image folder" in capsys.readouterr().err
    assert sorted(coco_set.rglob("*.png")) == before


def test_names_of_files():
    assert file_names(["a/b.jpg", "../c.d.png", "e:f"], Path("x")) == ["a_b", "__c.d", "e_f"]
    for pair in (["a/b.jpg", "a_b.jpg"], ["x.jpg", "x.png"], ["x.jpg", "X.jpg"], ["x", "x"]):
        with pytest.raises(InputError, match=r"x: the objects of images"):
            file_names(pair, Path("x"))


def test_names_of_folders():
    assert folder_names(["a/b", "..", "hot dog", "a/b"], Path("x")) == [
        "a_b",
        "_",
        "hot dog",
        "a_b",
    ]
    with pytest.raises(InputError, match=r"x: categories 'a/b' and 'a:b' would both be"):
        folder_names(["a/b", "a:b"], Path("x"))
    with pytest.raises(InputError, match="'Fish' and 'fish'"):
        folder_names(["Fish", "fish"], Path("x"))
