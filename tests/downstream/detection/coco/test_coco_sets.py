"""COCO-format sets: read, refused with the entry named, and evaluated as pycocotools does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detection_sets import reference
from toy_detection import SIDE, Toy, mask_util, write_toy

from downstream.detection.coco.evaluate import METRICS, Scores, evaluate
from downstream.detection.coco.pictures import draw_detections
from downstream.detection.coco.sets import CocoSet, builtin_paths, read_coco
from downstream.detection.model.config import adapt, load_config
from pretrain.core.errors import InputError


def test_reading(toy: Toy) -> None:
    found = read_coco(toy.annotations, toy.images)
    assert found.category_ids == (3, 7)
    assert found.category_names == ("box", "disc")
    assert len(found.records) == 8
    assert len(list(found.objects())) == 14
    assert found.records[-1]["annotations"] == []
    assert not found.uses_rle()
    truth = found.ground_truth()
    assert [a["id"] for a in truth["annotations"]] == list(range(1, 16))
    assert {a["category_id"] for a in truth["annotations"]} == {3, 7}
    assert sum(a["iscrowd"] for a in truth["annotations"]) == 1


def test_rle_is_seen(toy_rle: Toy) -> None:
    assert read_coco(toy_rle.annotations, toy_rle.images).uses_rle()


def at(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        node: Any = content
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("categories"), "it needs lists"),
        (at("images", value=[]), "holds no images"),
        (at("categories", value=[]), "holds no categories"),
        (at("images", 1, "file_name", value="gone.png"), "gone.png: image 101 of .* is missing"),
        (at("images", 1, "file_name", value="sub/gone.png"), "gone.png: image 101"),
        (at("images", 1, "width", value="64"), "image 101: 'width' must be int"),
        (at("images", 1, "height", value=0), "image 101: width and height"),
        (at("images", 1, "id", value=100), "two entries have image id 100"),
        (at("annotations", 4, "id", value=3), "two entries have annotation id 3"),
        (at("annotations", 4, "id", value=None), "annotation at position 4 has no integer 'id'"),
        (at("annotations", 4, "image_id", value=5), "annotation 4: image_id 5 is not among"),
        (at("annotations", 4, "category_id", value=4), "annotation 4: category_id 4 is not among"),
        (at("annotations", 4, "bbox", value=[]), "annotation 4: 'bbox' must be"),
        (at("annotations", 14, "segmentation", "size", value=[9, 9]), "annotation 14: RLE needs"),
    ],
)
def test_bad_entries_are_named(
    toy: Toy, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    content = toy.content()
    change(content)
    toy.rewrite(content)
    with pytest.raises(InputError, match=message):
        read_coco(toy.annotations, toy.images)


def test_bad_paths_are_named(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such annotation file"):
        read_coco(tmp_path / "none.json", toy.images)
    with pytest.raises(InputError, match="no such folder of images"):
        read_coco(toy.annotations, tmp_path / "none")
    toy.annotations.write_text('{"images": [')
    with pytest.raises(InputError, match="not JSON"):
        read_coco(toy.annotations, toy.images)
    with pytest.raises(InputError, match="is not known"):
        builtin_paths("my_own_set")
    assert builtin_paths("coco_2017_val")[0].name == "instances_val2017.json"


def test_data_that_does_not_fit_the_config(toy: Toy, small_config: Path, tmp_path: Path) -> None:
    train = read_coco(toy.annotations, toy.images)
    content = toy.content()
    content["categories"][0]["name"] = "ring"
    toy.rewrite(content)
    other = read_coco(toy.annotations, toy.images)
    with pytest.raises(InputError, match="categories are not those of"):
        adapt(load_config(small_config, []), train, other, tmp_path)
    content["annotations"][5]["segmentation"] = []
    toy.rewrite(content)
    unmasked = read_coco(toy.annotations, toy.images)
    with pytest.raises(InputError, match=r"annotation 5 of 002.png .* MODEL.MASK_ON False"):
        adapt(load_config(small_config, []), unmasked, unmasked, tmp_path)
    content["annotations"] = [a for a in content["annotations"] if a["iscrowd"]]
    toy.rewrite(content)
    crowds = read_coco(toy.annotations, toy.images)
    with pytest.raises(InputError, match="no object to train on"):
        adapt(load_config(small_config, []), crowds, crowds, tmp_path)


def test_polygons_without_area_are_kept_as_such(toy: Toy) -> None:
    content = toy.content()
    content["annotations"][5]["segmentation"] = [[1, 2, 30, 40], [5, 5]]
    toy.rewrite(content)
    found = read_coco(toy.annotations, toy.images)
    (annotation,) = [a for _, a in found.objects() if a["id"] == 5]
    assert annotation["segmentation"] == [[1, 2, 30, 40, 30, 40], [5, 5, 5, 5, 5, 5]]
    assert measured(found, [], "segm").metrics["AP"] == 0


def measured(found: CocoSet, detections: list[dict[str, Any]], kind: str) -> Scores:
    return evaluate(found.ground_truth(), detections, (kind,))[kind]


def noisy_detections(found: CocoSet, seed: int) -> list[dict[str, Any]]:
    """Each object about found, with shifted box and mask, and some false alarms."""
    rng = np.random.default_rng(seed)
    detections = []
    objects = [(r["image_id"], a["bbox"], a["category_id"]) for r, a in found.objects()]
    objects += [(107, [3.0, 4.0, 20.0, 20.0], 0), (100, [1.0, 1.0, 8.0, 60.0], 0)]
    for image, box, category in objects * 2:
        x, y, width, height = np.clip(np.array(box) + rng.integers(-3, 4, 4), 0, SIDE).tolist()
        mask = np.zeros((SIDE, SIDE), dtype=np.uint8, order="F")
        mask[int(y) : int(y + height), int(x) : int(x + width)] = 1
        coded = mask_util.encode(mask)
        detections.append(
            {
                "image_id": image,
                "category_id": found.category_ids[category],
                "bbox": [x, y, width, height],
                "score": float(rng.uniform()),
                "segmentation": {**coded, "counts": coded["counts"].decode()},
            }
        )
    return detections


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_pycocotools(tmp_path: Path, kind: str, seed: int) -> None:
    toy = write_toy(tmp_path / "t", images=8, rle=bool(seed % 2), seed=seed)
    found = read_coco(toy.annotations, toy.images)
    detections = noisy_detections(found, seed)
    scores = measured(found, detections, kind)
    metrics, by_category = scores.metrics, scores.by_category
    evaluation = reference(found.ground_truth(), detections, kind)
    expected = dict(zip(METRICS, evaluation.stats[:6], strict=True))
    assert expected["APl"] == -1
    assert "APl" not in metrics
    assert 0 < metrics["AP"] < 100
    for name, value in metrics.items():
        assert value == pytest.approx(100 * expected[name], abs=1e-9)
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    for k, name in enumerate(("box", "disc")):
        assert by_category[name] == pytest.approx(100 * precision[:, :, k].mean(), abs=1e-9)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_perfect_detections_and_none(toy_rle: Toy, kind: str) -> None:
    found = read_coco(toy_rle.annotations, toy_rle.images)
    perfect = [
        {
            "image_id": record["image_id"],
            "category_id": found.category_ids[a["category_id"]],
            "bbox": a["bbox"],
            "score": 1.0,
            "segmentation": a["segmentation"],
        }
        for record, a in found.objects()
    ]
    scores = measured(found, perfect, kind)
    assert scores.metrics["AP"] == pytest.approx(100)
    assert scores.by_category == {"box": pytest.approx(100), "disc": pytest.approx(100)}
    scores = measured(found, [], kind)
    metrics, by_category = scores.metrics, scores.by_category
    assert metrics["AP"] == metrics["AP50"] == metrics["APs"] == 0
    assert "APl" not in metrics
    assert by_category == {"box": 0, "disc": 0}


def test_drawing(toy: Toy, tmp_path: Path) -> None:
    from PIL import Image

    found = read_coco(toy.annotations, toy.images)
    files = draw_detections(found, noisy_detections(found, 0), tmp_path / "drawn")
    assert len(files) == len(set(files)) == 4
    assert "000000000107.jpg" not in [file.name for file in files]  # it has no object
    with Image.open(files[0]) as picture:
        assert max(picture.size) == 480
    assert draw_detections(found, [], tmp_path / "empty")
