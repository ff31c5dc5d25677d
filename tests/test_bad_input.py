"""What users get wrong ends in one or two lines that name the culprit, and status 2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hcl

Mend = Callable[[Path], None]


def annotations(folder: Path) -> Path:
    return folder / "annotations/instances_train.json"


def edit(change: Callable[[dict[str, Any]], None]) -> Mend:
    def apply(folder: Path) -> None:
        content = json.loads(annotations(folder).read_text())
        change(content)
        annotations(folder).write_text(json.dumps(content))

    return apply


def box(index: int, value: list[float]) -> Mend:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][index]["bbox"] = value

    return edit(change)


def foreign_category(content: dict[str, Any]) -> None:
    content["annotations"][0]["category_id"] = 4711


def truncate(folder: Path) -> None:
    path = folder / "train/000000000003.jpg"
    path.write_bytes(path.read_bytes()[:-200])


FAULTS: dict[str, tuple[Mend, str]] = {
    "missing image folder": (lambda folder: shutil.rmtree(folder / "train"), "train"),
    "not JSON": (lambda f: annotations(f).write_text('{"images": ['), "instances_train.json"),
    "box outside its image": (box(0, [90.0, 90.0, 50.0, 50.0]), "annotation"),
    "zero-area box": (box(0, [10.0, 10.0, 0.0, 5.0]), "annotation"),
    "category id without category": (edit(foreign_category), "4711"),
    "truncated JPEG": (truncate, "000000000003.jpg"),
}


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert hcl.main(arguments) == 2
    message = capsys.readouterr().err.strip()
    lines = [line for line in message.splitlines() if not line.startswith("step ")]
    assert 1 <= len(lines) <= 2, message
    return "\n".join(lines)


def pretrain_arguments(folder: Path, tmp_path: Path) -> list[str]:
    return [
        "pretrain",
        "quickstart",
        f"output={tmp_path / 'run'}",
        f"data.annotations={annotations(folder)}",
        f"data.images={folder / 'train'}",
        f"data.index={tmp_path / 'index'}",
        "data.workers=0",
        "views.size=32",
        "optim.batch_size=16",
        "method.norm_group=8",
        "train.epochs=1",
        "train.tensorboard=false",
    ]


@pytest.fixture
def broken(scenes: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    shutil.copytree(scenes, folder)
    return folder


@pytest.mark.parametrize("fault", FAULTS)
def test_pretrain__bad_data(
    fault: str, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mend, culprit = FAULTS[fault]
    mend(broken)
    assert culprit in fails(pretrain_arguments(broken, tmp_path), capsys)


def test_pretrain__misspelt_key(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*pretrain_arguments(scenes, tmp_path), "optim.batchsize=8"]
    message = fails(arguments, capsys)
    assert "unknown key 'optim.batchsize': did you mean 'batch_size'?" in message


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown command 'detct'; did you mean 'hcl detect'?" in fails(["detct"], capsys)


def test_detect__weights_of_another_architecture(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("detectron2")
    run = [*pretrain_arguments(scenes, tmp_path), "train.epochs=null", "train.steps=0"]
    assert hcl.main([*run, "model.backbone=resnet34"]) == 0
    weights = tmp_path / "backbone.pth"
    assert (
        hcl.main(["export", str(tmp_path / "run"), "--to", "detectron2", "-o", str(weights)]) == 0
    )
    sets = ["--train", str(annotations(scenes)), str(scenes / "train")]
    sets += ["--val", str(scenes / "annotations/instances_val.json"), str(scenes / "val")]
    output = ["--output", str(tmp_path / "detection")]
    message = fails(
        ["detect", "quickstart_r18_fpn", "--weights", str(weights), *sets, *output], capsys
    )
    assert "backbone.pth" in message
    assert "34" in message


def test_retrieve__truncated_image(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [*pretrain_arguments(broken, tmp_path), "train.epochs=null", "train.steps=0"]
    assert hcl.main(run) == 0
    truncate(broken)
    arguments = ["retrieve", str(tmp_path / "run"), "--annotations", str(annotations(broken))]
    arguments += ["--images", str(broken / "train"), "--output", str(tmp_path / "retrieval")]
    assert "000000000003.jpg" in fails(arguments, capsys)
