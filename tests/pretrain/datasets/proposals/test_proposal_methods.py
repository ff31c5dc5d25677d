from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pretrain.core.errors import InputError
from pretrain.data.index import Index
from pretrain.datasets.index_writer import build_index
from pretrain.datasets.proposals import detector_results
from pretrain.datasets.proposals.detector_results import Detector
from pretrain.datasets.proposals.filters import FilterSettings, select
from pretrain.datasets.proposals.windows import RANDOM, Grid, MultiScale, Random
from pretrain.datasets.readers import coco

SIZES = [(640, 480), (480, 640), (1, 1), (3, 200), (1024, 97)]


@pytest.mark.parametrize("proposer", [Grid(), MultiScale(3), Random(3)])
@pytest.mark.parametrize("size", SIZES)
def test_windows_lie_inside_and_have_an_area(proposer, size):
    boxes = proposer.propose(5, size, None).boxes
    assert boxes.dtype == np.float32
    assert len(boxes)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= size).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_grid_cells_tile_the_image():
    boxes = Grid().propose(0, (640, 480), None).boxes
    assert len(boxes) == 4 + 9 + 16
    assert boxes[0].tolist() == [0, 0, 320, 240]
    assert boxes[3].tolist() == [320, 240, 640, 480]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for part in (slice(0, 4), slice(4, 13), slice(13, 29)):
        assert areas[part].sum() == pytest.approx(640 * 480)


@pytest.mark.parametrize("kind", [MultiScale, Random])
def test_windows_depend_on_seed_and_row_alone(kind):
    first = kind(1).propose(2, (640, 480), None).boxes
    np.testing.assert_array_equal(first, kind(1).propose(2, (640, 480), None).boxes)
    assert not np.array_equal(first, kind(1).propose(3, (640, 480), None).boxes)
    assert not np.array_equal(first, kind(2).propose(2, (640, 480), None).boxes)


def test_sliding_windows_reach_all_corners_and_cover_every_pixel_at_each_scale():
    boxes = MultiScale().propose(0, (640, 480), None).boxes
    for corner in ([0, 0], [640, 0], [0, 480], [640, 480]):
        touches = (boxes[:, [0, 1]] == corner) | (boxes[:, [2, 3]] == corner)
        assert touches.all(1).sum() == 9  # of each scale and aspect
    shapes = np.round(boxes[:, 2:] - boxes[:, :2], 2)
    for shape in np.unique(shapes, axis=0):
        covered = np.zeros((48, 64), bool)
        for x1, y1, x2, y2 in boxes[(shapes == shape).all(1)] / 10:
            covered[math.floor(y1) : math.ceil(y2), math.floor(x1) : math.ceil(x2)] = True
        assert covered.all()
    # The filter stops at a number; it must not be the upper part of the image that is left.
    kept, _ = select(boxes, FilterSettings(top=20))
    centers = (boxes[kept, 1] + boxes[kept, 3]) / 2
    assert 180 < centers.mean() < 300


def test_random_rectangles_are_uniform_in_log_area_and_log_aspect():
    boxes = np.concatenate([Random(0).propose(row, (1000, 1000), None).boxes for row in range(10)])
    assert len(boxes) == 10 * RANDOM
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    uniform = [
        np.log(w * h / 1e6 * 50) / math.log(25),
        (np.log(w / h) / math.log(2) + 1) / 2,
        boxes[:, 0] / (1000 - w),
    ]
    # At half the area and an aspect of 2 a side is just that of the image: none is cut.
    for values in uniform:
        counts, _ = np.histogram(values, bins=20, range=(-1e-3, 1 + 1e-3))
        assert ((counts - 150) ** 2 / 150).sum() < 43.8  # 19 degrees of freedom, 0.999


@pytest.fixture
def index(make_coco: Callable, tmp_path: Path) -> Index:
    """Six images, numbered from 10: 64 x 48, 48 x 64, 80 x 60, 50 x 50, 90 x 40, 64 x 48."""
    folder = make_coco(6)
    return build_index(coco.read(folder.annotations, folder.images), tmp_path / "index")


