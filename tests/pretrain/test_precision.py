"""``train.precision``: the machine's choice, where it is recorded, and what a resumed run does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_network import SMALL_WORDS

import hcl
from pretrain import checkpoint, distributed, mixed_precision
from pretrain.config import TrainSettings
from pretrain.mixed_precision import choose_precision, native_bfloat16

CPU = torch.device("cpu")


def have(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(mixed_precision, "native_bfloat16", lambda _: native)


def test_auto_is_the_default() -> None:
    assert TrainSettings(steps=1).precision == "auto"


def test_bf16_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, True)
    assert choose_precision("auto", CPU) == "bf16"
    assert choose_precision("fp32", CPU) == "fp32"
    have(monkeypatch, False)
    assert choose_precision("auto", CPU) == "fp32"
    assert choose_precision("bf16", CPU) == "bf16"


def test_fp32_where_one_process_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, True)
    monkeypatch.setattr(distributed, "any_rank", lambda *_: True)
    assert choose_precision("auto", CPU) == "fp32"


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="Linux says what a CPU can do")
def test_a_cpu_is_judged_as_the_system_says() -> None:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    assert native_bfloat16(CPU) == ("amx_tile" in flags or "avx512_bf16" in flags)


def pretrain(scenes: Path, run: Path, steps: int, *more: str) -> None:
    words = [
        f"output={run}",
        f"data.annotations={scenes}/annotations/instances_train.json",
        f"data.images={scenes}/train",
        f"data.index={run.parent}/index",
        *(*SMALL_WORDS, "data.workers=0", "views.size=32", "model.dim=8", "hcl.weight=0"),
        *("method.queue=16", "method.norm_group=2", "optim.batch_size=4", "optim.warmup_steps=0"),
        *("train.epochs=null", "train.steps=4", "train.log_every=1", "train.tensorboard=false"),
        *("train.checkpoint_every=2", f"train.threads={1}"),
    ]
    assert hcl.main(["pretrain", "quickstart", *words, *more]) == 0
    assert checkpoint.load_latest(run / "checkpoints") is not None
    if steps == 2:
        for file in (run / "checkpoints").glob("step_00000004.*"):
            file.unlink()  # as if killed after step 2


def test_a_run_keeps_the_precision_it_began_with(
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = tmp_path / "run"
    caplog.set_level("INFO")
    have(monkeypatch, True)
    pretrain(scenes, run, 2)
    assert "precision of the encoders: bf16, chosen for this machine" in caplog.text
    have(monkeypatch, False)
    caplog.clear()
    pretrain(scenes, run, 4)
    assert "bf16, as this run began; this machine would choose fp32" in caplog.text
    assert json.loads((run / "run.json").read_text())["precision"] == "bf16"
    found = checkpoint.load_latest(run / "checkpoints")
    assert found is not None
    assert found[1]["description"]["precision"] == "bf16"
    assert found[1]["description"]["config"]["train"]["precision"] == "auto"


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_the_dry_run_says_what_this_machine_takes(
    native: bool,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    have(monkeypatch, native)
    words = ["model.dim=8", "train.device=cpu"]
    assert hcl.main(["pretrain", "quickstart", "--dry-run", "--images", "640", *words]) == 0
    assert f"resnet18, {expected} (chosen here)" in capsys.readouterr().out
