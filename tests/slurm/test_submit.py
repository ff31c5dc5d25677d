"""``hcl submit`` where there is no Slurm, and what profiles refuse."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import run, status, submit

import hcl
from pretrain.config import load_settings
from pretrain.core.errors import InputError
from slurm.cluster import choose_cluster
from slurm.job import Job, plain
from slurm.job_queue import Entry
from slurm.status import look
from slurm.submission import plan, prepare
from slurm.task import STOPPED, Task, port

Until = Callable[..., Any]
SMALL = ["--images", "2", "--val", "1", "--size", "64", "--workers", "1"]


@pytest.fixture(autouse=True)
def _without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("HCL_CLUSTER", raising=False)
    monkeypatch.chdir(tmp_path)


def test_without_slurm_it_runs_here_and_says_so(
    until: Until, capsys: pytest.CaptureFixture[str]
) -> None:
    job = submit("data", "scenes", "a b", *SMALL)
    assert "there is no sbatch on this machine" in capsys.readouterr().err
    found = until(lambda: _ended(job), 60)
    assert found["state"] == "finished", found
    assert Path("a b/train").is_dir()
    assert "2 training" in run("logs", job.folder.name).stdout


def _ended(job: Job) -> dict[str, Any] | None:
    found = status(job)
    return None if found["state"] in ("queued", "running") else found


@pytest.mark.parametrize("setup", ["[]", "[export A=1]"])
def test_cancel_without_slurm(until: Until, setup: str) -> None:
    long = ["data", "scenes", "x", "--images", "200000", "--workers", "1"]
    job = submit("--set", f"setup={setup}", *long)
    until(lambda: any(Path().glob("**/*.jpg")), 60)
    assert status(job)["state"] == "running"
    assert hcl.main(["cancel", str(job.id)]) == 0
    assert until(lambda: _ended(job), 20)["state"] == "stopped"
    assert hcl.main(["cancel", "--all"]) == 0


def test_debug_runs_in_the_foreground() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)]
    assert hcl.main(["submit", "--cluster", "debug", "data", "scenes", "x", *SMALL]) == 0
    assert hcl.main(["submit", "--cluster", "debug", "data", "scenes", "y", "--images", "-1"]) == 2
    assert Path("x/train").is_dir()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)] == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cluster", "prempt", "data"], "did you mean 'preemptible_gpu'"),
        (["--cluster", "cpu", "--set", "node=2", "data"], "did you mean 'nodes'"),
        (["--cluster", "cpu", "--set", "nodes=0", "data"], "'nodes'"),
        (["--cluster", "cpu", "--set", 'partition="a\\nb"', "data"], "one line"),
        (["--cluster", "cpu", "data", "scenes", "x", *SMALL], "there is no Slurm here"),
        (["--cluster", "local", "data", "scenes", "x"], "arguments are required: --images"),
        (["--cluster", "local", "status"], "no command 'hcl status' for a job"),
        (["--cluster", "local"], "no command 'hcl ' for a job"),
        (["--cluster", "local", "pretrain", "quickstrat"], "did you mean 'quickstart'"),
        (
            ["--cluster", "local", "--set", "nodes=2", "data", "scenes", "x", *SMALL],
            "nodes: this machine",
        ),
    ],
)
def test_refused_at_once(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hcl.main(["submit", *words]) == 2
    assert message in capsys.readouterr().err


def test_request_can_be_seen_without_slurm(capsys: pytest.CaptureFixture[str]) -> None:
    assert hcl.main(["submit", "--cluster", "cpu", "--dry-run", "data", "scenes", "x", *SMALL]) == 0
    assert "#SBATCH --time=240" in capsys.readouterr().out
    assert not Path("runs").exists()


def test_profile_has_to_be_chosen_where_there_is_slurm(tmp_path: Path) -> None:
    sbatch = tmp_path / "bin/sbatch"
    sbatch.write_text("#!/bin/sh\n")
    sbatch.chmod(0o755)
    with pytest.raises(InputError, match="choose one of cpu, preemptible_gpu, whole_node, local"):
        choose_cluster(None)


@pytest.mark.parametrize("name", ["preemptible_gpu", "whole_node", "cpu"])
def test_examples_are_profiles(name: str) -> None:
    cluster, why = choose_cluster(name, ["account=lab", "sbatch={mem: 0, reservation: r}"])
    assert (cluster.account, cluster.sbatch["reservation"], why) == ("lab", "r", "")
    assert cluster.tasks == max(1, cluster.gpus_per_node)


def test_states_without_a_cluster() -> None:
    """What status makes of a job's notes and of Slurm's words."""
    cluster, _ = choose_cluster("cpu", ["gpus_per_node=2"])
    job = Job.create(plan(["data", "scenes", "x", *SMALL], cluster, None))
    job.set_id("7")

    def state(*entry: str) -> tuple[str, str]:
        found = look(job, {"7": Entry(*entry)} if entry else {})
        return found.state, found.why

    assert state("PENDING", "", "Priority") == ("queued", "Priority")
    assert state("CANCELLED", "", "") == ("cancelled", "before it began")
    assert look(job, None).why == "Slurm does not answer"
    job.note("start", node="n1", world=1, before=None)
    job.pulse()
    for live in ("RUNNING", "SIGNALING", "STAGE_OUT", "RESIZING", "STOPPED"):
        assert state(live, "n1", "") == ("running", "")
    for waits in ("SPECIAL_EXIT", "REQUEUE_FED"):
        assert state(waits, "", "held") == ("queued", "held")
    assert state("TIMEOUT", "", "") == ("failed", "time limit, before it had saved")
    assert state("OUT_OF_MEMORY", "", "")[0] == "out of memory"
    assert state()[0] == "lost"
    lines = (job.folder / "events.jsonl").read_text()
    event = json.loads(lines)
    event["time"] -= 3600
    (job.folder / "events.jsonl").write_text(json.dumps(event) + '\n{"cut')
    os.utime(job.folder / "alive", (time.time() - 1800, time.time() - 1800))
    assert state("RUNNING", "n1", "") == ("stale", "no sign of life for 30 min 00 s")
    assert look(job, {}).gpu_hours == pytest.approx(1.0, abs=0.01)


def test_first_cause_of_a_restart_is_the_one_told() -> None:
    """Requests, their echoes, and what fails because of them."""
    cluster, _ = choose_cluster("cpu")
    job = Job.create(plan(["data", "scenes", "x", *SMALL], cluster, None))
    job.set_id("7")
    runs: list[list[tuple[str, dict[str, Any]]]] = [
        [("signal", {"name": "SIGUSR2"}), ("requeue", {"why": "time limit"})],
        [("requeue", {"why": "lost a process of another node"}), ("failed", {"why": "exit 1"})],
        [("signal", {"name": "SIGTERM"}), ("stopped", {"why": "", "state": "COMPLETING"})],
        [("stopped", {"why": "", "state": "PENDING", "preempted": True})],
        [("signal", {"name": "SIGTERM"})],
        [],
    ]
    for notes in runs:
        job.note("start", node="n1", world=1, before=None)
        for kind, more in notes:
            job.note(kind, **more)
        assert look(job, {"7": Entry("PENDING", "", "BeginTime")}).state == "queued"
    job.note("start", node="n1", world=1, before=None)
    assert look(job, {}).restarts == [
        "time limit",
        "lost a process of another node",
        "requeued from outside",
        "preempted",
        "requeued from outside",
        "node failure, or ended without warning",
    ]


SCONTROL = """#!/bin/sh
case "$1" in
show) echo "JobId=7 JobState=RUNNING EndTime=Unknown" ;;
requeue) echo "$2" >>requeued; echo "{refused}" >&2; exit {status} ;;
esac
"""


@pytest.mark.parametrize(
    ("failed", "refused", "asked", "state", "why"),
    [
        (False, "", True, "running", "requeueing"),
        (
            False,
            "disabled",
            True,
            "failed",
            "cannot be requeued: scontrol: disabled",
        ),
        (True, "", False, "failed", "exit 3"),
    ],
)
def test_told_to_stop(
    failed: bool,
    refused: str,
    asked: bool,
    state: str,
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first of two tasks, told to stop: whether it asks to be requeued, and what is said."""
    scontrol = tmp_path / "bin/scontrol"
    scontrol.write_text(SCONTROL.format(refused=refused, status=int(bool(refused))))
    scontrol.chmod(0o755)
    place = {"JOB_ID": "7", "NTASKS": "2", "PROCID": "0", "LOCALID": "0", "JOB_NUM_NODES": "1"}
    for key, value in (place | {"NODEID": "0", "JOB_NODELIST": "n1"}).items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    cluster, _ = choose_cluster("cpu", ["tasks_per_node=2"])
    long = ["data", "scenes", "x", "--images", "200000", "--workers", "1"]
    job = prepare(long, cluster, None)
    job.set_id("7")

    def tell() -> None:
        while not job.events():
            time.sleep(0.05)
        if failed:
            job.note("failed", rank=1, why="exit 3", status=3, text="")
        os.kill(os.getpid(), signal.SIGTERM)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    assert Task(job.folder).run() == STOPPED
    teller.join()
    assert Path("requeued").exists() == asked
    found = look(job, {"7": Entry("RUNNING", "n1", "")})
    assert (found.state, found.why) == (state, why)


