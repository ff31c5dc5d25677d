"""Checkpoints survive kills and damage."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pretrain import checkpoint
from pretrain.core.errors import InputError
from pretrain.core.files import sha256


def save(folder: Path, step: int, keep: int = 2, keep_every: int | None = None) -> Path:
    state = {"step": step, "model": {"weight": torch.full((3,), float(step))}}
    return checkpoint.save(folder, state, step, keep=keep, keep_every=keep_every)


def test_load__is_what_was_saved(tmp_path: Path) -> None:
    state = checkpoint.load(save(tmp_path, 7))
    assert state["step"] == 7
    assert torch.equal(state["model"]["weight"], torch.full((3,), 7.0))


def test_retention(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step, keep=2, keep_every=2)
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == [
        f"step_{step:08d}.pt" for step in (2, 4, 5)
    ]
    assert len(list(tmp_path.glob("*.sha256"))) == 3


@pytest.mark.parametrize("damage", ["cut", "flip", "no checksum"])
def test_load_latest__falls_back_and_says_so(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    data = newest.read_bytes()
    if damage == "cut":
        newest.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        newest.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
    else:
        newest.with_suffix(".sha256").unlink()
    with caplog.at_level(logging.WARNING):
        found = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert found[1]["step"] == 1
    assert "step_00000002.pt" in caplog.text
    assert "falling back" in caplog.text


def test_load_latest__all_damaged(tmp_path: Path) -> None:
    save(tmp_path, 1).write_bytes(b"")
    with pytest.raises(InputError, match="all 1 checkpoints are damaged"):
        checkpoint.load_latest(tmp_path)


def test_load_latest__none(tmp_path: Path) -> None:
    assert checkpoint.load_latest(tmp_path / "absent") is None


def test_load__never_runs_code(tmp_path: Path) -> None:
    path = tmp_path / "step_00000001.pt"
    torch.save({"step": Path("an object, not a plain value")}, path)
    path.with_suffix(".sha256").write_text(sha256(path))
    with pytest.raises(InputError, match="not a readable checkpoint"):
        checkpoint.load(path)


WRITER = """
import sys
from pathlib import Path
import torch
from pretrain import checkpoint
for step in range(1, 10**6):
    checkpoint.save(Path(sys.argv[1]), {"step": step, "model": torch.full((200_000,), float(step))},
                    step, keep=2, keep_every=None)
    print(step, flush=True)
"""


def test_kill_while_saving__newest_is_sound(tmp_path: Path) -> None:
    root = Path(checkpoint.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    for delay in (0.0, 0.011, 0.023):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], env=environment, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        done = [int(process.stdout.readline()) for _ in range(4)]
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        done += [int(line) for line in process.stdout.read().split()]
        process.wait()
        found = checkpoint.load_latest(tmp_path)
        assert found is not None
        assert found[1]["step"] in (done[-1], done[-1] + 1)
        assert torch.equal(found[1]["model"], torch.full((200_000,), float(found[1]["step"])))
