"""Intervals of a probe's numbers against plain resampling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from downstream.probe import intervals, scores
from downstream.probe.intervals import SampleResults
from downstream.results.resampling import weights_of
from downstream.results.result import Result, write_result
from pretrain.core.errors import InputError


def judged(seed: int = 0) -> SampleResults:
    rng = np.random.default_rng(seed)
    images = np.repeat(np.arange(30), 2)
    values = rng.integers(0, 6, (60, 4)).astype(np.float32)  # many are equal
    targets = rng.random((60, 4)) < 0.2
    return SampleResults(images, {"knn@1": rng.random(60) < 0.6}, values, targets)


def test_a_draw_is_the_measure_of_the_drawn_samples() -> None:
    one = judged()
    sampled = one.sampled(20)
    weights = weights_of(30, 20, seed=0)
    assert one.scores is not None and one.targets is not None
    for draw, row in enumerate(weights):
        chosen = np.repeat(np.arange(60), row[one.images])
        again = scores.mean_average_precision(
            torch.from_numpy(one.scores[chosen]), torch.from_numpy(one.targets[chosen])
        )
        assert sampled["linear/map"][draw] == pytest.approx(again, abs=1e-12)
        assert sampled["knn@1"][draw] == pytest.approx(one.right["knn@1"][chosen].mean())


def test_written_and_read(tmp_path: Path) -> None:
    one = judged()
    assert one.write(tmp_path) == intervals.FILE_NAME
    again = SampleResults.read(tmp_path / intervals.FILE_NAME)
    assert (again.images == one.images).all()
    assert (again.right["knn@1"] == one.right["knn@1"]).all()
    for low, high in intervals.intervals(again).values():
        assert low < high
    (tmp_path / intervals.FILE_NAME).write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot be read"):
        SampleResults.read(tmp_path / intervals.FILE_NAME)


def result(folder: Path, one: SampleResults, fingerprint: str = "f") -> Path:
    written = Result(
        task="probe",
        run=folder.name,
        metrics={},
        protocol={"labels": "object", "val_fingerprint": fingerprint},
        artifacts={"samples": one.write(folder)},
    )
    write_result(written, folder)
    return folder


def test_a_difference_is_paired(tmp_path: Path) -> None:
    one = judged()
    better = SampleResults(one.images, {"knn@1": np.ones(60, bool)})
    first, second = result(tmp_path / "a", better), result(tmp_path / "b", one)
    found = intervals.compare(first, second)
    assert list(found) == ["knn@1"]  # the only one that both have
    assert found["knn@1"].value == pytest.approx(100 * (1 - one.right["knn@1"].mean()))
    assert found["knn@1"].low > 0
    same = intervals.compare(second, second)["linear/map"]
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    with pytest.raises(InputError, match="other test samples"):
        intervals.compare(first, result(tmp_path / "c", one, "other"))
    fewer = SampleResults(one.images[:58], {"knn@1": np.ones(58, bool)})
    with pytest.raises(InputError, match="other test samples"):
        intervals.compare(first, result(tmp_path / "d", fewer))
