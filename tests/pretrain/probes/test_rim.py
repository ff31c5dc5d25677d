"""A branch whose points have gone to the rim is said once, and no other."""

import logging
from pathlib import Path

import pytest
import torch

import hcl
from pretrain.probes.rim import FARTHEST, MEDIAN, PATIENCE, RimMonitor


def judge(monitor: RimMonitor, *medians: float) -> None:
    for median in medians:
        monitor.judge({MEDIAN: torch.tensor(median)})


def test_it_is_said_once(caplog: pytest.LogCaptureFixture):
    monitor = RimMonitor()
    with caplog.at_level(logging.WARNING):
        judge(monitor, *[FARTHEST + 0.005] * (PATIENCE + 4))
    assert len(caplog.messages) == 1
    assert "hcl.clip_radius" in caplog.messages[0]
    assert monitor.warnings["rim"] in caplog.messages[0]


def test_points_that_come_back_are_no_reason(caplog: pytest.LogCaptureFixture):
    monitor = RimMonitor()
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            judge(monitor, *[0.999] * (PATIENCE - 1), 0.5)
        monitor.judge({"loss": torch.tensor(1.0)})
    assert not caplog.messages
    assert not monitor.warnings


def test_a_run_at_the_rim_is_told_by_its_own_statistics(
    scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    words = [
        "pretrain",
        "quickstart",
        f"output={tmp_path / 'run'}",
        f"data.annotations={scenes / 'annotations/instances_train.json'}",
        f"data.images={scenes / 'train'}",
        f"data.index={tmp_path / 'index'}",
        *(
            "views.size=32",
            "views.min_box_area=64",
            "optim.batch_size=8",
            "method.norm_group=4",
            "method.queue=16",
        ),
        *("hcl.queue=16", "hcl.curvature=10000", "train.epochs=null", f"train.steps={PATIENCE}"),
        *("train.log_every=1", "train.threads=1", "train.precision=fp32", "data.workers=0"),
    ]
    with caplog.at_level(logging.WARNING):
        assert hcl.main(words) == 0
    assert sum("of the ball's radius" in text for text in caplog.messages) == 1
