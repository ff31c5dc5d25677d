"""A step in parts: what gradient accumulation computes, and what it must leave behind once."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_network import SMALL
from torch import Tensor

import pretrain
from pretrain import distributed
from pretrain.config import RunSettings, from_values
from pretrain.core.errors import InputError
from pretrain.data.plan import Batch
from pretrain.methods.base import Context, Method
from pretrain.methods.build import build_method
from pretrain.metrics import read_metrics
from pretrain.step import TrainStep, rows_a_forward, split_views

ROOT = Path(pretrain.__file__).parent.parent
ROWS, SIZE = 8, 32
BYOL = {"name": "byol", "predictor_hidden": 12, "synchronize": False}
MOCO = {"name": "moco", "queue": 20, "norm_group": 2}


@pytest.fixture(scope="module")
def world() -> Iterator[distributed.World]:
    with distributed.process_group("cpu") as alone:
        yield alone


def run_settings(method: dict[str, Any], parts: int) -> RunSettings:
    head = "mlp_bn" if method["name"] == "byol" else "mlp"
    values = {
        "output": "unused",
        "data": {"annotations": "unused", "images": "unused"},
        "views": {"size": SIZE},
        "model": {**SMALL, "head": head, "hidden": 16, "dim": 8},
        "method": method,
        "optim": {"batch_size": ROWS, "lr": 0.1, "momentum": 0.0, "accumulate": parts},
        "train": {"steps": 2},
    }
    return from_values(values, source="test")


def build(settings: RunSettings) -> Method:
    rows = rows_a_forward(settings, 1)
    context = Context(settings.model, SIZE, rows, rows, seed=0)
    torch.manual_seed(0)
    return build_method(settings.method, settings.hcl, context).train()


def stepper(settings: RunSettings, world: distributed.World, method: Method) -> TrainStep:
    return TrainStep(settings, world, method, total_steps=2, epoch_steps=2)


def batch(method: Method) -> Batch:
    generator = torch.Generator().manual_seed(0)
    names = [crop.name for crop in method.view_plan.crops]
    shape = (ROWS, 3, SIZE, SIZE)
    return Batch(
        {n: torch.randint(256, shape, generator=generator, dtype=torch.uint8) for n in names},
        {n: torch.tensor([[0, 1, 2, 3, 1, 1, 1, 0, 0, 0, 0, 0.0]] * ROWS) for n in names},
        torch.arange(ROWS),
        torch.zeros(ROWS, dtype=torch.bool),
        [],
    )


def one_step(stepper: TrainStep, views: Batch) -> dict[str, Tensor]:
    return stepper.run(stepper.method, views, 0, stop=False, log_statistics=False).values


def test_parts__are_what_is_computed_by_hand(world: distributed.World) -> None:
    method = build(run_settings(BYOL, 2))
    by_hand = [copy.deepcopy(method) for _ in range(2)]
    doing = stepper(run_settings(BYOL, 2), world, method)
    views = batch(method)
    values = one_step(doing, views)
    losses = []
    for part, alone in zip(split_views(doing._views(views), 2), by_hand, strict=True):
        alone.begin_step(0, 2)
        terms, _ = alone(part)
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(values["loss"], torch.stack(losses).mean())
    parts = [dict(alone.named_parameters()) for alone in by_hand]
    decay = doing.settings.optim.weight_decay
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            start = parts[0][name]
            gradients = [part[name].grad for part in parts]
            mean = torch.stack([g for g in gradients if g is not None]).mean(0)
            expected = start - 0.1 * (mean + decay * start)
            torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-6)
    buffers = [dict(alone.named_buffers()) for alone in by_hand]
    moved = 0
    for name, buffer in method.named_buffers():
        expected = torch.stack([b[name].double() for b in buffers]).mean(0)
        torch.testing.assert_close(buffer.double(), expected, rtol=1e-6, atol=1e-7)
        moved += name.endswith("running_mean") and bool(buffer.any())
    assert moved > 0


def test_parts__fill_the_queue_with_every_row_once(world: distributed.World) -> None:
    method = build(run_settings(MOCO, 2))
    before = {name: b.clone() for name, b in method.named_buffers() if "queue" in name}
    one_step(stepper(run_settings(MOCO, 2), world, method), batch(method))
    after = dict(method.named_buffers())
    for name in ("queue_1.rows", "queue_2.rows"):
        new = (after[name] != before[name]).any(1)
        assert new.sum() == ROWS
        assert len(torch.unique(after[name][new], dim=0)) == ROWS


def test_parts__of_unequal_size_are_refused() -> None:
    with pytest.raises(InputError, match=r"optim\.accumulate: the 8 rows .* into 3 parts"):
        rows_a_forward(run_settings(BYOL, 3), 1)
    with pytest.raises(InputError, match=r"optim\.batch_size: 8 does not divide over 3"):
        rows_a_forward(run_settings(BYOL, 1), 3)


def test_parts__on_two_processes_equal_more_parts_on_one(scenes: Path, tmp_path: Path) -> None:
    """Two processes of two parts hold the same rows together as one process of four parts."""

    def losses(name: str, processes: int, parts: int) -> list[float]:
        values = {
            "output": tmp_path / name,
            "data.annotations": scenes / "annotations/instances_train.json",
            "data.images": scenes / "train",
            "data.index": tmp_path / "index",
            "data.workers": 0,
            "views.size": SIZE,
            "model": {**SMALL, "head": "mlp_bn", "hidden": 16, "dim": 8},
            "method": BYOL,
            "hcl": None,
            "optim.batch_size": 16,
            "optim.accumulate": parts,
            "optim.lr": 0.01,
            "train.epochs": None,
            "train.steps": 3,
            "train.log_every": 1,
            "train.threads": 1,
            "train.tensorboard": False,
        }
        words = [f"{key}={json.dumps(value, default=str)}" for key, value in values.items()]
        launch = [sys.executable, "-m"]
        if processes > 1:
            launch += ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        subprocess.run(
            [*launch, "pretrain", "quickstart", *words], env=environment, check=True, timeout=240
        )
        return [line["loss"] for line in read_metrics(tmp_path / name / "metrics.jsonl")]

    alone, together = losses("alone", 1, 4), losses("together", 2, 2)
    assert together == pytest.approx(alone, rel=1e-4)
    assert len(set(alone)) == 3
