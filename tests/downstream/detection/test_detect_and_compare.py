"""What `hcl detect` leaves in its folders is what `hcl compare` makes its comparison of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_detection import Toy

import hcl


def test_two_rows_from_detector_to_comparison(
    small_config: Path, toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--train", *toy.arguments, "--val", *toy.arguments]
    for name, seed in (("first-seed0", 0), ("first-seed1", 1), ("second", 2)):
        output = ["--output", str(tmp_path / "runs" / name), "--name", name]
        assert hcl.main(["detect", str(small_config), *data, *output, f"SEED={seed}"]) == 0
    capsys.readouterr()
    arguments = [str(tmp_path / "runs"), "--resamples", "20", "--against", "hcl", "--json"]
    assert hcl.main(["compare", *arguments, "--output", str(tmp_path / "out")]) == 0
    content = json.loads(capsys.readouterr().out)
    own = {r["row"]: r for r in content["records"] if r["metric"] == "bbox/AP50" and "p" not in r}
    assert own["first"]["count"] == 2
    assert own["second"]["low"] <= own["second"]["high"]
    pairs = {(r["row"], r["against"]) for r in content["records"] if r["table"] == "difference"}
    assert pairs == {("second", "first")}
    protocol = content["protocols"]["second"]
    assert protocol["model"] == "R18-FPN"
    assert protocol["head"] == "0conv1fc"
    assert protocol["norm"] == "backbone BN, FPN none, box head none, mask head none"
    assert (
        "head: 0conv1fc (first, second), published 4conv1fc" in content["published"][0]["warnings"]
    )
    # The result's own numbers are those of its saved detections.
    assert not any("by its saved detections" in line for line in content["warnings"])
