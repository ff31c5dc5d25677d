"""Where a job stands: from its folder, its run's folder, and the queue where there is one."""

from __future__ import annotations

import json
import os
import re
import time
from calendar import timegm
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pretrain.core.files import read_json
from pretrain.core.run_files import CONFIG, METRICS, RECORD
from pretrain.core.text import duration
from slurm.job import Job, Spec
from slurm.job_queue import Entry

STALE_S = 120
ENDING_S = 30
UNBEGUN = "before it began"
AT_WORK = ("RUNNING", "COMPLETING", "CONFIGURING", "SIGNALING", "STAGE_OUT", "RESIZING", "STOPPED")
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "SUSPENDED")
MEMORY = re.compile(r"slurmstepd\S* error: (.*(?:exceeded memory limit|oom.kill).*)")
ENDED = ("finished", "failed", "out of memory", "cancelled", "stopped", "lost")


@dataclass(frozen=True)
class Status:
    """One job.

    Attributes:
        name: of the job.
        folder: of the job.
        id: Slurm's, or the process's.
        command: words.
        run: folder of the run.
        state: ``queued``, ``running``, ``stale`` (the queue says running and it is silent),
            ``finished``, ``failed``, ``out of memory``, ``cancelled``, ``stopped``, ``lost``.
        why: the reason of that state.
        step: and ``total``: of the run.
        images_per_s: of the run.
        eta_s: seconds left at that speed.
        loss: the last one.
        restarts: why each came.
        node: where it runs, or ran.
        gpu_hours: so far.
        error: the end of what a failed command said.
    """

    name: str
    folder: str
    id: str | None
    command: list[str]
    run: str | None
    state: str
    why: str
    step: int | None
    total: int | None
    images_per_s: float | None
    eta_s: float | None
    loss: float | None
    restarts: list[str]
    node: str | None
    gpu_hours: float
    error: str


def look(job: Job, queue: Mapping[str, Entry] | None) -> Status:
    """A job's status.

    Args:
        job: in question.
        queue: Slurm's; None where it does not answer.

    Raises:
        InputError: the job's record is damaged.
    """
    spec, events, name = job.spec(), job.events(), job.id
    entry = queue.get(name) if queue is not None and name else None
    state, why = _state(job, spec, events, entry, queue is not None)
    if (state, why) == ("cancelled", UNBEGUN):
        why = _whose_failure(spec, queue or {}) or why
    record = _run_record(spec.run, spec.submitted)
    failed = _failure(events) or {}
    starts = [event for event in events if event["kind"] == "start"]
    gpus = spec.cluster.nodes * spec.cluster.gpus_per_node
    return Status(
        name=spec.name,
        folder=str(job.folder),
        id=name,
        command=list(spec.words),
        run=spec.run,
        state=state,
        why=why,
        step=record.get("step"),
        total=record.get("total_steps"),
        images_per_s=record.get("images_per_s"),
        eta_s=_eta(spec.run, record) if state == "running" else None,
        loss=_last_loss(spec.run) if record else None,
        restarts=_restarts(events),
        node=(entry.nodes if entry and entry.nodes else None)
        or (starts[-1]["node"] if starts else None),
        gpu_hours=round(_seconds(events, job.last_pulse()) * gpus / 3600, 3),
        error=failed.get("text", "") if state in ("failed", "out of memory") else "",
    )


def _state(
    job: Job, spec: Spec, events: list[dict[str, Any]], entry: Entry | None, answered: bool
) -> tuple[str, str]:
    """The state and why: what the job has noted itself comes first."""
    notes = [event for event in events if event["kind"] != "signal"]
    last = notes[-1] if notes else {"kind": "none"}
    failed = _failure(events)
    if last["kind"] == "finished":
        return "finished", ""
    over = "Slurm's limit" if entry is not None and entry.state == "OUT_OF_MEMORY" else None
    if spec.cluster.kind == "slurm" and answered:
        over = over or _over_memory(job, entry)
    if failed is not None or over is not None:
        why = str(failed["why"]) if failed is not None else f"out of memory: {over}"
        return ("out of memory" if why.startswith("out of memory") else "failed"), why
    if spec.cluster.kind != "slurm":
        return _local(job, spec.submitted, last)
    if entry is not None:
        return _queued(job, spec, last, entry)
    if answered:
        return _unknown(last)
    return ("running" if last["kind"] == "start" else "queued"), "Slurm does not answer"


