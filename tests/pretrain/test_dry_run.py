"""``hcl pretrain --dry-run``: its figures are those of the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import hcl
from pretrain import distributed
from pretrain.config import load_settings
from pretrain.datasets.source import open_index
from pretrain.dry_run import plan_run
from pretrain.trainer import Trainer


def arguments(scenes: Path, folder: Path, *more: str) -> list[str]:
    return [
        "quickstart",
        f"output={folder / 'run'}",
        f"data.annotations={scenes / 'annotations/instances_train.json'}",
        f"data.images={scenes / 'train'}",
        f"data.index={folder / 'index'}",
        "data.workers=0",
        "views.size=32",
        "optim.batch_size=16",
        "method.norm_group=8",
        "method.queue=64",
        "hcl.queue=128",
        "train.epochs=2",
        "train.tensorboard=false",
        *more,
    ]


def as_json(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert hcl.main(["pretrain", *words, "--dry-run", "--json"]) == 0
    plan: dict[str, Any] = json.loads(capsys.readouterr().out)
    return plan


def test_plan__figures_of_the_run(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(scenes, tmp_path)
    plan = as_json([*words, "--images-per-s", "24"], capsys)
    assert not (tmp_path / "run").exists()
    settings = load_settings(words[0], words[1:])
    with distributed.process_group("cpu") as world:
        trainer = Trainer(settings, world, [])
        assert trainer.fit()
    index = open_index(settings.data)
    assert plan["data"] == {
        "images": len(index),
        "boxes": index.box_count,
        "fingerprint": index.fingerprint,
    }
    schedule = plan["schedule"]
    assert schedule["epoch_steps"] == trainer.epoch_steps == 3
    assert schedule["total_steps"] == trainer.total_steps == 6
    assert plan["seconds"] == 6 * 16 / 24
    trained = sum(p.numel() for p in trainer.method.parameters() if p.requires_grad)
    assert sum(part["parameters"] for part in plan["networks"] if part["trained"]) == trained
    everything = sum(p.numel() for p in trainer.method.parameters())
    assert sum(part["parameters"] for part in plan["networks"]) == everything
    assert {q["name"]: (q["entries"], q["dim"]) for q in plan["queues"]} == {
        "base.queue_2": (64, 128),
        "base.queue_1": (64, 128),
        "queue": (128, 128),
    }
    (checkpoint,) = (tmp_path / "run/checkpoints").glob("*.pt")
    written = checkpoint.stat().st_size / 2**20
    assert plan["memory"]["checkpoint"] == pytest.approx(written, rel=0.02)


def test_plan__views(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = arguments(scenes, tmp_path, "augment.views={scene: {blur_p: 0.0}}")
    views = {view.pop("name"): view for view in as_json(words, capsys)["views"]}
    assert set(views) == {"view_1", "view_2", "object", "scene"}
    assert views["scene"] == {
        "region": "scene",
        "random_resized": False,
        "size": 32,
        "colors": {"blur_p": 0.0},
    }
    assert views["view_1"]["random_resized"]
    assert not views["view_1"]["colors"]


def test_plan__without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["quickstart", f"output={tmp_path}", "data.annotations=/nowhere/a.json"]
    plan = as_json([*words, "--images-per-s", "10"], capsys)
    assert plan["data"] == {"images": None, "boxes": None, "fingerprint": None}
    assert plan["schedule"]["total_steps"] is None
    assert plan["seconds"] is None
    assert any("/nowhere/a.json" in warning for warning in plan["warnings"])
    assert hcl.main(["pretrain", *words, "--dry-run", "--images", "640"]) == 0
    text = capsys.readouterr().out
    assert "640 images, as said" in text
    assert "50 steps: 5 epochs of 10" in text


@pytest.mark.parametrize(
    ("override", "warning"),
    [
        ("optim.base_batch=64", "the linear rule gives 0.0075"),
        ("optim.batch_size=64", "exceeds the 48 images"),
        ("method.queue=50", "method.queue=50: the queue holds the keys of 1 passes over the 48"),
        ("augment.views={global_1: {}}", "augment.views: no view 'global_1'"),
    ],
)
def test_plan__warns(
    override: str, warning: str, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*arguments(scenes, tmp_path), "--dry-run"]
    assert hcl.main(["pretrain", *words, "optim.base_batch=16"]) == 0
    assert warning not in capsys.readouterr().out
    assert hcl.main(["pretrain", *words, "optim.base_batch=null", override]) == 0
    assert warning in capsys.readouterr().out


def test_plan__rate_by_rule(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(scenes, tmp_path, "optim.base_batch=64", "optim.scale_lr=linear")
    plan = as_json(words, capsys)
    assert plan["schedule"]["peak_lr"] == 0.0075
    assert plan["schedule"]["rule"] == "0.03 x 16 / 64, the linear rule"
    assert not [text for text in plan["warnings"] if "optim.lr" in text]


def test_plan__adamw_keeps_two_copies(scenes: Path, tmp_path: Path) -> None:
    words = arguments(scenes, tmp_path)
    sgd = plan_run(load_settings(words[0], words[1:])).memory
    adamw = plan_run(load_settings(words[0], [*words[1:], "optim.optimizer=adamw"])).memory
    assert adamw.optimizer == pytest.approx(2 * sgd.optimizer, abs=0.1)
    assert sgd.optimizer == sgd.gradients


@pytest.mark.parametrize("option", ["--images-per-s=0", "--images=-1", "--processes=0"])
def test_dry_run__refuses_numbers(option: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        hcl.main(["pretrain", "quickstart", "--dry-run", option])
    assert stopped.value.code == 2


def test_dry_run__batch_that_does_not_divide(capsys: pytest.CaptureFixture[str]) -> None:
    assert hcl.main(["pretrain", "quickstart", "--dry-run", "--processes", "7"]) == 2
    assert "64 does not divide over 7 processes" in capsys.readouterr().err
