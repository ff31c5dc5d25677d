"""A pipeline on a real Slurm: to its report, repaired, and submitted by those that are killed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import PROFILE, ROOT, run, words

import hcl
from slurm.job import Job, jobs_below

pytestmark = pytest.mark.usefixtures("cluster")
Until = Callable[..., Any]


def write(steps: dict[str, Any], **more: str) -> None:
    content = {"name": "p", "vars": {"output": "out", **more}, "steps": steps}
    Path("p.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def pipeline(*more: str) -> int:
    return hcl.main(["pipeline", "p.yaml", *PROFILE, *more])


def state() -> dict[str, Any]:
    steps: dict[str, Any] = json.loads(Path("out/pipeline.json").read_text())["steps"]
    return steps


def submitted(errors: str) -> list[str]:
    """Steps that a submission has told of."""
    lines = [line.removeprefix("hcl pipeline: ") for line in errors.splitlines()]
    return [line.split(": ")[0] for line in lines if ": job " in line]


def starts() -> Counter[str]:
    """How often each step's command has been started."""
    found: Counter[str] = Counter()
    for job in jobs_below(Path("runs/jobs")):
        found[job.spec().name] += sum(event["kind"] == "start" for event in job.events())
    return found


def changed(folder: str) -> dict[Path, int]:
    """When each file below was last changed, in ns."""
    return {file: file.stat().st_mtime_ns for file in Path(folder).rglob("*") if file.is_file()}


