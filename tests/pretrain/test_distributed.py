"""Several processes compute what one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import pretrain
from pretrain import distributed
from pretrain.core.errors import InputError

ROOT = Path(pretrain.__file__).parent.parent
SCRIPT = Path(__file__).parent / "distributed_step.py"


def steps(output: Path, processes: int) -> dict[str, Any]:
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, str(SCRIPT), str(output)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    state: dict[str, Any] = torch.load(output, weights_only=True)
    return state


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return steps(tmp_path_factory.mktemp("alone") / "state.pt", 1)


@pytest.mark.parametrize("processes", [2, 4])
def test_steps__equal_those_of_one_process(
    tmp_path: Path, alone: dict[str, Any], processes: int
) -> None:
    together = steps(tmp_path / "state.pt", processes)
    for kind, expected in alone.items():
        found = together[kind]
        torch.testing.assert_close(found["losses"], expected["losses"], rtol=1e-12, atol=0)
        for name, value in expected["state"].items():
            torch.testing.assert_close(found["state"][name], value, rtol=1e-10, atol=1e-11)
    # All ranks learned the curvature, from the gradient averaged over all of them.
    assert abs(alone["learned"]["state"]["log_curvature"].exp() - 0.05) > 1e-4


def test_device__cuda_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with (
        pytest.raises(InputError, match=r"train\.device: 'cuda' asks for CUDA"),
        distributed.process_group("cuda"),
    ):
        pass


def test_slurm_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\nprintf 'node7\\nnode8\\n'\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    slurm = {
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NODELIST": "node[7-8]",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    }
    made = distributed._slurm_environment(slurm)
    assert made["MASTER_ADDR"] == "node7"
    assert (made["RANK"], made["WORLD_SIZE"], made["LOCAL_RANK"]) == ("3", "4", "1")
    assert made["LOCAL_WORLD_SIZE"] == "2"
    assert 20000 <= int(made["MASTER_PORT"]) < 40000
    other = distributed._slurm_environment({**slurm, "SLURM_JOB_ID": "78"})
    assert other["MASTER_PORT"] != made["MASTER_PORT"]
    assert distributed._slurm_environment({**slurm, "RANK": "0"}) == {}  # torchrun inside a job
    assert distributed._slurm_environment({"SLURM_NTASKS": "4"}) == {}  # the batch script itself
