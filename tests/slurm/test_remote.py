"""Jobs' bookkeeping against Slurm's commands as scripts, which say what a test wants."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import hcl
from downstream.retrieval.finetune import settings as finetuning
from pretrain.config import load_settings
from slurm.cluster import ClusterSettings, choose_cluster
from slurm.graph import load_pipeline
from slurm.job import Job
from slurm.remote import Submitter, withdraw
from slurm.state import Journal
from slurm.status import look
from slurm.submission import plan, prepare, request

SCENES = ["--images", "2", "--val", "1", "--size", "64", "--workers", "1"]
SBATCH = "echo x >>{calls}; echo Submitted batch job $(wc -l <{calls})"
Command = Callable[[str, str], None]


@pytest.fixture(autouse=True)
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Makes a command of a script, in a folder that goes before all others."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.delenv("HCL_CLUSTER", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()

    def make(name: str, script: str) -> None:
        file = tmp_path / "bin" / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    for name in ("srun", "sinfo", "squeue", "scancel"):
        make(name, "")
    make("sbatch", SBATCH.format(calls=tmp_path / "calls"))
    return make


def write(steps: dict[str, Any]) -> None:
    content = {"name": "p", "vars": {"output": "out"}, "steps": steps}
    Path("p.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def records() -> dict[str, Any]:
    steps: dict[str, Any] = json.loads(Path("out/pipeline.json").read_text())["steps"]
    return steps


def finish(job: Job) -> None:
    job.note("start", node="n1", world=1, before=None)
    job.note("finished", rank=0)


def local_job(pid: int) -> Job:
    job = Job.create(plan(["data", "scenes", "x", *SCENES], ClusterSettings(kind="local"), None))
    job.set_id(str(pid))
    return job


def test_files_that_jobs_at_work_rewrite_are_no_change(capsys: pytest.CaptureFixture[str]) -> None:
    Path("made").mkdir()
    for name in ("made/a.json", "given.json"):
        Path(name).write_text("before")
    files = ["--annotations", "made/a.json", "--images", "given.json", "--output", "o"]
    write(
        {
            "a": {"run": ["data", "scenes", "made", *SCENES], "makes": ["./made"]},
            "b": {"run": ["retrieve", "made", *files], "needs": ["a"]},
        }
    )
    assert hcl.main(["pipeline", "p.yaml", "--cluster", "cpu"]) == 0
    assert list(records()["b"]["files"]) == ["given.json"]
    Path("made/a.json").write_text("after")
    for name in ("a", "b"):
        finish(Job(Path(records()[name]["job"])))
    capsys.readouterr()
    assert hcl.main(["pipeline", "p.yaml", "--cluster", "cpu"]) == 0
    assert "job" not in capsys.readouterr().err
    Path("given.json").write_text("after")
    assert hcl.main(["pipeline", "p.yaml", "--cluster", "cpu"]) == 0
    assert "b: given.json has changed: job 3" in capsys.readouterr().err


def test_jobs_of_a_killed_submitter_are_found_beside_a_comment(command: Command) -> None:
    cluster, _ = choose_cluster("cpu", ["sbatch={comment: of the lab}"])
    spec = plan(["data", "scenes", "x", *SCENES], cluster, None)
    assert "--comment='JOB of the lab'" in request([spec])
    job = Job.create(spec)
    Path("out").mkdir()
    journal = Journal(Path("out"), "p")
    journal.begin("a", spec.words, {}, [], job=str(job.folder))
    queue = f"7|{job.folder.name} of the lab\\n8|of the lab\\n9|\\n"
    command("squeue", f"[ -e cancelled ] || printf '{queue}'")
    command("scancel", "echo $* >cancelled")
    withdraw(journal)
    assert Path("cancelled").read_text().split() == ["7"]
    assert journal.state.steps["a"].state == "failed"


def test_waiting_outlasts_the_controller(command: Command) -> None:
    write({"a": {"run": ["data", "scenes", "x", *SCENES]}})
    Path("out").mkdir()
    journal, told = Journal(Path("out"), "p"), list[str]()
    cluster, _ = choose_cluster("cpu")
    submitter = Submitter(load_pipeline("p.yaml", []), journal, cluster, {}, told.append)
    submitter.submit(submitter.due(["a"], []))
    finish(submitter.jobs["a"])
    command("squeue", 'echo >>asked; [ "$(wc -l <asked)" -gt 2 ] || { echo away >&2; exit 1; }')
    assert submitter.wait() == 0
    assert told == ["a: not run yet: job 1", "waiting all the same: squeue: away", "a: finished"]


def test_another_process_with_a_job_s_number_is_left_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        job = local_job(stranger.pid)
        job.note("start", node="n1", world=1, before=None)
        job.pulse()
        assert look(job, None).state == "running"
        os.utime(job.folder / "alive", (time.time() - 3600, time.time() - 3600))
        assert look(job, None).state == "lost"
        assert hcl.main(["cancel", "--all"]) == 0
        assert "lost already" in capsys.readouterr().out
        stranger.communicate(b"\n", timeout=60)
    assert stranger.returncode == 0


def test_canceled_is_said_only_of_what_is(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster, _ = choose_cluster("cpu")
    job = Job.create(plan(["data", "scenes", "x", *SCENES], cluster, "mine"))
    job.set_id("7")
    command("squeue", "echo '7|PENDING||Priority'")
    command("scancel", "echo away >&2; exit 1")
    assert hcl.main(["cancel", "7"]) == 2
    said = capsys.readouterr()
    assert "scancel: away" in said.err
    assert "cancelled" not in said.out
    command("scancel", "")
    assert hcl.main(["cancel", "7"]) == 0
    assert capsys.readouterr().out == "mine: cancelled (7)\n"


@pytest.mark.parametrize("more", [["--set", "nodes=2"], ["--wait"]])
def test_options_of_a_cluster_without_one(
    more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write({"a": {"run": ["data", "scenes", "x", *SCENES]}})
    assert hcl.main(["pipeline", "p.yaml", *more]) == 2
    assert f"{more[0]}: goes with --cluster NAME" in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "name", "base"),
    [
        (["pretrain"], "pretrain", "quickstart"),
        (["retrieve", "train"], "train", "hyp_vits_cub"),
        (["retrieve", "train"], "mine.yaml", "hyp_vits_cub"),
    ],
)
def test_configurations_of_trainings_are_kept(words: list[str], name: str, base: str) -> None:
    Path(name).write_text(f"base: {base}\noptim: {{lr: 0.02}}\n")
    cluster, _ = choose_cluster("cpu")
    kept = prepare([*words, name, "output=o"], cluster, None).spec().words
    Path(name).write_text("no: longer\n")
    assert kept[:-2] == tuple(words)
    load = load_settings if words == ["pretrain"] else finetuning.load_settings
    settings = load(kept[-2], [kept[-1]])
    assert (settings.optim.lr, settings.output) == (0.02, "o")
