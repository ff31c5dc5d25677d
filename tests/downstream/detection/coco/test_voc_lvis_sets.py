"""PASCAL VOC's folders and LVIS's files: read, trained on, and measured by their own metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy_detection import Toy

import hcl
from downstream.detection.coco.lvis import (
    LIMIT,
    LvisSet,
    is_lvis,
    lvis_average_precision,
    read_lvis,
)
from downstream.detection.coco.transfer_sets import read_set
from downstream.detection.coco.voc_sets import VocSet, read_voc
from downstream.results.collect import collect
from downstream.results.protocols import protocol_of
from downstream.results.result import read_result
from pretrain.core.errors import InputError
from pretrain.core.files import sha256

# xmin, ymin, xmax, ymax as pixels from 1, class, difficult
OBJECTS = {
    "000005": [((1, 1, 64, 48), "cat", 0), ((9, 5, 24, 20), "dog", 1)],
    "000007": [((3, 3, 40, 40), "dog", 0)],
}
# detectron2 cannot read a list of one image.
LATER = {"2008_000002": OBJECTS["000007"], "2008_000003": OBJECTS["000005"]}


def write_voc(root: Path, year: int, split: str, objects: dict[str, list[Any]]) -> None:
    folder = root / f"VOC{year}"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, entries in objects.items():
        pixels = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"JPEGImages/{name}.jpg")
        items = "".join(
            f"<object><name>{label}</name><difficult>{hard}</difficult><bndbox><xmin>{box[0]}"
            f"</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>"
            "</object>"
            for box, label, hard in entries
        )
        size = "<size><width>64</width><height>48</height><depth>3</depth></size>"
        text = f"<annotation>{size}{items}</annotation>"
        (folder / f"Annotations/{name}.xml").write_text(text)
    (folder / f"ImageSets/Main/{split}.txt").write_text("\n".join(objects) + "\n")


@pytest.fixture
def devkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_voc(tmp_path / "voc", 2007, "trainval", OBJECTS)
    write_voc(tmp_path / "voc", 2012, "trainval", LATER)
    write_voc(tmp_path / "voc", 2007, "test", {"000009": OBJECTS["000005"]})
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "voc"))
    return tmp_path / "voc"


def test_voc_is_what_detectron2_reads(devkit: Path) -> None:
    """Its boxes are corners; ours have width and height."""
    from detectron2.data.datasets.pascal_voc import CLASS_NAMES, load_voc_instances

    found = read_voc(["voc_2007_trainval", "voc_2012_trainval"], devkit)
    assert isinstance(found, VocSet)
    assert found.category_names == tuple(CLASS_NAMES)
    theirs = [
        record
        for year in (2007, 2012)
        for record in load_voc_instances(str(devkit / f"VOC{year}"), "trainval", CLASS_NAMES)
    ]
    assert [r["file_name"] for r in found.records] == [r["file_name"] for r in theirs]
    assert [r["image_id"] for r in found.records] == [5, 7, 2008000002, 2008000003]
    for mine, other in zip(found.records, theirs, strict=True):
        assert (mine["width"], mine["height"]) == (other["width"], other["height"])
        for one, two in zip(mine["annotations"], other["annotations"], strict=True):
            x, y, width, height = one["bbox"]
            assert [x, y, x + width, y + height] == two["bbox"]
            assert one["category_id"] == two["category_id"]
    assert [a["difficult"] for a in found.records[0]["annotations"]] == [0, 1]


def test_voc_names_that_are_none(devkit: Path) -> None:
    with pytest.raises(InputError, match="give VOC's alone"):
        read_voc(["voc_2007_test", "coco_2017_val"], devkit)
    with pytest.raises(InputError, match="no such list of images"):
        read_voc(["voc_2012_test"], devkit)


def test_voc_end_to_end(devkit: Path, small_config: Path, tmp_path: Path) -> None:
    sets = ["DATASETS.TRAIN=('voc_2007_trainval', 'voc_2012_trainval')"]
    sets += ["DATASETS.TEST=('voc_2007_test',)", "MODEL.MASK_ON=False"]
    output = tmp_path / "out"
    assert hcl.main(["detect", str(small_config), "--output", str(output), *sets]) == 0
    result = read_result(output)
    assert set(result.metrics) == {"bbox/AP", "bbox/AP50", "bbox/AP75"}
    assert result.protocol["metric"] == "voc07"
    # The comparison knows VOC's table by this name, and reads the ground truth from it.
    (measured,) = collect([output]).results
    assert protocol_of(measured).data == "voc_2007_test"
    path = Path(result.provenance["val"]["annotations"])
    assert result.protocol["val_annotations_sha256"] == sha256(path)
    truth = json.loads(path.read_text())
    assert [a["difficult"] for a in truth["annotations"]] == [0, 1]


def lvis_content(toy: Toy) -> dict[str, Any]:
    """The toy set as LVIS would have it: places by URL, no crowds, facts on every image."""
    content = toy.content()
    for image in content["images"]:
        image["coco_url"] = f"http://example.org/images/{image.pop('file_name')}"
        image |= {"neg_category_ids": [3], "not_exhaustive_category_ids": []}
    content["annotations"] = [a for a in content["annotations"] if not a["iscrowd"]]
    for category, frequency in zip(content["categories"], "fr", strict=True):
        category["frequency"] = frequency
    return content


def test_lvis_end_to_end(toy: Toy, small_config: Path, tmp_path: Path) -> None:
    content = lvis_content(toy)
    assert is_lvis(content)
    assert not is_lvis(toy.content())
    path = tmp_path / "lvis_v1_val.json"
    path.write_text(json.dumps(content))
    data = [str(path), str(toy.images.parent)]
    found = read_set((data[0] and path, toy.images.parent), ())
    assert isinstance(found, LvisSet)
    assert found.frequencies == ("r", "f")  # of categories 3 and 7
    more = ["--train", *data, "--val", *data, "--output", str(tmp_path / "out")]
    more += ["DATALOADER.SAMPLER_TRAIN=RepeatFactorTrainingSampler"]
    assert hcl.main(["detect", str(small_config), *more]) == 0
    result = read_result(tmp_path / "out")
    assert {"bbox/AP", "bbox/APr", "bbox/APf", "segm/APr"} <= set(result.metrics)
    assert "bbox/APc" not in result.metrics
    assert result.protocol["metric"] == "lvis"


def test_lvis_federated_rules() -> None:
    """What LVIS leaves out or ignores changes nothing; what it knows to be wrong does."""
    pytest.importorskip("faster_coco_eval")
    images = [
        {"id": 1, "width": 100, "height": 100}
        | {"neg_category_ids": [2], "not_exhaustive_category_ids": []},
        {"id": 2, "width": 100, "height": 100}
        | {"neg_category_ids": [], "not_exhaustive_category_ids": [1]},
    ]
    categories = [{"id": n, "name": str(n), "frequency": f} for n, f in ((1, "r"), (2, "f"))]
    box = {"bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}
    objects = [{"id": n, "image_id": n, "category_id": 1, **box} for n in (1, 2)]
    objects.append({"id": 3, "image_id": 1, "category_id": 2, **box})
    truth = {"images": images, "annotations": objects, "categories": categories}
    right = [
        {
            "image_id": o["image_id"],
            "category_id": o["category_id"],
            "bbox": o["bbox"],
            "score": 0.5,
        }
        for o in objects
    ]

    def ap(*more: dict[str, Any]) -> dict[str, float]:
        return lvis_average_precision(truth, [*right, *more], "bbox")[0]

    def wrong(image: int, category: int) -> dict[str, Any]:
        where = {"image_id": image, "category_id": category}
        return {**where, "bbox": [60, 60, 20, 20], "score": 0.9}

    assert ap()["AP"] == pytest.approx(100)
    assert ap()["APr"] == ap()["APf"] == pytest.approx(100)
    assert ap(wrong(2, 2)) == ap()  # nobody looked for category 2 there
    assert ap(wrong(2, 1)) == ap()  # not every object of category 1 there is labeled
    assert ap(wrong(1, 1))["APr"] < 100  # a mistake
    assert ap(wrong(1, 2))["APf"] < 100
    # Of one image the best 300 count: these push the right ones out.
    assert ap(*[wrong(1, 3 - n % 2 - 1) for n in range(LIMIT)])["APf"] == 0
    assert lvis_average_precision(truth, [], "bbox")[0]["AP"] == 0


def test_lvis_files_that_are_none(toy: Toy, tmp_path: Path) -> None:
    content = lvis_content(toy)
    content["categories"][0]["frequency"] = "often"
    with pytest.raises(InputError, match="frequency must be one of"):
        read_lvis(content, toy.annotations, toy.images.parent)
    del content["categories"][0]["frequency"]
    with pytest.raises(InputError, match="not an LVIS file"):
        read_lvis(content, toy.annotations, toy.images.parent)
