"""``hcl pipeline`` with real commands: each once, and again when something has changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import hcl
from slurm.graph import load_pipeline

ROOT = Path(hcl.__file__).resolve().parent
LONG = 200_000  # scenes: minutes of work


def make(out: str, images: int | str = 2) -> list[str]:
    """A command of 0.4 s."""
    words = f"--images {images} --val 1 --size 64 --seed 1 --workers 1 --overwrite"
    return ["data", "scenes", f"${{output}}/{out}", *words.split()]


def write(tmp_path: Path, steps: dict[str, Any], **more: str) -> str:
    file = tmp_path / "p.yaml"
    content = {"name": "p", "vars": {"output": str(tmp_path / "out"), **more}, "steps": steps}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(file)


def state(tmp_path: Path) -> dict[str, Any]:
    steps: dict[str, Any] = json.loads((tmp_path / "out/pipeline.json").read_text())["steps"]
    return steps


def runs(tmp_path: Path) -> dict[str, int]:
    return {name: record["run"] for name, record in state(tmp_path).items()}


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = capsys.readouterr().err.splitlines()
    return [line.removeprefix("hcl pipeline: ") for line in lines if "hcl pipeline: " in line]


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_run__each_step_once_and_what_changed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = {
        "b": {"run": make("b", "${n}"), "needs": ["a"]},
        "a": {"run": make("a")},
        "c": {"run": make("c")},
    }
    file = write(tmp_path, steps, n="2")
    assert hcl.main(["pipeline", file]) == 0
    assert runs(tmp_path) == {"a": 1, "b": 2, "c": 3}
    assert (tmp_path / "out/b/annotations").is_dir()
    capsys.readouterr()

    assert hcl.main(["pipeline", file]) == 0
    assert said(capsys) == ["a: finished before", "b: finished before", "c: finished before"]

    assert hcl.main(["pipeline", file, "n=3"]) == 0
    assert said(capsys)[1].startswith("b: its command has changed: '2' is now '3': hcl data scenes")
    assert runs(tmp_path) == {"a": 1, "b": 4, "c": 3}

    steps["a"]["run"] = make("a", 4)
    assert hcl.main(["pipeline", write(tmp_path, steps, n="3")]) == 0
    lines = said(capsys)
    assert lines[0].startswith("a: its command has changed: '2' is now '4'")
    assert lines[1].startswith("b: a was run again since")
    assert lines[2] == "c: finished before"
    assert runs(tmp_path) == {"a": 5, "b": 6, "c": 3}


@pytest.mark.parametrize(
    ("command", "base"), [(["pretrain"], "quickstart"), (["retrieve", "train"], "hyp_vits_cub")]
)
def test_run__content_of_files(
    command: list[str], base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(f"base: {base}\noptim: {{lr: 0.02}}\n")
    steps = {"look": {"run": [*command, "--print-config", str(config)]}}
    file = write(tmp_path, steps)
    assert hcl.main(["pipeline", file]) == 0
    capsys.readouterr()
    config.write_text(f"# only a comment\nbase: {base}\noptim: {{lr: 0.02}}\n")
    assert hcl.main(["pipeline", file, "--dry-run"]) == 0
    assert "look: finished" in capsys.readouterr().out
    config.write_text(f"base: {base}\noptim: {{lr: 0.01}}\n")
    assert hcl.main(["pipeline", file, "--dry-run"]) == 0
    assert f"look: would run: {config} has changed" in capsys.readouterr().out


def test_run__what_it_makes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = "${output}/a/annotations/instances_val.json"
    file = write(tmp_path, {"a": {"run": make("a"), "makes": [made]}})
    assert hcl.main(["pipeline", file]) == 0
    (tmp_path / "out/a/annotations/instances_val.json").unlink()
    capsys.readouterr()
    assert hcl.main(["pipeline", file]) == 0
    assert "instances_val.json is gone" in said(capsys)[0]
    assert runs(tmp_path) == {"a": 2}


def test_run__failure_stops_dependants_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = {
        "bad": {"run": ["data", "scenes", "${output}/x", "--images", "-1"]},
        "after": {"run": make("after"), "needs": ["bad"]},
        "last": {"run": make("last"), "needs": ["after"]},
        "other": {"run": make("other")},
    }
    assert hcl.main(["pipeline", write(tmp_path, steps)]) == 1
    lines = said(capsys)
    assert lines[1] == "bad: failed (exit 2)"
    assert lines[2] == "after: not run: needs bad, which failed"
    assert lines[3] == "last: not run: needs after, which was not run"
    assert {name: record["state"] for name, record in state(tmp_path).items()} == {
        "bad": "failed",
        "other": "finished",
    }
    steps["bad"]["run"] = make("x")
    assert hcl.main(["pipeline", write(tmp_path, steps)]) == 0
    lines = said(capsys)
    assert lines[0].startswith("bad: failed last time (exit 2)")
    assert lines[-1] == "other: finished before"


def test_run__only_and_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = {
        "a": {"run": make("a")},
        "b": {"run": make("b"), "needs": ["a"]},
        "c": {"run": make("c")},
    }
    file = write(tmp_path, steps)
    assert hcl.main(["pipeline", file, "--only", "b"]) == 2
    assert "'b' needs 'a', which has not finished" in capsys.readouterr().err
    assert hcl.main(["pipeline", file, "--only", "a"]) == 0
    assert hcl.main(["pipeline", file, "--only", "a"]) == 0
    assert runs(tmp_path) == {"a": 2}
    assert hcl.main(["pipeline", file]) == 0
    assert runs(tmp_path) == {"a": 2, "b": 3, "c": 4}
    assert hcl.main(["pipeline", file, "--from", "a"]) == 0
    assert runs(tmp_path) == {"a": 5, "b": 6, "c": 4}
    assert hcl.main(["pipeline", file, "--only", "bb"]) == 2
    assert "no step 'bb'" in capsys.readouterr().err


def test_run__odd_characters_arrive_as_data(tmp_path: Path) -> None:
    odd = "o d;d $(touch pwned) 'q\" * \\ #é%"
    assert (
        hcl.main(
            ["pipeline", write(tmp_path, {"a": {"run": make("${odd}")}}, odd="x"), f"odd={odd}"]
        )
        == 0
    )
    assert (tmp_path / "out" / odd / "train").is_dir()
    assert not list(Path.cwd().glob("pwned"))


def test_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = {"a": {"run": make("a")}, "b": {"run": make("b"), "needs": ["a"]}}
    file = write(tmp_path, steps)
    assert hcl.main(["pipeline", file, "--dry-run"]) == 0
    assert "a: would run: not run yet" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert hcl.main(["pipeline", file]) == 0
    steps["a"]["run"] = make("a", 3)
    capsys.readouterr()
    assert hcl.main(["pipeline", write(tmp_path, steps), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "a: would run: its command has changed: '2' is now '3'" in out
    assert "b  (needs a): would run: a is run again" in out
    assert runs(tmp_path) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dta", "scenes"], "step 'a': no command 'hcl dta'"),
        (["pipeline", "x"], "step 'a': no command 'hcl pipeline'"),
        (["pretrain", "quickstart", "optim.lrr=1"], "step 'a': "),
        (["pretrain", "quickstrat"], "did you mean 'quickstart'"),
        (["pretrain", "quickstart", "--nonsense"], "step 'a': wrong options"),
        (["data", "scenes", "x"], "step 'a': wrong options: hcl data scenes: error: the following"),
        (["data", "scens", "x"], "step 'a': unknown command 'scens'; did you mean 'scenes'?"),
        (["compare", "x", "--against", "hlc"], "step 'a': wrong options: hcl compare: error:"),
        (["retrieve", "r", "--ks", "0"], "must be a whole number from 1"),
        (["retrieve", "train", "hyp_vits_cb"], "did you mean 'hyp_vits_cub'"),
        (["retrieve", "train", "hyp_vits_cub", "los.weight=1"], "unknown key 'los'"),
        (["detect", "mask_rcnn", "--output", "o"], "step 'a': config 'mask_rcnn'"),
    ],
)
def test_run__refuses_at_once(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, {"first": {"run": make("first")}, "a": {"run": words}})
    assert hcl.main(["pipeline", file]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_run__refuses_wrong_keys_of_a_detector_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("detectron2")
    words = ["detect", "quickstart_r18_fpn", "--output", "o", "SOLVER.MAX_ITRE", "5"]
    assert hcl.main(["pipeline", write(tmp_path, {"a": {"run": words}})]) == 2
    assert "step 'a': override 'SOLVER.MAX_ITRE 5': unknown key" in capsys.readouterr().err


def test_run__refuses_wrong_requests_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though a pipeline that runs here makes no use of them."""
    file = write(tmp_path, {"a": {"run": make("a"), "cluster": {"gpu_per_node": "8"}}})
    assert hcl.main(["pipeline", file]) == 2
    message = "step 'a': unknown key 'cluster.gpu_per_node': did you mean 'gpus_per_node'?"
    assert message in capsys.readouterr().err


