"""The folder of a transfer: one process at a time, only own files removed, nothing unpickled."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_detection import Toy, command

import hcl

ROOT = Path(hcl.__file__).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def content(folder: Path) -> dict[str, bytes]:
    names = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in names if path.name not in (".lock", "log.txt")}


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_resuming_unpickles_nothing(
    small_config: Path, toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, made = tmp_path / "out", tmp_path / "made"
    arguments = command(small_config, toy, output, "SOLVER.CHECKPOINT_PERIOD=2")
    assert hcl.main(arguments) == 0
    (output / "result.json").unlink()
    payload = {"model": {}, "trainer": Payload(made)}
    for path in (output / "evil.pkl", tmp_path / "model_0000005.pth", output / "model_0000006.pth"):
        path.write_bytes(pickle.dumps(payload))
    torch.save(payload, output / "model_0000007.pth")
    torch.save({"model": {}, "trainer": {}}, output / "model_0000008.pth")
    marks = {
        "evil.pkl": "names no checkpoint of `hcl detect` in this folder ('evil.pkl')",
        "../model_0000005.pth": "names no checkpoint",
        str(tmp_path / "model_0000005.pth"): "names no checkpoint",
        "model_0000004.pth": "names no checkpoint",
        "": "names no checkpoint",
        "model_0000006.pth": "unpickling",
        "model_0000007.pth": "unpickling",
        "model_0000008.pth": "not a checkpoint of this transfer",
    }
    capsys.readouterr()
    for mark, message in marks.items():
        (output / "last_checkpoint").write_text(mark)
        assert hcl.main(arguments) == 2, mark
        said = capsys.readouterr().err
        assert message in said, mark
        assert "Traceback" not in said
    assert not made.exists()
    pickle.loads((output / "evil.pkl").read_bytes())
    assert made.exists(), "the payload would have worked"


def test_overwriting(
    small_config: Path, toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    arguments = command(small_config, toy, output, "--fresh", "SOLVER.MAX_ITER=2")
    assert hcl.main(arguments) == 0
    mine = [output / name for name in ("notes.txt", "detections/mine.png", "model_best.pth")]
    for path in mine:
        path.write_text("dear")
    before = content(output)
    capsys.readouterr()
    # Not before the new transfer can be built.
    assert hcl.main([*arguments, "MODEL.BACKBONE.NAME=build_nothing"]) == 2
    assert "cannot build this config" in capsys.readouterr().err
    assert content(output) == before
    only = ["detect", str(small_config), "--val", *toy.arguments, "--output", str(output)]
    assert hcl.main([*only, "--fresh", "--eval-only", str(output)]) == 2
    assert "model_final.pth: would be removed to make room" in capsys.readouterr().err
    assert content(output) == before
    assert hcl.main([*arguments, "SEED=5"]) == 0
    after = content(output)
    assert after.keys() == before.keys()
    assert all(path.read_text() == "dear" for path in mine)
    assert after[str(output / "result.json")] != before[str(output / "result.json")]


def test_another_commands_config_is_in_the_way(
    small_config: Path, toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    output.mkdir()
    (output / "config.yaml").write_text("of a pretraining run")
    assert hcl.main(command(small_config, toy, output, "--fresh")) == 2
    assert "config.yaml: in the way and not of a detection transfer" in capsys.readouterr().err
    assert [path.name for path in output.iterdir()] == ["config.yaml"]


def test_two_seeds_on_one_output(
    small_config: Path, toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    endless = command(small_config, toy, output, "SOLVER.MAX_ITER=100000")
    with subprocess.Popen(
        [sys.executable, str(ROOT / "hcl.py"), *endless],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            limit = time.monotonic() + 120
            while not (output / "config.yaml").is_file() and time.monotonic() < limit:
                assert process.poll() is None
                time.sleep(0.02)
            for more in (["SEED=5"], ["--fresh"]):
                assert hcl.main([*endless, *more]) == 2
                said = capsys.readouterr().err
                assert f"{output}: another transfer is at work here (process {process.pid}" in said
            assert process.poll() is None
        finally:
            process.kill()
    assert hcl.main([*endless, "--fresh", "SOLVER.MAX_ITER=2"]) == 0