def results(tmp_path: Path, entries: list) -> Path:
    file = tmp_path / "results.json"
    file.write_text(json.dumps(entries))
    return file


def entry(image: int, box: list, score: float, **more) -> dict:
    return {"image_id": image, "bbox": box, "score": score, "category_id": 3, **more}


def test_detections_go_by_score_and_are_clipped(index, tmp_path):
    file = results(
        tmp_path,
        [
            entry(11, [1, 2, 10, 10], 0.25, segmentation={"counts": "a]b,c", "size": [4, 4]}),
            entry(10, [60, 40, 10, 10], 0.5),
            entry(11, [0, 0, 20, 30], 0.75),
            entry(11, [5, 5, 5, 5], 0.25),
            entry(99, [0, 0, 5, 5], 0.9),
            entry(12, [100, 0, 5, 5], 0.9),
            entry(12, [1, 1, 0, 5], 0.9),
        ],
    )
    found = Detector.read(file, index)
    assert (found.unknown, found.empty) == (1, 2)
    first, second = (found.propose(row, index.size(row), None) for row in (0, 1))
    assert first.boxes.tolist() == [[60, 40, 64, 48]]
    assert first.scores.tolist() == [0.5]
    assert second.boxes.tolist() == [[0, 0, 20, 30], [1, 2, 11, 12], [5, 5, 10, 10]]
    assert second.scores.tolist() == [0.75, 0.25, 0.25]
    assert len(found.propose(2, index.size(2), None).boxes) == 0

    few = Detector.read(file, index, min_score=0.5)
    assert few.propose(1, index.size(1), None).scores.tolist() == [0.75]
    assert few.identity() != found.identity()


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_a_results_file_is_read_in_pieces_of_any_size(index, tmp_path, chunk, monkeypatch):
    monkeypatch.setattr(detector_results, "CHUNK", chunk)
    rng = np.random.default_rng(0)
    entries = [entry(10 + n % 6, [1.5, 2, 3, 4], float(rng.random())) for n in range(40)]
    file = tmp_path / "results.json"
    file.write_text(
        "\n [ " + " ,\n".join(map(json.dumps, entries)) + "\n]\n ", encoding="utf-8-sig"
    )
    found = Detector.read(file, index)
    assert np.diff(found.offsets).tolist() == [7, 7, 7, 7, 6, 6]
    scores = sorted((e["score"] for e in entries if e["image_id"] == 12), reverse=True)
    np.testing.assert_allclose(found.propose(2, (80, 60), None).scores, scores, rtol=1e-6)
    file.write_text("[]")
    assert Detector.read(file, index).offsets.tolist() == [0] * 7


GOOD = json.dumps(entry(10, [0, 0, 5, 5], 0.5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'the end' instead of '[' after 0 entries"),
        ('{"annotations": []}', "'{' instead of '['"),
        (f"[{GOOD}", "'the end' instead of ',' after 1 entries"),
        (f"[{GOOD},", "not valid JSON in entry 1"),
        (f"[{GOOD}, {GOOD[:-9]}", "not valid JSON in entry 1"),
        (f"[{GOOD} {GOOD}]", "'{' instead of ',' after 1 entries"),
        (f"[{GOOD}] tail", "'t' instead of 'the end' after 1 entries"),
        (f"[{GOOD}, 7]", "entry 1 is not an object: 7"),
        ('[{"image_id": 10, "bbox": [0, 0, 5, 5]}]', "entry 0 has no 'score'"),
        (f"[{GOOD.replace('0.5', 'NaN')}]", "entry 0: score is not a finite number: nan"),
        (f"[{GOOD.replace('5]', 'Infinity]')}]", "entry 0: bbox is not 4 finite numbers"),
        (f"[{GOOD.replace(', 5, 5]', ']')}]", "entry 0: bbox is not 4 finite numbers"),
        (f"[{GOOD.replace('10', chr(34) + '10' + chr(34))}]", "image_id is not an integer: '10'"),
        (f"[{GOOD.replace('10', '4')}]", "none of its 1 entries is of an image of"),
    ],
)
def test_faulty_results_are_named(index, tmp_path, text, message):
    file = tmp_path / "results.json"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        Detector.read(file, index)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)


