"""The run folder as a guard."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import yaml

from pretrain.config import load_settings
from pretrain.core.config import dump_yaml
from pretrain.core.errors import InputError
from pretrain.run import RunFolder


def test_settings_that_an_older_version_did_not_have_count_as_their_defaults(
    tmp_path: Path,
) -> None:
    settings = load_settings("coco_r50_mocov2_hcl", [f"output={tmp_path}"])
    saved = yaml.safe_load(dump_yaml(settings))
    del saved["hcl"]["learn_curvature"], saved["optim"]["clip_norm"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    RunFolder(settings).check()
    other = load_settings("coco_r50_mocov2_hcl", [f"output={tmp_path}", "hcl.learn_curvature=true"])
    with pytest.raises(InputError, match=r"hcl\.learn_curvature: False -> True"):
        RunFolder(other).check()


def test_statistics_may_be_switched_in_mid_run(tmp_path: Path) -> None:
    settings = load_settings("coco_r50_mocov2_hcl", [f"output={tmp_path}"])
    (tmp_path / "config.yaml").write_text(dump_yaml(settings))
    RunFolder(
        load_settings("coco_r50_mocov2_hcl", [f"output={tmp_path}", "hcl.statistics=false"])
    ).check()


def run_in(folder: Path, **more: object) -> RunFolder:
    overrides = [f"{key}={value}" for key, value in more.items()]
    return RunFolder(load_settings("coco_r50_mocov2_hcl", [f"output={folder}", *overrides]))


def files_of_a_run(folder: Path) -> list[Path]:
    """Write what a run leaves, and more beside it; returns what is not the run's."""
    names = ("metrics.jsonl", "views.png", "bad_images.jsonl", ".run.json.0a1b2c3d.tmp")
    names += ("checkpoints/step_00000004.pt", "checkpoints/step_00000004.sha256")
    names += ("checkpoints/.step_00000005.pt.0a1b2c3d.tmp", "nonfinite/step_00000004_rank0.pt")
    names += ("tensorboard/events.out.tfevents.1.host.2.0",)
    mine = ("notes.txt", "detection/result.json", "result.json", "checkpoints/best.pt")
    for name in (*names, *mine):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / "config.yaml").write_text(
        dump_yaml(load_settings("coco_r50_mocov2_hcl", [f"output={folder}", "seed=7"]))
    )
    return [folder / name for name in mine]


def test_fresh_removes_the_runs_own_files_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = files_of_a_run(tmp_path)
    run = run_in(tmp_path)
    with pytest.raises(InputError, match="seed: 7 -> 0"):
        run.check()
    run.check(fresh=True)
    with caplog.at_level(logging.INFO):
        run.clear()
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == sorted([*mine, tmp_path / "config.yaml"])
    assert "left what is not the run's: checkpoints, detection, notes.txt, result.json" in (
        caplog.text
    )
    assert not (tmp_path / "tensorboard").exists()
    run.check(fresh=True)  # as after a kill in the middle


def test_fresh_follows_a_link_to_the_checkpoints(tmp_path: Path) -> None:
    run, disk = tmp_path / "run", tmp_path / "disk"
    for folder in (run, disk):
        folder.mkdir()
    (run / "checkpoints").symlink_to(disk)
    files_of_a_run(run)
    run_in(run).clear()
    assert (run / "checkpoints").is_symlink()
    assert [path.name for path in disk.iterdir()] == ["best.pt"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yaml", "title: my web site\n"),
        ("config.yaml", "- no mapping\n"),
        ("config.yaml", ""),
        ("run.json", "[]"),
        ("run.json", json.dumps({"name": "x", "starts": [], "task": "metric learning"})),
        ("notes.txt", "dear"),
    ],
)
def test_fresh_leaves_folders_of_others(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    (tmp_path / "metrics.jsonl").write_text("mine")
    with pytest.raises(InputError, match="not a run folder of this command"):
        run_in(tmp_path).check(fresh=True)


def test_fresh_takes_a_run_of_which_one_record_is_damaged(tmp_path: Path) -> None:
    files_of_a_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    run_in(tmp_path).check(fresh=True)
    (tmp_path / "config.yaml").write_text("{")
    with pytest.raises(InputError):
        run_in(tmp_path).check(fresh=True)
    record = {"name": "x", "method": "moco+hcl", "starts": []}
    (tmp_path / "run.json").write_text(json.dumps(record))
    run_in(tmp_path).check(fresh=True)


def test_the_lock_and_unfinished_files_are_nobodys(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("")
    (tmp_path / ".config.yaml.0a1b2c3d.tmp").write_text("")
    run_in(tmp_path).check()
    run_in(tmp_path).check(fresh=True)


def test_settings_in_a_checkpoint_are_compared(tmp_path: Path) -> None:
    run, path = run_in(tmp_path, seed=1), tmp_path / "checkpoints/step_00000004.pt"
    settings = load_settings("coco_r50_mocov2_hcl", ["output=elsewhere", "train.log_every=3"])
    recorded = settings.model_dump(mode="json")
    with pytest.raises(InputError, match=r"step_00000004\.pt: .*\(seed: 0 -> 1\)"):
        run.check_checkpoint(path, recorded)
    run.check_checkpoint(path, {**recorded, "seed": 1})
    run.check_checkpoint(path, None)
