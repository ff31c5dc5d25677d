"""All steps on real COCO images, with the same commands as on embedded data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import hcl
from pretrain.metrics import read_metrics


@pytest.mark.coco
def test_all_steps(coco_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("detectron2")
    train = [str(coco_tiny / "annotations/instances_train2017.json"), str(coco_tiny / "train2017")]
    val = [str(coco_tiny / "annotations/instances_val2017.json"), str(coco_tiny / "val2017")]
    run = tmp_path / "run"
    pretrain = [
        "quickstart",
        f"output={run}",
        f"data.annotations={train[0]}",
        f"data.images={train[1]}",
        f"data.index={tmp_path / 'index'}",
        "data.workers=1",
        "optim.batch_size=16",
        "method.norm_group=8",
        "views.min_box_area=1024",
        "views.context=128",
        "train.epochs=null",
        "train.steps=50",
        "train.log_every=5",
        "train.checkpoint_every=25",
        "train.threads=1",
    ]
    assert hcl.main(["pretrain", *pretrain]) == 0
    lines = read_metrics(run / "metrics.jsonl")
    assert lines[-1]["step"] == 50
    assert all(line["loss/hyperbolic"] > 0 for line in lines)

    weights = str(run / "backbone.pth")
    assert hcl.main(["export", str(run), "--to", "detectron2", "-o", weights]) == 0
    assert "tensors matched: 120/120" in capsys.readouterr().out

    detect = ["quickstart_r18_fpn", "--weights", weights, "--train", *train, "--val", *val]
    detect += ["--output", str(run / "detection"), "SOLVER.MAX_ITER=30"]
    assert hcl.main(["detect", *detect]) == 0
    detection = json.loads((run / "detection/result.json").read_text())
    assert 0 <= detection["metrics"]["bbox/AP"] <= 100
    assert 0 <= detection["metrics"]["segm/AP"] <= 100
    assert detection["provenance"]["val"]["images"] == 80

    retrieve = [str(run), "--annotations", val[0], "--images", val[1]]
    assert hcl.main(["retrieve", *retrieve, "--output", str(run / "retrieval")]) == 0
    retrieval = json.loads((run / "retrieval/result.json").read_text())
    assert retrieval["metrics"]["recall/chance@1"] < 0.5
    assert retrieval["metrics"]["recall/backbone/euclidean@10"] > 0

    assert hcl.main(["compare", str(run), "--output", str(tmp_path / "report")]) == 0
    assert "run" in capsys.readouterr().out
    assert (tmp_path / "report/report.html").stat().st_size > 10_000
