"""The same annotations in four formats give the same records."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from data_formats import Document, openimages_rows, write_lvis, write_openimages, write_voc

from pretrain.datasets.readers import coco, folder, ohms, openimages, voc
from pretrain.datasets.records import ReadReport


@pytest.fixture(scope="module")
def document(scenes: Path) -> Document:
    return Document(scenes / "annotations/instances_train.json")


@pytest.fixture(scope="module")
def expected(scenes: Path) -> ReadReport:
    report = coco.read(scenes / "annotations/instances_train.json", scenes / "train")
    assert len(report.records) == 48
    assert report.box_count > 100
    return report


def by_name(report: ReadReport) -> dict[str, tuple]:
    """Size, boxes and names of the labels, by the stem of the file name."""
    return {
        Path(record.file_name).stem: (
            (record.width, record.height),
            record.boxes,
            [report.categories[label] for label in record.labels],
        )
        for record in report.records
    }


def assert_same(report: ReadReport, expected: ReadReport, tolerance: float = 0.0) -> None:
    assert report.clipped == 0
    assert sum(report.dropped.values()) == 0
    found, wanted = by_name(report), by_name(expected)
    assert list(found) == list(wanted)
    for name, (size, boxes, labels) in wanted.items():
        assert found[name][0] == size
        assert found[name][2] == labels
        assert found[name][1].dtype == np.float32
        np.testing.assert_allclose(found[name][1], boxes, rtol=0, atol=tolerance)


def test_openimages_with_the_digits_of_the_releases(scenes, document, expected, tmp_path):
    boxes, classes = write_openimages(document, tmp_path, bom=True)
    report = openimages.stream(boxes, scenes / "train", classes=classes).read()
    # Six digits of a share: half a millionth of 96 px, and the rounding of float32.
    assert_same(report, expected, tolerance=96 * 0.5e-6 + 8e-6)


def test_openimages_with_all_digits_is_exact(scenes, document, expected, tmp_path):
    boxes, classes = write_openimages(document, tmp_path, digits=None)
    assert_same(openimages.stream(boxes, scenes / "train", classes=classes).read(), expected)


def test_voc(scenes, document, expected, tmp_path):
    write_voc(document, scenes / "train", tmp_path / "VOC2030")
    assert_same(voc.stream(tmp_path / "VOC2030", "train").read(), expected)


def test_lvis(scenes, document, expected, tmp_path):
    write_lvis(document, tmp_path / "lvis.json", "train")
    report = coco.stream_lvis(tmp_path / "lvis.json", scenes).read()
    assert_same(report, expected)
    assert report.records[0].file_name == f"train/{expected.records[0].file_name}"


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("as_array", [False, True])
def test_official_dictionaries(scenes, document, expected, tmp_path, protocol, as_array):
    features: dict = {}
    for row in openimages_rows(document, None):
        features.setdefault(row[0], {"data": []})["data"].append(np.array(row) if as_array else row)
    chosen = {name: [row[2] for row in entry["data"]] for name, entry in features.items()}
    for file, content in (("all.npy", features), ("chosen.npy", chosen)):
        with (tmp_path / file).open("wb") as opened:
            header = {"descr": "|O", "fortran_order": False, "shape": ()}
            np.lib.format.write_array_header_1_0(opened, header)
            pickle.dump(np.array(content), opened, protocol=protocol)
        assert np.load(tmp_path / file, allow_pickle=True).item().keys() == content.keys()
    _, classes = write_openimages(document, tmp_path)
    report = ohms.stream(
        tmp_path / "all.npy", scenes / "train", classes=classes, split=tmp_path / "chosen.npy"
    ).read()
    assert_same(report, expected)


def test_folder_has_the_same_images_and_sizes(scenes, expected):
    report = folder.stream(scenes / "train").read()
    sizes = [(r.file_name, r.width, r.height) for r in report.records]
    assert sizes == [(r.file_name, r.width, r.height) for r in expected.records]
    assert report.box_count == 0
    assert report.categories == ()