def test_results_that_cannot_be_read(index, tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json: cannot be read .*; check --json"):
        Detector.read(tmp_path / "nowhere.json", index)
    file = tmp_path / "latin.json"
    file.write_bytes(b"[\xe9]")
    with pytest.raises(InputError, match="not JSON in UTF-8"):
        Detector.read(file, index)


class TestSelectiveSearch:
    """Needs OpenCV's contributed modules (extra "proposals")."""

    @pytest.fixture(autouse=True)
    def opencv(self):
        cv2 = pytest.importorskip("cv2", reason="needs OpenCV with its contributed modules")
        if not hasattr(getattr(cv2, "ximgproc", None), "segmentation"):
            pytest.skip("this OpenCV has no contributed modules (opencv-contrib-python-headless)")

    def picture(self) -> np.ndarray:
        """A red and a blue rectangle on green, with noise."""
        pixels = np.empty((120, 160, 3), np.uint8)
        pixels[:] = (40, 150, 60)
        pixels[20:60, 30:80] = (200, 30, 30)
        pixels[70:110, 100:150] = (30, 30, 210)
        noise = np.random.default_rng(0).integers(-8, 9, pixels.shape)
        return (pixels + noise).astype(np.uint8)

    def test_finds_what_is_there(self):
        from pretrain.datasets.proposals.filters import overlaps
        from pretrain.datasets.proposals.selective_search import SelectiveSearch

        boxes = SelectiveSearch().propose(0, (160, 120), self.picture()).boxes
        for target in ([30, 20, 80, 60], [100, 70, 150, 110]):
            assert overlaps(np.array(target, np.float32), boxes).max() > 0.9
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= (160, 120)).all()

    def test_large_images_may_be_shrunk_for_the_search(self):
        from pretrain.datasets.proposals.filters import overlaps
        from pretrain.datasets.proposals.selective_search import SelectiveSearch

        image = self.picture().repeat(3, 0).repeat(3, 1)
        size = (480, 360)
        small = SelectiveSearch(max_side=161)
        assert small.identity() != SelectiveSearch().identity()
        boxes = small.propose(0, size, image).boxes
        for target in ([90, 60, 240, 180], [300, 210, 450, 330]):
            assert overlaps(np.array(target, np.float32), boxes).max() > 0.9
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= size).all()
        assert (boxes[:, 2:].max(0) == size).all()
        with pytest.raises(InputError, match="--max-side must be at least 64 px, got 5"):
            SelectiveSearch(max_side=5)

    def test_the_order_depends_on_seed_and_row_alone_and_the_boxes_do_not(self):
        from pretrain.datasets.proposals.selective_search import SelectiveSearch

        rng = np.random.default_rng(3)
        image = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)

        def found(seed: int, row: int) -> np.ndarray:
            return SelectiveSearch(seed).propose(row, (160, 120), image).boxes

        first = found(0, 0)
        np.testing.assert_array_equal(first, found(0, 0))
        for other in (found(0, 1), found(1, 0)):
            assert not np.array_equal(first, other)
            np.testing.assert_array_equal(np.unique(first, axis=0), np.unique(other, axis=0))


def test_without_opencv_the_remedy_is_named(monkeypatch):
    from pretrain.datasets.proposals.selective_search import SelectiveSearch

    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match="pip install opencv-contrib-python-headless"):
        SelectiveSearch()

    class Plain:
        __version__ = "5.0.0"

    monkeypatch.setitem(sys.modules, "cv2", Plain())
    with pytest.raises(InputError, match=r"\(5\.0\.0\) lacks the contributed modules .*uninstall"):
        SelectiveSearch()