@pytest.mark.parametrize(
    "line",
    [
        "slurmstepd-n1: error: StepId=7.0 exceeded memory limit (420 > 314), being killed",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks "
        "have been OOM Killed.",
    ],
)
def test_memory_in_the_words_of_slurm(line: str) -> None:
    cluster, _ = choose_cluster("cpu")
    job = Job.create(plan(["data", "scenes", "x", *SMALL], cluster, None))
    job.set_id("7")
    job.note("start", node="n1", world=1, before=None)
    (job.folder / "log/7_0_log.out").write_text(
        f"step 3\n{line}\nsrun: error: n1: task 0: Killed\n"
    )
    for queue in ({"7": Entry("FAILED", "n1", "NonZeroExitCode")}, {}):
        found = look(job, queue)
        assert (found.state, found.why) == (
            "out of memory",
            f"out of memory: {line.partition('error: ')[2]}",
        )
    assert look(job, {"7": Entry("RUNNING", "n1", "None")}).state == "running"


def test_small_parts() -> None:
    assert plain("a b;$(x)\n/é") == "a_b_x"
    assert plain("...") == "job"
    owners: dict[int, int] = {}
    for job in range(123456, 123456 + 1400):
        for restarts in range(51):
            assert owners.setdefault(port(job, restarts), job) == job
    assert len({port(7, restarts) for restarts in range(7)}) == 7
    assert all(10000 <= port(job, 0) < 20000 for job in range(0, 10**7, 9973))


def test_configuration_is_kept_as_it_was() -> None:
    mine = Path("mine.yaml")
    mine.write_text("base: quickstart\noptim: {lr: 0.02}\n")
    cluster, _ = choose_cluster("cpu")
    job = prepare(["pretrain", "mine.yaml", "output=o"], cluster, None)
    mine.write_text("no: longer\n")
    spec = job.spec()
    assert (spec.words[0], spec.words[2]) == ("pretrain", "output=o")
    assert spec.run == str(Path("o").absolute())
    assert load_settings(spec.words[1]).optim.lr == 0.02
