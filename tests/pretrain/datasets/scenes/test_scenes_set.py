from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pretrain.core.errors import InputError
from pretrain.datasets.scenes import coco_writer
from pretrain.datasets.scenes.coco_writer import annotation_file, write
from pretrain.datasets.scenes.compose import compose
from pretrain.datasets.scenes.procedural import ProceduralSource
from pretrain.datasets.scenes.scene_set import SceneSet


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("split", ["train", "val"])
def test_pycocotools_sees_the_very_masks_boxes_and_areas(
    split: str, scenes: Path, wanted: SceneSet
) -> None:
    coco = COCO(str(annotation_file(scenes, split)))
    stream, first, count = {"train": (0, 1, wanted.images), "val": (1, 71, wanted.val)}[split]
    assert sorted(coco.imgs) == list(range(first, first + count))
    for index in range(0, count, 3):
        rng = np.random.default_rng([wanted.seed, stream, index])
        scene = compose(ProceduralSource(), wanted.size, wanted.out_of_context, rng)
        image = coco.imgs[first + index]
        assert image["context"] == scene.context
        annotations = coco.imgToAnns[first + index]
        assert len(annotations) == len(scene.objects)
        total = np.zeros((wanted.size, wanted.size), dtype=int)
        for annotation, item in zip(annotations, scene.objects, strict=True):
            mask = coco.annToMask(annotation)
            assert np.array_equal(mask, item.mask)
            assert annotation["area"] == mask.sum() >= 40
            rows, columns = np.nonzero(mask)
            x, y, w, h = annotation["bbox"]
            assert (columns.min(), rows.min()) == (x, y)
            assert (columns.max() + 1, rows.max() + 1) == (x + w, y + h)
            assert coco.cats[annotation["category_id"]]["name"] == item.category.name
            assert annotation["iscrowd"] == 0
            total += mask
        assert total.max() == 1


def test_images_are_jpegs_of_the_stated_size(scenes: Path, wanted: SceneSet) -> None:
    for split, first, count in wanted.splits():
        names = sorted(path.name for path in (scenes / split).iterdir())
        assert names == [f"{first + i:012d}.jpg" for i in range(count)]
        content = json.loads(annotation_file(scenes, split).read_text())
        for image in content["images"][:5]:
            with Image.open(scenes / split / image["file_name"]) as picture:
                picture.load()
                assert picture.format == "JPEG"
                assert picture.mode == "RGB"
                assert picture.size == (image["width"], image["height"]) == (80, 80)


def test_ids_flags_and_categories_are_consistent(scenes: Path, wanted: SceneSet) -> None:
    image_ids, annotation_ids, foreign = [], [], 0
    for split, _, _ in wanted.splits():
        content = json.loads(annotation_file(scenes, split).read_text())
        contexts = content["info"]["contexts"]
        names = {c["id"]: c["name"] for c in content["categories"]}
        for category in content["categories"]:
            homes = [name for name, members in contexts.items() if category["name"] in members]
            assert set(homes) == set(category["contexts"])
            assert category["supercategory"] == category["contexts"][0]
        flagged = {a["id"]: a for a in content["annotations"] if a["out_of_context"]}
        stated = {i["out_of_context"]: i for i in content["images"]}
        stated.pop(None)
        assert set(flagged) == set(stated)
        foreign += len(flagged)
        by_image = {image["id"]: image for image in content["images"]}
        for annotation in content["annotations"]:
            image = by_image[annotation["image_id"]]
            at_home = names[annotation["category_id"]] in contexts[image["context"]]
            assert at_home != annotation["out_of_context"]
            assert annotation["out_of_context"] == (image["out_of_context"] == annotation["id"])
        image_ids += list(by_image)
        annotation_ids += [a["id"] for a in content["annotations"]]
    assert len(set(image_ids)) == len(image_ids) == 90
    assert len(set(annotation_ids)) == len(annotation_ids)
    assert 27 - 18 <= foreign <= 27 + 18  # 4 standard deviations of a share of 0.3


def test_context_makes_categories_occur_together(scenes: Path) -> None:
    content = json.loads(annotation_file(scenes, "train").read_text())
    home = {c["id"]: c["supercategory"] for c in content["categories"]}
    images: dict[int, list[str]] = {}
    for annotation in content["annotations"]:
        images.setdefault(annotation["image_id"], []).append(home[annotation["category_id"]])

    def agreement(groups: list[list[str]]) -> float:
        pairs = [a == b for g in groups for i, a in enumerate(g) for b in g[i + 1 :]]
        return float(np.mean(pairs))

    observed = agreement(list(images.values()))
    pool = [name for group in images.values() for name in group]
    rng = np.random.default_rng(0)
    shuffled = []
    for _ in range(20):
        order = iter(rng.permutation(pool).tolist())
        shuffled.append(agreement([[next(order) for _ in group] for group in images.values()]))
    assert observed > 0.45
    assert max(shuffled) < 0.3
    assert len(Counter(pool)) == 7


def test_bytes_do_not_depend_on_the_number_of_workers(
    scenes: Path, wanted: SceneSet, tmp_path: Path
) -> None:
    write(wanted, tmp_path / "again", workers=2)
    assert digest(tmp_path / "again") == digest(scenes)


def test_streams_differ_between_splits_and_seeds_but_not_with_the_count(
    scenes: Path, tmp_path: Path
) -> None:
    write(SceneSet(images=6, val=2, seed=5, size=80, out_of_context=0.3), tmp_path / "few")
    write(SceneSet(images=6, val=0, seed=6, size=80, out_of_context=0.3), tmp_path / "other")
    few, other, many = digest(tmp_path / "few"), digest(tmp_path / "other"), digest(scenes)
    names = [f"train/{i:012d}.jpg" for i in range(1, 7)]
    assert [few[n] for n in names] == [many[n] for n in names]
    assert not {few[n] for n in names} & {other[n] for n in names}
    assert few["val/000000000007.jpg"] == many["val/000000000071.jpg"] != few[names[0]]
    assert not (tmp_path / "other/val").exists()


def test_a_failed_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def full_disk(*arguments: object) -> None:
        calls.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(coco_writer, "compose", full_disk)
    with pytest.raises(InputError, match=r"out: cannot be written \(No space left on device\)"):
        write(SceneSet(images=3, val=0, seed=0, size=64), tmp_path / "out")
    assert calls
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_official_evaluation_takes_it(kind: str, scenes: Path) -> None:
    truth = COCO(str(annotation_file(scenes, "val")))
    keys = ("image_id", "category_id", "bbox", "segmentation")
    perfect = [
        {**{key: annotation[key] for key in keys}, "score": 0.9}
        for annotation in truth.anns.values()
    ]
    for detection in perfect:
        del detection["segmentation" if kind == "bbox" else "bbox"]
    evaluation = COCOeval(truth, truth.loadRes(perfect), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == 1.0
