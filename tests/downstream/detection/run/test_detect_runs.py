"""Seeds, kills, several processes, accumulation, and measuring what was trained before."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_detection import Toy, command

import hcl
from downstream.detection.coco.sets import registered
from downstream.detection.coco.transfer_sets import read_set
from downstream.detection.model.config import TRAIN, VAL, adapt, load_config
from downstream.detection.run.checkpoints import Checkpointer, read_trained
from downstream.results.collect import collect
from downstream.results.result import read_result

ROOT = Path(hcl.__file__).parent


def test_seeds_in_one_call(
    small_config: Path, toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    arguments = command(small_config, toy, output, "SOLVER.MAX_ITER=2", "--seeds", "0", "3")
    assert hcl.main(arguments) == 0
    shown = capsys.readouterr().out
    results = [read_result(output / f"seed{seed}") for seed in (0, 3)]
    assert [result.provenance["seed"] for result in results] == [0, 3]
    assert results[0].protocol == results[1].protocol
    numbers = [result.metrics["bbox/AP50"] for result in results]
    expected = f"{statistics.fmean(numbers):.2f} ± {statistics.stdev(numbers):.2f}"
    (line,) = [line for line in shown.splitlines() if "bbox/AP50 " in line]
    assert line.split("bbox/AP50")[1].split("(")[0].strip() == expected
    assert "(2 seeds)" in line
    assert collect([output]).names == ["random"]  # one row of `hcl compare`
    # Again: what is done stays; one more seed is added.
    assert hcl.main([*arguments, "5"]) == 0
    assert capsys.readouterr().out.count("nothing to do") == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seeds", "1", "1"], "different numbers"),
        (["--seeds", "1", "--name", "x", "SEED=2"], "an override of SEED"),
        (["--seeds", "1", "--eval-only", "x.pth"], "measures one detector"),
    ],
)
def test_seeds_that_cannot_be(
    small_config: Path,
    toy: Toy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    assert hcl.main(command(small_config, toy, tmp_path / "no", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_evaluation_only(
    small_config: Path, toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained, again = tmp_path / "trained", tmp_path / "again"
    assert hcl.main(command(small_config, toy, trained, "--name", "mine")) == 0
    only = ["detect", str(small_config), "--val", *toy.arguments, "--output", str(again)]
    assert hcl.main([*only, "--eval-only", str(trained)]) == 0
    shown = capsys.readouterr().out
    assert "model_final.pth loaded, none left over" in shown
    one, two = read_result(trained), read_result(again)
    assert one.metrics == two.metrics
    assert (two.run, two.protocol["iterations"]) == ("mine", 3)
    assert two.provenance["weights"]["sha256"] == read_trained(trained).sha256
    assert "train" not in two.provenance
    assert not (again / "metrics.json").exists()
    texts = [(folder / "detections.json").read_text() for folder in (trained, again)]
    assert texts[0] == texts[1]

    def refused(*more: str) -> str:
        arguments = [*only[:-1], str(tmp_path / "no"), *more]
        assert hcl.main(arguments) == 2
        return capsys.readouterr().err

    model = str(trained / "model_final.pth")
    assert "it shapes" in refused("--eval-only", model, "MODEL.FPN.OUT_CHANNELS=16")
    assert "it has besides 'roi_heads.mask" in refused("--eval-only", model, "MODEL.MASK_ON=False")
    assert "no checkpoint of a detector" in refused("--eval-only", str(tmp_path))
    torch.save({"model": {"conv1.weight": torch.zeros(1)}}, tmp_path / "w.pth")
    assert "a backbone goes to --weights" in refused("--eval-only", str(tmp_path / "w.pth"))


def test_a_kill_and_resuming(small_config: Path, toy: Toy, tmp_path: Path) -> None:
    """SIGKILL in the middle; then the rest is trained, and each iteration is logged once."""
    output = tmp_path / "out"
    arguments = command(small_config, toy, output, "SOLVER.MAX_ITER=24")
    arguments += ["SOLVER.CHECKPOINT_PERIOD=3", "SOLVER.STEPS=[20]"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(ROOT / "hcl.py"), *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        cwd=tmp_path,
    ) as process:
        mark = output / "last_checkpoint"
        limit = time.monotonic() + 120
        while not mark.is_file() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it was over before the kill"
    assert not (output / "result.json").exists()
    with (output / "metrics.json").open("a") as file:
        file.write('{"iteration": 23, "total_loss"')  # a line that the kill has cut
    assert hcl.main(arguments) == 0
    assert read_result(output).protocol["iterations"] == 24
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    done = [line["iteration"] for line in lines if "total_loss" in line]
    assert done == sorted(set(done))
    assert done[-1] == 23
    assert not list(output.glob(".*.tmp"))


def test_a_checkpoint_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill while writing leaves the one before in place, marked and readable."""
    layer = torch.nn.Linear(2, 2)
    checkpointer = Checkpointer(layer, str(tmp_path))
    checkpointer.save("model_0000001", iteration=1)

    def killed(_content: Any, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save("model_0000002", iteration=2)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert not (tmp_path / "model_0000002.pth").exists()


@pytest.mark.parametrize("world", [1, 2])
def test_processes_on_the_cpu(
    world: int, small_config: Path, toy: Toy, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    norms = ["MODEL.RESNETS.NORM=naiveSyncBN", "MODEL.FPN.NORM=naiveSyncBN"]
    more = ["--num-gpus", str(world), "SOLVER.MAX_ITER=2", *norms]
    more += ["SOLVER.IMS_PER_BATCH=4"]
    assert hcl.main(command(small_config, toy, tmp_path / "out", *more)) == 0
    result = read_result(tmp_path / "out")
    assert result.provenance.get("world", 1) == world
    assert result.protocol["images_per_norm"] == 4
    shown = capfd.readouterr().out
    assert shown.count("iter 2/2") == 1  # one process speaks
    images = {d["image_id"] for d in json.loads((tmp_path / "out/detections.json").read_text())}
    assert images == {100 + n for n in range(8)}  # the parts of both


def test_errors_of_processes_end_in_a_line(
    small_config: Path, toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--num-gpus", "2", "MODEL.RESNETS.NORM=SyncBN"]
    assert hcl.main(command(small_config, toy, tmp_path / "out", *more)) == 2
    shown = capsys.readouterr().err
    assert "on the CPU set it to naiveSyncBN" in shown
    assert len(shown.strip().splitlines()) == 1
    more = ["HCL.ACCUMULATE=2", "SOLVER.IMS_PER_BATCH=3"]
    assert hcl.main(command(small_config, toy, tmp_path / "out", *more)) == 2
    assert "multiple of HCL.ACCUMULATE (2)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        hcl.main(command(small_config, toy, tmp_path / "out", "--num-gpus", "0"))
    assert "must be a whole number from 1" in capsys.readouterr().err


def test_accumulated_gradients_are_the_mean_of_the_parts(
    small_config: Path, toy: Toy, tmp_path: Path
) -> None:
    """One step in two parts moves the weights as the mean of the two parts' gradients does."""
    from detectron2.utils.env import seed_all_rng
    from detectron2.utils.events import EventStorage

    from downstream.detection.run.trainer import Trainer

    found = read_set((toy.annotations, toy.images), ())
    overrides = ["HCL.ACCUMULATE", "2", "SOLVER.IMS_PER_BATCH", "4", "SOLVER.WARMUP_ITERS", "0"]
    overrides += ["SOLVER.MOMENTUM", "0.0", "SOLVER.WEIGHT_DECAY", "0.0"]
    config = load_config(small_config, overrides)
    adapt(config, found, found, tmp_path, 1)
    with registered(**{TRAIN: found, VAL: found}), EventStorage() as storage:
        seed_all_rng(0)
        trainer = Trainer(config, found, lambda _line: None)
        trainer.storage = storage
        batches = [batch for batch, _ in zip(trainer.loader(), range(2), strict=False)]
        assert [len(batch) for batch in batches] == [2, 2]
        trainer._batches = iter(batches)
        start = {n: p.detach().clone() for n, p in trainer.detector.named_parameters()}
        statistics_before = {n: b.clone() for n, b in trainer.detector.named_buffers()}
        seed_all_rng(1)
        trainer.run_step()
        moved = {n: p.detach() - start[n] for n, p in trainer.detector.named_parameters()}
        # The same by hand: sum of the halved losses, one gradient.
        with torch.no_grad():
            for name, value in trainer.detector.named_parameters():
                value.copy_(start[name])
            for name, buffer in trainer.detector.named_buffers():
                buffer.copy_(statistics_before[name])
        trainer.optimizer.zero_grad()
        seed_all_rng(1)
        total = sum(sum(trainer.detector(batch).values()) / 2 for batch in batches)
        assert isinstance(total, torch.Tensor)
        total.backward()
    rate = trainer.optimizer.param_groups[0]["lr"]
    for name, value in trainer.detector.named_parameters():
        assert value.grad is not None
        torch.testing.assert_close(moved[name], -rate * value.grad, rtol=1e-3, atol=1e-6)