def test_run__refuses_foreign_and_damaged_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, {"a": {"run": make("a")}})
    journal = tmp_path / "out/pipeline.json"
    journal.parent.mkdir()
    for content, message in (
        ('{"version": 1, "name": "q", "steps": {}}', "is of pipeline 'q', not 'p'"),
        ('{"version": 9, "name": "p"}', "of version 9"),
        ('{"version": 1, "na', "damaged"),
        ('{"version": 1, "name": "p", "steps": {"a": {}}}', "damaged"),
    ):
        journal.write_text(content)
        assert hcl.main(["pipeline", file]) == 2
        assert message in capsys.readouterr().err


class Background:
    """A pipeline in a process of its own, whose step ``long`` is at work."""

    def __init__(self, tmp_path: Path, *, ready: Callable[[], bool]) -> None:
        self.file = str(tmp_path / "p.yaml")
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "hcl.py"), "pipeline", self.file],
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        wait_for(lambda: ready() or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()

    def children(self) -> list[int]:
        pid = self.process.pid
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in text.split()]


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and prctl")


@needs_proc
def test_run__killed_runner_takes_its_step_along_and_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = {
        "quick": {"run": make("quick")},
        "long": {"run": make("long", LONG), "needs": ["quick"]},
    }
    write(tmp_path, steps)

    def at_work() -> bool:
        try:
            return any((tmp_path / "out").glob("**/000000000020.jpg"))
        except FileNotFoundError:  # a folder got its final name meanwhile
            return False

    runner = Background(tmp_path, ready=at_work)
    (child,) = runner.children()
    # A second runner is refused while the first is at work, and does no harm.
    assert hcl.main(["pipeline", runner.file]) == 2
    assert "another `hcl pipeline` is running here" in capsys.readouterr().err
    assert alive(child)

    os.kill(runner.process.pid, signal.SIGKILL)
    runner.process.communicate()
    wait_for(lambda: not alive(child), 10)
    assert state(tmp_path)["long"]["state"] == "running"

    assert hcl.main(["pipeline", runner.file, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "quick: finished" in out
    assert "would run: was interrupted" in out
    steps["long"]["run"] = make("long")
    assert hcl.main(["pipeline", write(tmp_path, steps)]) == 0
    assert said(capsys)[1].startswith("long: was interrupted")
    assert runs(tmp_path) == {"quick": 1, "long": 3}


@needs_proc
def test_run__interrupted_command(tmp_path: Path) -> None:
    """A command that knows no 75 is ended by Ctrl-C; the pipeline can go on nevertheless."""
    write(tmp_path, {"long": {"run": make("long", LONG)}, "later": {"run": make("later")}})
    output = tmp_path / "out"
    runner = Background(tmp_path, ready=lambda: any(output.glob("**/000000000020.jpg")))
    (child,) = runner.children()
    runner.process.send_signal(signal.SIGINT)
    runner.process.communicate(timeout=60)
    assert runner.process.returncode == 75
    assert not alive(child)
    assert state(tmp_path)["long"]["state"] == "stopped"
    assert state(tmp_path)["long"]["exit"] not in (0, 75)
    assert "later" not in state(tmp_path)


@needs_proc
def test_run__stop_signal_is_passed_on(tmp_path: Path, scenes: Path) -> None:
    """Pretraining saves and exits with 75; so does the pipeline."""
    words = [
        "pretrain",
        "quickstart",
        "output=${output}/run",
        f"data.annotations={scenes / 'annotations/instances_train.json'}",
        f"data.images={scenes / 'train'}",
        "data.index=${output}/index",
        "data.workers=0",
        "views.size=32",
        "optim.batch_size=8",
        "method.norm_group=4",
        "method.queue=64",
        "hcl.queue=64",
        "train.epochs=null",
        "train.steps=100000",
        "train.log_every=1",
        "train.threads=1",
        "train.tensorboard=false",
    ]
    steps = {"long": {"run": words}, "later": {"run": make("later")}}
    write(tmp_path, steps)
    metrics = tmp_path / "out/run/metrics.jsonl"
    runner = Background(tmp_path, ready=lambda: metrics.is_file() and metrics.stat().st_size > 0)
    (child,) = runner.children()
    runner.process.send_signal(signal.SIGTERM)
    _, errors = runner.process.communicate(timeout=60)
    assert runner.process.returncode == 75
    assert "long: stopped; go on with the same command" in errors
    assert not alive(child)
    record = state(tmp_path)["long"]
    assert (record["state"], record["exit"]) == ("stopped", 75)
    assert list((tmp_path / "out/run/checkpoints").glob("*.pt"))
    assert "later" not in state(tmp_path)


def test_preset__orl_coco() -> None:
    pipeline = load_pipeline("orl_coco", ["coco=/data/coco", "output=o"])
    assert list(pipeline.steps)[:4] == ["stage1", "index", "proposals", "correspondence"]
    assert pipeline.steps["correspondence"].needs == ("stage1", "proposals")
    assert "data.pairs=o/correspondence/pairs" in pipeline.steps["stage3"].words
