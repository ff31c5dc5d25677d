"""A branch at the rim, or one that tells keys by their age: each is said once, and no other."""

import logging
from pathlib import Path

import pytest
import torch

import hcl
from pretrain.probes.branch_monitor import (
    AMONG_BATCH,
    AMONG_QUEUE,
    FARTHEST,
    LARGEST_GAP,
    MEDIAN,
    PATIENCE,
    BranchMonitor,
)


def judge(monitor: BranchMonitor, *medians: float) -> None:
    for median in medians:
        monitor.judge({MEDIAN: torch.tensor(median)})


def test_it_is_said_once(caplog: pytest.LogCaptureFixture):
    monitor = BranchMonitor()
    with caplog.at_level(logging.WARNING):
        judge(monitor, *[FARTHEST + 0.005] * (PATIENCE + 4))
    assert len(caplog.messages) == 1
    assert "hcl.clip_radius" in caplog.messages[0]
    assert monitor.warnings["rim"] in caplog.messages[0]


def test_points_that_come_back_are_no_reason(caplog: pytest.LogCaptureFixture):
    monitor = BranchMonitor()
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            judge(monitor, *[0.999] * (PATIENCE - 1), 0.5)
        monitor.judge({"loss": torch.tensor(1.0)})
    assert not caplog.messages
    assert not monitor.warnings


def judge_accuracies(monitor: BranchMonitor, queue: float, batch: float, times: int) -> None:
    for _ in range(times):
        monitor.judge({AMONG_QUEUE: torch.tensor(queue), AMONG_BATCH: torch.tensor(batch)})


def test_keys_told_by_their_age_are_said_once(caplog: pytest.LogCaptureFixture):
    monitor = BranchMonitor()
    with caplog.at_level(logging.WARNING):
        judge_accuracies(monitor, 1.0, 0.02, PATIENCE - 1)
        assert not caplog.messages
        judge_accuracies(monitor, 1.0, 0.02, 4)
    assert len(caplog.messages) == 1
    assert "100% of the queries" in caplog.messages[0]
    assert "2% among keys of the same step" in caplog.messages[0]
    assert list(monitor.warnings) == ["key_age"]


def test_a_branch_that_finds_its_keys_is_left_alone(caplog: pytest.LogCaptureFixture):
    monitor = BranchMonitor()
    with caplog.at_level(logging.WARNING):
        judge_accuracies(monitor, 0.9, 0.95, 5)
        judge_accuracies(monitor, 0.0, 0.05, 5)
        judge_accuracies(monitor, 0.9, 0.9 - LARGEST_GAP + 0.01, 5)
    assert not caplog.messages


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
