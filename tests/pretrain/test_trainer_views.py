"""Runs whose views are of pairs, or of colors of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_network import SMALL

from pretrain import distributed
from pretrain.config import load_settings
from pretrain.core.errors import InputError
from pretrain.data.pairs import Neighbor, PairTable
from pretrain.datasets.source import open_index
from pretrain.dry_run import plan_run
from pretrain.metrics import read_metrics
from pretrain.trainer import Trainer


@pytest.fixture(scope="module")
def world() -> Iterator[distributed.World]:
    with distributed.process_group("cpu") as alone:
        yield alone


def trainer(scenes: Path, output: Path, world: distributed.World, **more: Any) -> Trainer:
    values = {
        "output": output,
        "data.annotations": scenes / "annotations/instances_train.json",
        "data.images": scenes / "train",
        "data.index": scenes.parent / "views_index",
        "data.workers": 0,
        "views.size": 32,
        "model.backbone": SMALL["backbone"],
        "model.options": SMALL["options"],
        "model.dim": 16,
        "method.queue": 20,
        "method.norm_group": 4,
        "hcl": None,
        "optim.batch_size": 8,
        "train.epochs": None,
        "train.steps": 2,
        "train.log_every": 1,
        "train.threads": 1,
        "train.tensorboard": False,
    }
    values.update({key.replace("__", "."): value for key, value in more.items()})
    arguments = [f"{key}={json.dumps(value, default=str)}" for key, value in values.items()]
    return Trainer(load_settings("quickstart", arguments), world, ["test"])


@pytest.mark.parametrize("crop_on", ["worker", "device"])
def test_views_of_pairs(
    scenes: Path, tmp_path: Path, world: distributed.World, crop_on: str
) -> None:
    pairs = {"method__crops": "pair_key", "data__crop_on": crop_on}
    with pytest.raises(InputError, match="no table of pairs here"):
        trainer(scenes, tmp_path / "run", world, data__pairs=tmp_path / "pairs", **pairs)
    with pytest.raises(InputError, match=r"data\.pairs: not set, but the views view_1, view_2"):
        trainer(scenes, tmp_path / "run", world, **pairs)
    index = open_index(trainer(scenes, tmp_path / "other run", world).settings.data)
    boxes = np.array([[0, 0, 40, 40]], np.float32)
    count = len(index)
    rows = [[Neighbor((row + 1) % count, boxes, boxes)] if row % 2 else [] for row in range(count)]
    PairTable.build(index.fingerprint, rows).write(tmp_path / "pairs")
    again = trainer(scenes, tmp_path / "run", world, data__pairs=tmp_path / "pairs", **pairs)
    assert again.fit()
    shares = [line["fallback"] for line in read_metrics(tmp_path / "run/metrics.jsonl")]
    assert 0 < sum(shares) < 2
    with pytest.raises(InputError, match=r"run of other settings \(data.pairs:"):
        trainer(scenes, tmp_path / "run", world, data__pairs=tmp_path / "other", **pairs)
    (tmp_path / "pairs").rename(tmp_path / "moved")
    PairTable.build(index.fingerprint, rows[1:] + rows[:1]).write(tmp_path / "pairs")
    changed = trainer(scenes, tmp_path / "run", world, data__pairs=tmp_path / "pairs", **pairs)
    with pytest.raises(InputError, match="the data set has changed since this run began"):
        changed.fit()


def test_data_without_boxes(
    scenes: Path,
    tmp_path: Path,
    world: distributed.World,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Refused, but for runs that need no boxes or are content with random regions."""
    caplog.set_level("INFO")
    bare = {
        "data__reader": "folder",
        "data__annotations": None,
        "data__index": tmp_path / "bare",
        "train__steps": 1,
    }
    with pytest.raises(InputError, match=r"no image of this data set has a box.*hcl data propose"):
        trainer(scenes, tmp_path / "run", world, **bare)
    trainer(scenes, tmp_path / "none", world, **{**bare, "train__steps": 0}).fit()
    trainer(scenes, tmp_path / "whole", world, method__crops="image", **bare).fit()
    assert "fallback" not in capsys.readouterr().err + caplog.text
    run = trainer(scenes, tmp_path / "run", world, views__random_regions=True, **bare)
    warning = "views: 100% of the images have too few boxes"
    assert [warning in text for text in caplog.messages].count(True) == 1
    assert run.fit()
    assert "  fallback 100 %  ETA" in capsys.readouterr().err
    assert "regions: 100.0% of the rows were fallbacks" in caplog.text
    # The setting changes no view, so a run from before it was there can go on.
    words = {**bare, "views__random_regions": True, "method__crops": "image"}
    trainer(scenes, tmp_path / "whole", world, **words)


def test_data_without_boxes__dry_run(scenes: Path, tmp_path: Path) -> None:
    words = [f"output={tmp_path}", f"data.images={scenes / 'train'}", "data.annotations=null"]
    words += ["data.reader=folder", f"data.index={tmp_path / 'bare'}"]
    plan = plan_run(load_settings("quickstart", words))
    assert any("views.random_regions=true" in warning for warning in plan.warnings)


def test_colors_of_a_view_that_the_method_lacks(
    scenes: Path, tmp_path: Path, world: distributed.World
) -> None:
    views = {"view_2": {"solarize_p": 0.2}, "scene": {"flip_p": 0.0}}
    with pytest.raises(InputError, match="no view 'scene'; this method has view_1, view_2"):
        trainer(scenes, tmp_path / "run", world, augment__views=views)
    del views["scene"]
    run = trainer(scenes, tmp_path / "run", world, augment__views=views, train__steps=1)
    assert run.fit()
