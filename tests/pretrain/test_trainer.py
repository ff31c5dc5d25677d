"""Real runs: killed and resumed, stopped by signals, on two processes."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_network import SMALL

import hcl
import pretrain
from pretrain import checkpoint
from pretrain.metrics import read_metrics
from pretrain.pretrained import load_pretrained

ROOT = Path(pretrain.__file__).parent.parent
STEPS = 10


def overrides(scenes: Path, output: Path, **more: Any) -> list[str]:
    values = {
        "output": output,
        "data.annotations": scenes / "annotations/instances_train.json",
        "data.images": scenes / "train",
        "data.index": output.parent / "index",
        "data.workers": 1,
        "views.size": 48,
        "model.dim": 16,
        "method.queue": 20,  # no multiple of the batch: the ring wraps unevenly
        "method.norm_group": 8,
        "hcl.queue": 20,
        "optim.batch_size": 16,
        "optim.lr": 0.002,  # small: float noise between world sizes must not be amplified
        "train.epochs": None,
        "train.steps": STEPS,
        "train.log_every": 1,
        "train.checkpoint_every": 3,
        "train.threads": 1,
        "train.precision": "fp32",  # the same on every machine
        "train.tensorboard": False,
    }
    values.update({key.replace("__", "."): value for key, value in more.items()})
    return [f"{key}={json.dumps(value, default=str)}" for key, value in values.items()]


def small(scenes: Path, output: Path, **more: Any) -> list[str]:
    """Where the run is not interrupted, and need not be slow enough for that."""
    network = {f"model__{name}": value for name, value in SMALL.items()}
    return overrides(scenes, output, data__workers=0, **network, **more)


def command(arguments: Sequence[str], processes: int = 1) -> list[str]:
    launch = [sys.executable, "-m"]
    if processes > 1:
        launch += ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    return [*launch, "pretrain", "quickstart", *arguments]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def train(arguments: Sequence[str], processes: int = 1, status: int = 0) -> str:
    done = subprocess.run(
        command(arguments, processes),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def train_here(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[..., str]:
    """The same command in this process: starting one costs more than a small run."""

    def run(arguments: Sequence[str], status: int = 0) -> str:
        capsys.readouterr()
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert hcl.main(["pretrain", "quickstart", *arguments]) == status
        return "".join(capsys.readouterr()) + caplog.text

    return run


def losses(run: Path) -> list[tuple[float, ...]]:
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    names = ("loss", "loss/euclidean", "loss/hyperbolic", "norm/scene", "curvature")
    return [tuple(line[name] for name in names) for line in lines]


def final_state(run: Path) -> dict[str, Any]:
    found = checkpoint.load_latest(run / "checkpoints")
    assert found is not None
    assert found[1]["step"] == STEPS
    return found[1]


def assert_same_state(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["model"].keys() == other["model"].keys()
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name
    for key, state in one["optimizer"]["state"].items():
        momentum = other["optimizer"]["state"][key]["momentum_buffer"]
        assert torch.equal(state["momentum_buffer"], momentum)


def wait_for_step(run: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        lines = read_metrics(run / "metrics.jsonl")
        if lines and lines[-1]["step"] >= step:
            return
        assert process.poll() is None, "the run ended before it could be interrupted"
        time.sleep(0.005)
    raise AssertionError(f"step {step} not reached")


@pytest.fixture(scope="module")
def uninterrupted(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(overrides(scenes, run, data__workers=0))
    return run


def test_run_folder_tells_its_story(uninterrupted: Path) -> None:
    record = json.loads((uninterrupted / "run.json").read_text())
    assert record["state"] == "finished"
    assert (record["step"], record["total_steps"]) == (STEPS, STEPS)
    assert record["method"] == "moco+hcl"
    assert len(record["starts"]) == 1
    assert record["data_fingerprint"]
    assert (uninterrupted / "config.yaml").is_file()
    assert (uninterrupted / "views.png").read_bytes().startswith(b"\x89PNG")


def test_kill_in_mid_epoch__resumes_bit_identically(
    scenes: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    run = tmp_path / "run"
    arguments = overrides(scenes, run)
    for step in (4, 7):  # neither is a checkpoint's step; 48 images in batches of 16: 3 an epoch
        process = subprocess.Popen(
            command(arguments),
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for_step(run, step, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    output = train(arguments)
    assert "resumed from" in output
    assert losses(run) == losses(uninterrupted)
    assert_same_state(final_state(run), final_state(uninterrupted))
    assert len(json.loads((run / "run.json").read_text())["starts"]) == 3


def test_stop_signal__saves_and_asks_to_be_run_again(
    scenes: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    run = tmp_path / "run"
    arguments = overrides(scenes, run, train__checkpoint_every=1000)
    process = subprocess.Popen(
        command(arguments), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for_step(run, 2, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    assert json.loads((run / "run.json").read_text())["state"] == "stopped"
    train(arguments)
    assert losses(run) == losses(uninterrupted)


def test_two_ranks__same_trajectory_as_one(
    scenes: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    run = tmp_path / "run"
    train(overrides(scenes, run, data__workers=0), processes=2)
    # The same sums in another order: float32 noise, which training amplifies step by step.
    # test_distributed.py shows in float64 that nothing but noise differs.
    for step, (one, two) in enumerate(zip(losses(uninterrupted), losses(run), strict=True)):
        assert two == pytest.approx(one, rel=1e-5 if step < 2 else 5e-2)
    one, two = final_state(uninterrupted)["model"], final_state(run)["model"]
    for name in ("base.encoder_k.backbone.bn1.running_mean", "base.encoder_q.backbone.bn1.weight"):
        torch.testing.assert_close(two[name], one[name], rtol=5e-2, atol=5e-2)


def test_other_settings__are_refused(
    scenes: Path, uninterrupted: Path, train_here: Callable[..., str]
) -> None:
    arguments = overrides(scenes, uninterrupted, optim__lr=0.5)
    output = train_here(arguments, status=2)
    assert "holds a run of other settings (optim.lr: 0.002 -> 0.5)" in output
    assert len(output.strip().splitlines()) <= 2


def test_finished_run__is_left_alone(
    scenes: Path, tmp_path: Path, train_here: Callable[..., str]
) -> None:
    run = tmp_path / "run"
    arguments = small(scenes, run, train__steps=2)
    train_here(arguments)
    before = losses(run)
    assert "finished" in train_here(arguments)
    assert losses(run) == before


def test_changed_data__is_refused(
    scenes: Path, tmp_path: Path, train_here: Callable[..., str]
) -> None:
    data = tmp_path / "set"
    shutil.copytree(scenes, data)
    arguments = small(data, tmp_path / "run", train__steps=0)
    train_here(arguments)
    file = data / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"].pop()
    file.write_text(json.dumps(content))
    shutil.rmtree(tmp_path / "index")
    assert "the data set has changed since this run began" in train_here(arguments, status=2)


def test_no_steps__saves_the_initialization(
    scenes: Path, tmp_path: Path, train_here: Callable[..., str]
) -> None:
    run = tmp_path / "run"
    train_here(small(scenes, run, train__steps=0))
    found = checkpoint.load_latest(run / "checkpoints")
    assert found is not None
    assert found[1]["step"] == 0


def test_non_finite_loss__stops_and_saves_the_batch(scenes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    output = train(
        small(scenes, run, optim__lr=1e30, optim__warmup_steps=0, optim__clip_norm=None),
        status=1,
    )
    assert re.search(r"step \d+: loss .* not finite \(", output)
    assert re.search(r"First: aten\.\w+\.\w+ in base\.encoder_\S+ made", output)
    assert json.loads((run / "run.json").read_text())["state"] == "failed"
    (saved,) = (run / "nonfinite").glob("step_*_rank0.pt")
    state = torch.load(saved, weights_only=True)
    assert len(state["rows"]) == 16
    assert set(state["parts"][0]) == {"view_1", "view_2", "object", "scene"}


@pytest.mark.parametrize(
    "precision",
    # Convolutions in fp16 take minutes on a CPU.
    ["bf16", pytest.param("fp16", marks=pytest.mark.gpu)],
)
def test_half_precision__trains_and_resumes(
    scenes: Path, tmp_path: Path, train_here: Callable[..., str], precision: str
) -> None:
    run = tmp_path / "run"
    arguments = small(
        scenes, run, train__precision=precision, train__steps=4, train__checkpoint_every=2
    )
    train_here(arguments)
    whole = losses(run)
    assert all(loss > 0 for line in whole for loss in line)
    for file in (run / "checkpoints").glob("step_00000004.*"):
        file.unlink()  # as if killed after step 2
    assert "resumed from" in train_here(arguments)
    assert losses(run) == whole


def test_learned_curvature__resumes_bit_identically(
    scenes: Path, tmp_path: Path, train_here: Callable[..., str]
) -> None:
    run = tmp_path / "run"
    arguments = small(
        scenes,
        run,
        hcl__learn_curvature=True,
        optim__lr=0.05,
        optim__warmup_steps=0,
        optim__clip_norm=None,
        train__steps=4,
        train__checkpoint_every=2,
    )
    train_here(arguments)
    whole = losses(run)
    state = checkpoint.load(run / "checkpoints/step_00000004.pt")
    curvature = state["model"]["log_curvature"]
    assert curvature.dtype == torch.float64
    assert len({line[-1] for line in whole}) == 4  # another c each step
    assert state["description"]["curvature"] == curvature.exp().item()
    assert load_pretrained(run).description.curvature == curvature.exp().item()
    for file in (run / "checkpoints").glob("step_00000004.*"):
        file.unlink()  # as if killed after step 2
    assert "resumed from" in train_here(arguments)
    assert losses(run) == whole
    assert_same_state(checkpoint.load(run / "checkpoints/step_00000004.pt"), state)
