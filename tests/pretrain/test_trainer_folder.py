"""One run in a folder: two at once, runs mixed up, and starting over."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from test_trainer import ENVIRONMENT, command, small, train, wait_for_step

import hcl
from pretrain import checkpoint


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_two_runs_in_one_folder(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second ends at once, whatever its settings; after a kill the folder is free."""
    run = tmp_path / "run"
    endless = small(scenes, run, train__steps=10**6)
    process = subprocess.Popen(command(endless), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    try:
        wait_for_step(run, 4, process)
        process.send_signal(signal.SIGSTOP)  # it keeps its lock, and leaves the processor to others
        for more in ([], ["seed=1"], ["seed=1", "--fresh"]):
            assert hcl.main(["pretrain", "quickstart", *endless, *more]) == 2
            said = capsys.readouterr().err
            assert f"{run}: another run is at work here (process {process.pid} on " in said
            assert len(said.strip().splitlines()) == 1
        assert hcl.main(["pretrain", "quickstart", *endless, "--dry-run"]) == 0
        said = train([*endless, "seed=1"], processes=2, status=1)  # torchrun's own status
        assert f"process {process.pid} on " in said
        assert "process 1 stops, as another one failed" in said
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert yaml.safe_load((run / "config.yaml").read_text())["seed"] == 0
    assert len(json.loads((run / "run.json").read_text())["starts"]) == 1
    again = subprocess.Popen(
        command(endless), env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert again.stderr is not None
    for line in again.stderr:
        if line.startswith("step "):
            again.send_signal(signal.SIGTERM)
            break
    again.communicate(timeout=60)
    assert again.returncode == 75


def test_a_checkpoint_of_another_run_is_refused(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As two runs left it that were once started on one folder."""
    run = tmp_path / "run"
    arguments = ["pretrain", "quickstart", *small(scenes, run, train__steps=0)]
    assert hcl.main(arguments) == 0
    file = run / "config.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "seed": 1}))
    capsys.readouterr()
    assert hcl.main([*arguments, "seed=1"]) == 2
    said = capsys.readouterr().err
    assert "step_00000000.pt: holds a run of other settings (seed: 0 -> 1)" in said
    # One that an older version wrote says nothing of settings.
    found = checkpoint.load_latest(run / "checkpoints")
    assert found is not None
    del found[1]["description"]["config"]
    checkpoint.save(run / "checkpoints", found[1], 0, keep=2, keep_every=None)
    assert hcl.main([*arguments, "seed=1"]) == 0


def test_starting_over(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    arguments = ["pretrain", "quickstart", *small(scenes, run, train__steps=1)]
    assert hcl.main(arguments) == 0
    (run / "detection").mkdir()
    (run / "detection/result.json").write_text("dear")
    before = content(run)
    # Not before the new run can be built.
    fresh = [*arguments, "--fresh", "seed=1"]
    for fault in ("data.images=nowhere", "optim.batch_size=64", "model.backbone=timm/none"):
        assert hcl.main([*fresh, fault, f"data.index={tmp_path / 'other'}"]) == 2, fault
        assert content(run) == before
    capsys.readouterr()
    assert hcl.main(fresh) == 0
    after = content(run)
    assert before.keys() - {name for name in before if "tfevents" in name} == after.keys()
    assert before["detection/result.json"] == after["detection/result.json"]
    assert before["config.yaml"] != after["config.yaml"]
    assert len(json.loads((run / "run.json").read_text())["starts"]) == 1
    state = torch.load(run / "checkpoints/step_00000001.pt", weights_only=True)
    assert state["description"]["config"]["seed"] == 1
