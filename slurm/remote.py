"""Steps of a pipeline as jobs of a cluster: submitted at once, each after what it needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.core.config import override
from pretrain.core.errors import InputError
from pretrain.core.settings import parse
from slurm.cluster import ClusterSettings
from slurm.due_steps import files_of, reason
from slurm.graph import Pipeline, Step
from slurm.job import Job
from slurm.job_queue import ask, cancel, check_reachable, queue
from slurm.state import Journal
from slurm.status import ENDED, look
from slurm.submission import plan, prepare, request, submit


@dataclass(frozen=True)
class Batch:
    """Steps that become one request: a job, or an array where they differ in a matrix only.

    Attributes:
        steps: with the reason why each is due.
        needs: steps whose jobs they wait for.
    """

    steps: list[tuple[Step, str]]
    needs: tuple[str, ...]


def withdraw(journal: Journal, patience: float = 60.0) -> None:
    """Take back what was being submitted when its submitter was killed.

    Slurm may have such jobs, but nobody has noted their ids, and they would be submitted again.

    Args:
        journal: where steps are noted before they are submitted.
        patience: seconds to wait for those that have begun already.

    Raises:
        InputError: there are some, and Slurm does not answer or they do not end.
    """
    jobs = journal.submitted()
    lost = [name for name, job in jobs.items() if job.id is None]
    if not lost:
        return
    known, folders = {job.id for job in jobs.values()}, {job.folder.name for job in jobs.values()}
    until = time.monotonic() + patience
    while True:
        lines = ask("squeue", "--me", "-h", "-r", "-o", "%i|%k").splitlines()
        queued = {name: said for name, _, said in (line.strip().partition("|") for line in lines)}
        orphans = [
            name
            for name, said in queued.items()
            if name not in known and folders.intersection(said.split()[:1])  # theirs comes after
        ]
        if not orphans:
            break
        if time.monotonic() > until:
            raise InputError(f"jobs {', '.join(orphans)} do not end; cancel them and try again")
        cancel(orphans)
        time.sleep(1)
    for name in lost:
        journal.end(name, "failed", 1, 0.0, "its submission was interrupted")


def reconcile(journal: Journal) -> dict[str, Job]:
    """Take over how submitted steps have ended; returns the jobs of those that have not.

    Raises:
        InputError: there are some, and Slurm does not answer.
    """
    waiting = journal.submitted()
    if not waiting:
        return {}
    entries = queue()
    flying = {}
    for name, job in waiting.items():
        status = look(job, entries)
        if status.state not in ENDED:
            flying[name] = job
            continue
        events = job.events()
        exit = next((e["status"] for e in reversed(events) if "status" in e), 1)
        ended = status.state == "finished"
        seconds = events[-1]["time"] - events[0]["time"] if events else 0.0
        journal.end(
            name,
            "finished" if ended else "failed",
            0 if ended else exit,
            seconds,
            None if ended else f"{status.state}{': ' if status.why else ''}{status.why}",
        )
    return flying


class Submitter:
    """Submits what is due of a pipeline.

    Args:
        pipeline: of steps.
        journal: its state, reconciled.
        cluster: the profile; a step's own values go before.
        flying: jobs at work, by step.
        say: where lines about the steps go.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        journal: Journal,
        cluster: ClusterSettings,
        flying: dict[str, Job],
        say: Callable[[str], None],
    ) -> None:
        self.pipeline, self.journal, self.cluster = pipeline, journal, cluster
        self.jobs, self._say = dict(flying), say

    def due(self, among: Collection[str], forced: Collection[str]) -> list[Batch]:
        """What is to be submitted, in an order that can be."""
        batches: list[Batch] = []
        pending = set(self.jobs)
        for step in self.pipeline.steps.values():
            if step.name not in among or step.name in self.jobs:
                continue
            why = reason(step, self.journal.state.steps, forced, pending)
            if why is None:
                continue
            pending.add(step.name)
            needs = tuple(need for need in step.needs if need in pending)
            last = batches[-1] if batches else None
            first = last.steps[0][0] if last else step
            alike = (first.family, first.cluster) == (step.family, step.cluster)
            if last and alike and last.needs == needs:
                last.steps.append((step, why))
            else:
                batches.append(Batch([(step, why)], needs))
        return batches

    def requests(self, batches: Sequence[Batch]) -> str:
        """The scripts that sbatch would be given; ``<step>`` stands for a job's id."""
        text = []
        for batch in batches:
            cluster = self._profile(batch.steps[0][0])
            specs = [plan(step.words, cluster, step.name) for step, _ in batch.steps]
            names = [step.name for step, _ in batch.steps]
            if len(names) > 1:
                names = [f"{index}: {name}" for index, name in enumerate(names)]  # of the array
            after = [self._id(need) for need in batch.needs]
            text.append("".join(f"# {name}\n" for name in names) + request(specs, after))
        return "\n".join(text)

    def submit(self, batches: Sequence[Batch]) -> None:
        """Submit them all.

        Raises:
            InputError: Slurm refuses; what was submitted before stays, and is left alone later.
        """
        check_reachable()
        for name, job in self.jobs.items():
            self._say(f"{name}: at work already as job {job.id}")
        for batch in batches:
            needs = [self.jobs[need] for need in batch.needs]
            cluster = self._profile(batch.steps[0][0])
            jobs = [prepare(step.words, cluster, step.name, needs) for step, _ in batch.steps]
            for (step, _), job in zip(batch.steps, jobs, strict=True):
                # Before it is submitted: `withdraw` finds what a killed submitter leaves behind.
                self.jobs[step.name] = job
                files = self._files(step)
                folder = str(job.folder)
                self.journal.begin(step.name, step.words, files, list(step.needs), job=folder)
            try:
                submit(jobs, [self._id(need) for need in batch.needs])
            except InputError:
                for step, _ in batch.steps:
                    self.journal.end(step.name, "failed", 1, 0.0, "not submitted")
                raise
            for (step, why), job in zip(batch.steps, jobs, strict=True):
                self._say(f"{step.name}: {why}: job {job.id}")

    def wait(self) -> int:
        """Until all jobs have ended; 0, or 1 where one has not finished."""
        flying, start, silent = set(self.jobs), time.monotonic(), False
        while flying:
            try:
                now, silent = set(reconcile(self.journal)), False
            except InputError as error:  # a controller that is restarted comes back
                if not silent:
                    self._say(f"waiting all the same: {error}")
                now, silent = flying, True
            for name in [name for name in self.jobs if name in flying - now]:
                record = self.journal.state.steps[name]
                self._say(f"{name}: {record.why or record.state}")
            flying = now
            if flying:
                time.sleep(min(30, 1 + (time.monotonic() - start) / 20))
        states = [self.journal.state.steps[name].state for name in self.jobs]
        return 0 if all(state == "finished" for state in states) else 1

    def _files(self, step: Step) -> dict[str, str]:
        """Hashes of what its words name, but not of what jobs at work will write anew."""
        steps = [self.pipeline.steps[name] for name in self.jobs if name in self.pipeline.steps]
        made = {Path(path).absolute() for one in steps for path in one.makes}
        return {
            name: content
            for name, content in files_of(step).items()
            if made.isdisjoint([Path(name).absolute(), *Path(name).absolute().parents])
        }

    def _id(self, step: str) -> str:
        job = self.jobs.get(step)
        return f"<{step}>" if job is None or job.id is None else job.id

    def _profile(self, step: Step) -> ClusterSettings:
        own = override({}, (f"{key}={value}" for key, value in step.cluster))
        if own.get("kind", "slurm") != "slurm":
            raise InputError(f"step '{step.name}': cluster.kind: all steps run on one cluster")
        values = {**self.cluster.model_dump(), **own}
        return parse(ClusterSettings, values, source=f"step '{step.name}'", at="cluster")