def _failure(events: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The first failure of the last start: others follow from it, or from being requeued."""
    found, requeued = None, False
    for event in events:
        if event["kind"] == "start":
            found, requeued = None, False
        elif event["kind"] == "requeue":
            requeued = True
        elif event["kind"] == "failed" and not requeued:
            found = found or event
        elif event["kind"] == "given up":
            found = event
    return found


def _queued(job: Job, spec: Spec, last: dict[str, Any], entry: Entry) -> tuple[str, str]:
    if entry.state in WAITING:
        return "queued", entry.reason
    if entry.state in AT_WORK:
        silent = time.time() - max(last.get("time", spec.submitted), job.last_pulse() or 0)
        if last["kind"] == "start" and silent > STALE_S:
            return "stale", f"no sign of life for {duration(silent)}"
        return "running", {"requeue": "requeueing", "stopped": "ending"}.get(last["kind"], "")
    if entry.state == "CANCELLED":
        return _unknown(last) if last["kind"] == "none" else ("cancelled", "")
    words = {"NODE_FAIL": "its node failed", "TIMEOUT": "time limit, before it had saved"}
    return "failed", words.get(entry.state, entry.state.lower().replace("_", " "))


def _over_memory(job: Job, entry: Entry | None) -> str | None:
    """Slurm's word, at the end of an ended job's logs, that this was for its memory."""
    if entry is not None and entry.state in (*AT_WORK, *WAITING):
        return None
    for log in job.logs():
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            match = MEMORY.search(file.read().decode("utf-8", "replace"))
        if match is not None:
            return match[1].strip()
    return None


def _unknown(last: dict[str, Any]) -> tuple[str, str]:
    """Of a job that Slurm has forgotten, or that was cancelled before it began."""
    if last["kind"] != "none":
        if last.get("state"):
            return "cancelled", ""
        return "lost", "Slurm no longer knows the job, and it has left no word"
    return "cancelled", UNBEGUN


def _whose_failure(spec: Spec, queue: Mapping[str, Entry]) -> str | None:
    """Why Slurm has cancelled a job that waited for others."""
    for folder in spec.needs:
        parent = look(Job(Path(folder)), queue)
        if parent.state in ENDED and parent.state != "finished":
            return f"{parent.name}, which it needs: {parent.state}"
    return None


def _local(job: Job, submitted: float, last: dict[str, Any]) -> tuple[str, str]:
    if last["kind"] == "stopped":
        return "stopped", str(last["why"])
    name = job.id
    # After a reboot its number may be a stranger's.
    silent = time.time() - (job.last_pulse() or submitted)
    if name is not None and silent < STALE_S and _is_alive(int(name)):
        return ("running" if last["kind"] == "start" else "queued"), "on this machine"
    if time.time() - (job.last_pulse() or 0) < ENDING_S:
        return "running", "ending"  # the shell of the set-up lines is gone before its tasks
    return "lost", "its process is gone, and it has left no word"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    stat = Path(f"/proc/{pid}/stat")  # one that has ended and was not waited for is dead
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def _restarts(events: list[dict[str, Any]]) -> list[str]:
    """Why each start but the first came."""
    found: list[str] = []
    own = why = ""  # the job's own request explains all that follows it
    for event in events:
        if event["kind"] == "signal" and event["name"] == "SIGTERM":
            why = "requeued from outside"
        elif event["kind"] == "requeue":
            own = own or str(event["why"])
        elif event["kind"] == "stopped" and event.get("state"):
            why = "preempted" if event.get("preempted") else "requeued from outside"
        elif event["kind"] == "stopped":
            why = str(event["why"])
        elif event["kind"] == "failed":
            why = "requeued from outside after it had failed"
        elif event["kind"] == "start":
            found.append(own or why or "node failure, or ended without warning")
            own = why = ""
    return found[1:]


def _seconds(events: list[dict[str, Any]], pulse: float | None) -> float:
    """How long the job has been running, over all of its starts."""
    total, begun = 0.0, None
    for event in events:
        if event["kind"] == "start":
            if begun is not None:  # the run before left no word; it was alive until then
                total += max(0.0, (event.get("before") or begun) - begun)
            begun = event["time"]
        elif begun is not None and event["kind"] in ("finished", "failed", "stopped", "requeue"):
            total += event["time"] - begun
            begun = None
    if begun is not None:
        total += max(0.0, (pulse or begun) - begun)
    return total


def _run_record(run: str | None, since: float) -> dict[str, Any]:
    """``run.json``, unless it is of an earlier run of that folder."""
    record: Any = read_json(Path(run or "") / RECORD)
    try:
        beat = timegm(time.strptime(record["heartbeat"], "%Y-%m-%dT%H:%M:%SZ"))
    except (ValueError, KeyError, TypeError):
        return {}
    return record if beat >= since - 60 else {}


def _eta(run: str | None, record: Mapping[str, Any]) -> float | None:
    rate = record.get("images_per_s")
    if not run or not rate:
        return None
    try:
        settings = yaml.safe_load((Path(run) / CONFIG).read_text("utf-8"))
        batch = settings["optim"]["batch_size"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None
    return float((record["total_steps"] - record["step"]) * batch / rate)


def _last_loss(run: str | None) -> float | None:
    """From the end of ``metrics.jsonl``; lines without a loss are passed over."""
    try:
        with (Path(run or "") / METRICS).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            return float(json.loads(line)["loss"])
        except (ValueError, KeyError, TypeError):
            continue
    return None
