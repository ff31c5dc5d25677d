"""Average precision by every backend, and VOC's, against their references."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pycocotools", reason="needs pycocotools")

from detection_sets import hostile, reference

from downstream.detection.coco import backends
from downstream.detection.coco.evaluate import METRICS, evaluate
from downstream.detection.coco.voc_metric import voc_average_precision
from pretrain.core.errors import InputError


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_all_backends_are_pycocotools(kind, seed):
    content, detections = hostile(seed)
    expected = reference(content, detections, kind)
    table = expected.eval["precision"][..., -1]
    assert (table[:, :, 2] == -1).all(), "category 7 has no object"
    for backend in backends.available():
        scores = evaluate(content, detections, (kind,), backend)[kind]
        np.testing.assert_allclose(scores.precision, table, atol=1e-6, err_msg=backend)
        for name, value in zip(METRICS, expected.stats[:6], strict=True):
            assert scores.metrics[name] == pytest.approx(100 * value, abs=1e-6), (backend, name)
        assert set(scores.by_category) == {"c2", "c5", "c9"}
        assert scores.by_category["c5"] == 0
    assert 5 < 100 * expected.stats[0] < 95


@pytest.mark.parametrize("backend", backends.available())
def test_no_detection_is_zero(backend):
    content, _ = hostile(0)
    scores = evaluate(content, [], backend=backend)
    assert scores["bbox"].metrics["AP"] == scores["segm"].metrics["APl"] == 0


@pytest.mark.parametrize("backend", backends.available())
def test_no_object_measures_nothing(backend):
    content, detections = hostile(0)
    content["annotations"] = []
    scores = evaluate(content, detections, backend=backend)
    assert scores["bbox"].metrics == scores["segm"].by_category == {}


def test_arguments_stay_as_they_are():
    content, detections = hostile(1)
    before = copy.deepcopy((content, detections))
    evaluate(content, detections)
    assert (content, detections) == before


def test_files_are_read(tmp_path):
    content, detections = hostile(1)
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "found.json").write_text(json.dumps(detections))
    from_files = evaluate(tmp_path / "truth.json", tmp_path / "found.json")
    assert from_files["segm"].metrics == evaluate(content, detections)["segm"].metrics


def test_backend_is_the_fastest_installed(monkeypatch):
    assert backends.choose("auto") == backends.available()[0]
    with pytest.raises(InputError, match="'cocoeval' is not there"):
        backends.choose("cocoeval")
    monkeypatch.setattr(backends, "_LIBRARIES", {"gone": ("no_such_module_at_all", "", "")})
    with pytest.raises(InputError, match="installed: none"):
        backends.choose("auto")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 1}, "image 1 or category 2 is not in the annotations"),
        ({"category_id": 1}, "category 1 is not in the annotations"),
        ({"score": float("nan")}, "must be finite"),
        ({"bbox": [1, 2, 3]}, "must be finite"),
        ({"score": None}, "lacks image_id, category_id or score"),
    ],
)
def test_bad_detections_are_named(change, message):
    content, _ = hostile(0)
    entry = {"image_id": 50, "category_id": 2, "score": 0.5, "bbox": [1, 2, 3, 4], **change}
    with pytest.raises(InputError, match=message):
        evaluate(content, [entry], ("bbox",))


def test_what_cannot_be_measured_is_said(tmp_path):
    content, detections = hostile(0)
    boxes = [{k: v for k, v in d.items() if k != "segmentation"} for d in detections]
    with pytest.raises(InputError, match="detection 0 has no segmentation: segm cannot"):
        evaluate(content, boxes)
    with pytest.raises(InputError, match=r"absent.json: no readable file of annotations"):
        evaluate(tmp_path / "absent.json", detections)
    (tmp_path / "half.json").write_text('[{"image_id":')
    with pytest.raises(InputError, match=r"half.json: not JSON"):
        evaluate(content, tmp_path / "half.json")
    with pytest.raises(InputError, match="not a COCO instances file"):
        evaluate({"images": []}, detections)


def voc_set(folder: Path, seed: int):
    """VOC's XML files and the same set in COCO's format, with detections for it."""
    rng = np.random.default_rng(seed)
    names = ["bird", "boat"]
    images, objects, detections = [], [], []
    for image in range(20):
        parts = []
        for _ in range(rng.integers(0, 5)):
            left, top = (int(v) for v in rng.integers(1, 60, 2))
            right, bottom = left + int(rng.integers(5, 60)), top + int(rng.integers(5, 60))
            category, difficult = int(rng.integers(2)), int(rng.random() < 0.25)
            corners = zip(("xmin", "ymin", "xmax", "ymax"), (left, top, right, bottom), strict=True)
            box = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
            parts.append(
                f"<object><name>{names[category]}</name><pose>Left</pose><truncated>0</truncated>"
                f"<difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"
            )
            xywh = [left - 1, top - 1, right - left + 1, bottom - top + 1]
            entry = {"image_id": image, "category_id": category + 1, "bbox": xywh}
            objects.append({**entry, "id": len(objects), "difficult": difficult})
            for _ in range(rng.integers(0, 4)):
                moved = np.array(xywh) + rng.normal(0, 4, 4)
                moved[2:] = np.maximum(moved[2:], 3)
                entry = {"image_id": image, "category_id": int(rng.integers(1, 3))}
                detections.append({**entry, "bbox": moved.tolist()})
        images.append({"id": image, "width": 130, "height": 130})
        (folder / f"{image}.xml").write_text(f"<annotation>{''.join(parts)}</annotation>")
    # No two scores are equal after rounding: the reference's sort leaves ties open.
    for entry, score in zip(detections, rng.permutation(999)[: len(detections)], strict=True):
        entry["score"] = (int(score) + 1) / 1000 + 2e-4
    (folder / "set.txt").write_text("\n".join(str(image["id"]) for image in images))
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(names)]
    return {"images": images, "annotations": objects, "categories": categories}, detections


@pytest.mark.parametrize("year", [2007, 2012])
@pytest.mark.parametrize("seed", range(3))
def test_voc_is_detectron2s(tmp_path, year, seed):
    pytest.importorskip("detectron2", reason="its VOC evaluation is the reference")
    from detectron2.evaluation.pascal_voc_evaluation import parse_rec, voc_eval

    content, detections = voc_set(tmp_path, seed)
    parse_rec.cache_clear()
    expected = []
    for category in content["categories"]:
        lines = []
        for d in detections:
            if d["category_id"] == category["id"]:
                x, y, width, height = d["bbox"]
                lines.append(
                    f"{d['image_id']} {d['score']:.3f} {x + 1:.1f} {y + 1:.1f} {x + width:.1f} "
                    f"{y + height:.1f}"
                )
        (tmp_path / f"{category['name']}.found").write_text("\n".join(lines))
        expected.append(
            [
                voc_eval(
                    str(tmp_path / "{}.found"),
                    str(tmp_path / "{}.xml"),
                    str(tmp_path / "set.txt"),
                    category["name"],
                    ovthresh=percent / 100,
                    use_07_metric=year == 2007,
                )[2]
                for percent in range(50, 100, 5)
            ]
        )
    table = 100 * np.array(expected)
    metrics, by_category = voc_average_precision(content, detections, year)
    assert metrics["AP50"] == pytest.approx(table[:, 0].mean(), abs=1e-9)
    assert metrics["AP75"] == pytest.approx(table[:, 5].mean(), abs=1e-9)
    assert metrics["AP"] == pytest.approx(table.mean(), abs=1e-9)
    assert by_category["boat"] == pytest.approx(table[1].mean(), abs=1e-9)
    assert metrics["AP50"] > metrics["AP75"] > 0


def test_voc_without_detections_or_objects(tmp_path):
    content, detections = voc_set(tmp_path, 0)
    metrics, _ = voc_average_precision(content, [])
    assert metrics == {"AP": 0, "AP50": 0, "AP75": 0}
    content["annotations"] = []
    assert voc_average_precision(content, detections) == ({}, {})