def test_sweep_to_its_report_with_a_branch_that_fails_and_is_repaired(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(scenes / "annotations/instances_train.json", "train0.json")  # and none for seed 1
    seeds = {"matrix": {"seed": ["${seeds}"]}}
    retrieve = [
        *("retrieve", "out/rows/s${seed}", "--name", "run-seed${seed}"),
        *("--annotations", str(scenes / "annotations/instances_val.json")),
        *("--images", str(scenes / "val"), "--output", "out/rows/s${seed}/retrieval"),
        *("--size", "32", "--max-per-category", "4", "--ks", "1"),
    ]
    pretrain = words(scenes, "out/rows/s${seed}", "seed=${seed}", "train.steps=2")
    own = ["data.annotations=train${seed}.json", "data.index=index${seed}"]
    compare = ["compare", "out/rows", "--output", "out/report", "--resamples", "0"]
    report = "out/report/report.html"
    write(
        {
            "pretrain": {"run": [*pretrain, *own], **seeds},
            "retrieve": {"run": retrieve, "needs": ["pretrain"], **seeds},
            "compare": {"run": compare, "needs": ["retrieve"], "makes": [report]},
        },
        seeds="0 1",
    )
    assert pipeline("--wait") == 1
    said = capsys.readouterr().err
    assert "pretrain[seed=1]: failed: exit 2" in said
    assert "retrieve[seed=1]: cancelled: pretrain[seed=1], which it needs: failed" in said
    assert "compare: cancelled: retrieve[seed=1], which it needs: cancelled" in said
    branch = ["pretrain[seed=1]", "retrieve[seed=1]", "compare"]
    assert {name: record["state"] for name, record in state().items()} == {
        "pretrain[seed=0]": "finished",
        "retrieve[seed=0]": "finished",
        **dict.fromkeys(branch, "failed"),
    }
    ids = [Job(Path(state()[f"pretrain[seed={seed}]"]["job"])).id or "" for seed in "01"]
    array = ids[0].split("_")[0]
    assert ids == [f"{array}_0", f"{array}_1"]
    seen = {one["name"]: one for one in json.loads(run("status", "--json").stdout)}
    assert "train1.json" in seen["pretrain[seed=1]"]["error"]
    assert (seen["compare"]["state"], seen["retrieve[seed=0]"]["state"]) == (
        "cancelled",
        "finished",
    )
    assert not Path(report).exists()
    before = changed("out/rows/s0")

    shutil.copy("train0.json", "train1.json")
    assert pipeline("--wait") == 0
    assert submitted(capsys.readouterr().err) == branch
    assert changed("out/rows/s0") == before
    assert starts() == Counter({name: 1 + (name == "pretrain[seed=1]") for name in state()})
    assert Path(report).stat().st_size > 1000
    table = Path("out/report/table.md").read_text()
    assert "±" in table  # of both seeds

    assert pipeline("--wait") == 0
    assert submitted(capsys.readouterr().err) == []
    assert pipeline("--from", "retrieve[seed=1]", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "retrieve[seed=0]  (needs pretrain[seed=0]): finished" in out
    assert "compare  (needs retrieve[seed=0], retrieve[seed=1]): would run" in out


def scene(out: str, images: str = "2") -> list[str]:
    """A command of half a second."""
    more = "--val 1 --size 64 --workers 1 --overwrite"
    return ["data", "scenes", f"out/{out}", "--images", images, *more.split()]


GRAPH: dict[str, Any] = {
    "first": {"run": scene("first"), "cluster": {"sbatch": "{hold: true}"}},
    "sweep": {
        "run": scene("s${k}", "${n}"),
        "matrix": {"k": ["1", "2", "3"]},
        "needs": ["first"],
        "cluster": {"time_min": "7"},
    },
    "last": {"run": scene("last"), "needs": ["sweep"]},
    "other": {"run": scene("other")},
}
STEPS = ["first", "sweep[k=1]", "sweep[k=2]", "sweep[k=3]", "last", "other"]


def release(step: str) -> None:
    job = Job(Path(state()[step]["job"])).id
    assert job
    subprocess.run(["scontrol", "release", job], check=True)


def test_submitted_twice_at_once_and_with_another_setting(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(GRAPH, n="2")
    command = [sys.executable, str(ROOT / "hcl.py"), "pipeline", "p.yaml", *PROFILE]
    two = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = []
    for one in two:
        errors = one.communicate(timeout=120)[1]
        assert one.returncode == 0 or "another `hcl pipeline` is running here" in errors
        told += submitted(errors)
    assert sorted(told) == sorted(STEPS)

    # What waits in the queue is not what would be submitted now.
    assert pipeline("n=3") == 2
    assert "step 'sweep[k=1]' is at work as job" in capsys.readouterr().err
    assert hcl.main(["pipeline", "p.yaml"]) == 2  # nor can it be run here beside them
    assert "is at work as job" in capsys.readouterr().err
    release("first")
    assert pipeline("--wait") == 0
    assert starts() == Counter(dict.fromkeys(STEPS, 1))

    capsys.readouterr()
    assert pipeline("n=3", "--wait") == 0
    again = STEPS[1:5]
    assert submitted(capsys.readouterr().err) == again
    assert starts() == Counter({name: 1 + (name in again) for name in STEPS})


SBATCH = """#!/bin/sh
# The second submission's submitter is killed, {when} Slurm has the job.
echo >> {calls}
if [ "$(wc -l < {calls})" = 2 ]; then
    [ {when} = after ] && {sbatch} "$@"
    kill -9 $PPID
    exit 1
fi
exec {sbatch} "$@"
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_submitter(
    when: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command again submits the rest, and nothing twice."""
    write(GRAPH, n="2")
    fake, calls = tmp_path / "bin/sbatch", tmp_path / "calls"
    fake.parent.mkdir()
    fake.write_text(SBATCH.format(when=when, calls=calls, sbatch=shutil.which("sbatch")))
    fake.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(fake.parent), prepend=":")
        done = run("pipeline", "p.yaml", *PROFILE)
    assert done.returncode == -9
    assert submitted(done.stderr) == ["first"]
    queued = ["squeue", "--me", "-h", "-r", "-o", "%i"]
    ids = subprocess.run(queued, capture_output=True, text=True, check=True).stdout.split()
    assert len(ids) == (4 if when == "after" else 1)

    capsys.readouterr()
    assert pipeline() == 0
    said = capsys.readouterr().err
    assert submitted(said) == STEPS[1:]
    assert "first: at work already as job" in said
    assert "sweep[k=1]: failed last time (its submission was interrupted)" in said
    release("first")
    assert pipeline("--wait") == 0
    assert starts() == Counter(dict.fromkeys(STEPS, 1))
    orphans = {name for name in ids if "_" in name}
    assert orphans.isdisjoint({Job(Path(record["job"])).id for record in state().values()})
