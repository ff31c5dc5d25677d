"""The paired bootstrap: exact AP of every draw, intervals that hold, honest p-values."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pycocotools", reason="needs pycocotools")

sys.path.append(str(Path(__file__).parents[1] / "detection"))
sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

from bootstrap_coverage import cover, paired
from detection_sets import hostile
from simulated import detect, make_truth

from downstream.compare.bootstrap import MEASURES, sampled
from downstream.compare.matches import match
from downstream.detection.coco.evaluate import evaluate
from downstream.results.resampling import holm, weights_of

EVERY = tuple(MEASURES)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_each_image_once_is_the_evaluators_ap(seed, kind):
    content, detections = hostile(seed)
    expected = evaluate(content, detections, (kind,), "pycocotools")[kind].metrics
    once = np.ones((1, len(content["images"])), np.int32)
    found = sampled(match(content, detections, kind), once, EVERY)
    assert set(expected) == set(EVERY)
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value, abs=1e-9), name


def repeated(content, detections, weights):
    """The set with every image as often as its weight says, copies beside each other."""
    order = sorted(image["id"] for image in content["images"])
    copies = [(i, 100 * i + c) for i, w in zip(order, weights, strict=True) for c in range(w)]
    sizes = {image["id"]: image for image in content["images"]}
    return (
        {
            "images": [{**sizes[i], "id": new} for i, new in copies],
            "annotations": [
                {**a, "image_id": new}
                for i, new in copies
                for a in content["annotations"]
                if a["image_id"] == i
            ],
            "categories": content["categories"],
        },
        [{**d, "image_id": new} for i, new in copies for d in detections if d["image_id"] == i],
    )


@pytest.mark.parametrize("seed", range(3))
def test_any_draw_is_the_evaluators_ap_of_the_drawn_images(seed):
    content, detections = hostile(seed)
    # Within an image scores differ: copies of an image do not stand exactly beside each other
    # where one image has a score twice.
    rng = np.random.default_rng(seed)
    for entry in detections:
        entry["score"] += float(rng.uniform(0, 1e-3))
    weights = weights_of(len(content["images"]), 4, seed)[1:]
    assert weights.sum(axis=1).tolist() == [len(content["images"])] * 4
    found = sampled(match(content, detections), weights, EVERY)
    for number, row in enumerate(weights):
        expected = evaluate(*repeated(content, detections, row), ("bbox",), "pycocotools")["bbox"]
        for name in EVERY:
            value = expected.metrics.get(name, float("nan"))
            assert found[name][number] == pytest.approx(value, abs=1e-9, nan_ok=True), name


def test_no_detection_and_no_object():
    content, detections = hostile(0)
    weights = weights_of(len(content["images"]), 3, 0)
    assert (sampled(match(content, []), weights)["AP"] == 0).all()
    content["annotations"] = []
    assert np.isnan(sampled(match(content, detections), weights)["AP"]).all()


def test_threads_change_nothing():
    content, detections = hostile(0)
    matches, weights = match(content, detections), weights_of(len(content["images"]), 150, 0)
    one, two = sampled(matches, weights), sampled(matches, weights, threads=2)
    assert all((one[name] == two[name]).all() for name in one)


@pytest.fixture(scope="module")
def detectors():
    rng = np.random.default_rng(0)
    truth = make_truth(150, 4, 5, rng)
    return {
        "good": match(truth, detect(truth, 0.8, 2, rng)),
        "good too": match(truth, detect(truth, 0.8, 2, rng)),
        "bad": match(truth, detect(truth, 0.3, 2, rng)),
    }


def test_a_large_difference_is_found_and_none_is_not(detectors):
    large = paired([detectors["good"]], [detectors["bad"]], resamples=400)["AP"]
    assert large.low > 0
    assert large.low < large.value < large.high
    assert large.p == pytest.approx(2 / 401), "the least there is"
    other = paired([detectors["bad"]], [detectors["good"]], resamples=400)["AP"]
    mirrored = (-large.value, -large.high, -large.low)
    assert (other.value, other.low, other.high) == pytest.approx(mirrored)
    assert other.p == large.p
    small = paired([detectors["good"]], [detectors["good too"]], resamples=400)["AP"]
    assert small.low < 0 < small.high
    assert small.p > 0.05
    itself = paired([detectors["good"]], [detectors["good"]], resamples=50)["AP"]
    assert (itself.value, itself.low, itself.high, itself.p) == (0, 0, 0, 1)


def test_seeds_are_averaged_and_the_seed_of_the_draws_counts(detectors):
    both = [detectors["good"], detectors["good too"]]
    mean = paired(both, [detectors["bad"]], resamples=100)["AP"]
    parts = [paired([one], [detectors["bad"]], resamples=100)["AP"].value for one in both]
    assert mean.value == pytest.approx(np.mean(parts))
    again = paired(both, [detectors["bad"]], resamples=100)["AP"]
    assert mean == again
    assert paired(both, [detectors["bad"]], resamples=100, seed=1)["AP"].low != mean.low


def test_intervals_cover_the_true_difference():
    found = cover(trials=40, images=60, resamples=120, population=1200, seed=1, categories=2)
    # Fewer than 33 of 40 come once in ten thousand where 95 % hold.
    assert found["covered"] >= 33
    assert found["mean_width"] < 4 * found["standard_deviation"] * 1.3
    assert found["mean_width"] > 4 * found["standard_deviation"] * 0.7


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.04]) == [0.04]
    assert holm([0.6, 0.6]) == [1, 1]
    assert holm([]) == []
