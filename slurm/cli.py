"""``hcl pipeline``: several commands, in order, each once."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from pretrain.core.command import Command
from pretrain.core.errors import InputError
from pretrain.core.locks import alone_in

if TYPE_CHECKING:
    from slurm.graph import Pipeline, Step
    from slurm.job import Job
    from slurm.state import Journal

SHOWN = 3
BUSY = "another `hcl pipeline` is running here"


def _run(arguments: argparse.Namespace) -> int:
    """Run a pipeline; 0 finished, 1 a step failed, 75 stopped by a signal, 2 the user's mistake."""
    if arguments.cluster is None and (arguments.profile or arguments.wait):
        raise InputError(f"{'--set' if arguments.profile else '--wait'}: goes with --cluster NAME")
    from slurm.cluster import choose_cluster
    from slurm.due_steps import check_commands
    from slurm.graph import load_pipeline
    from slurm.local import Runner
    from slurm.remote import Submitter, reconcile, withdraw
    from slurm.state import Journal

    pipeline = load_pipeline(arguments.pipeline, arguments.overrides)
    check_commands(pipeline)
    forced: set[str] = set()
    among = set(pipeline.steps)
    if arguments.only is not None:
        among = forced = set(pipeline.chosen(arguments.only))
    elif arguments.from_step is not None:
        forced = pipeline.with_dependants(pipeline.chosen(arguments.from_step))
    cluster = None
    if arguments.cluster is not None:
        cluster, _ = choose_cluster(arguments.cluster, arguments.profile)
    if cluster is None or cluster.kind != "slurm":
        if arguments.dry_run:
            journal = Journal(pipeline.output, pipeline.name)
            _check_needs(pipeline, journal, among)
            print(_preview(pipeline, journal, among, forced), end="")
            return 0
        with alone_in(pipeline.output, BUSY):
            journal = Journal(pipeline.output, pipeline.name)
            withdraw(journal)
            for name, job in reconcile(journal).items():
                raise InputError(f"step '{name}' is at work as job {job.id}; wait, or cancel it")
            _check_needs(pipeline, journal, among)
            return Runner(pipeline, journal, _say).run(among, forced)
    with nullcontext() if arguments.dry_run else alone_in(pipeline.output, BUSY):
        journal = Journal(pipeline.output, pipeline.name, keep=not arguments.dry_run)
        if not arguments.dry_run:
            withdraw(journal)
        submitter = Submitter(pipeline, journal, cluster, reconcile(journal), _say)
        _check_at_work(pipeline, journal, submitter.jobs)
        _check_needs(pipeline, journal, {*among} - set(submitter.jobs), set(submitter.jobs))
        batches = submitter.due(among, forced)
        if arguments.dry_run:
            print(_preview(pipeline, journal, among, forced), submitter.requests(batches), sep="\n")
            return 0
        submitter.submit(batches)
        return submitter.wait() if arguments.wait else 0


def _say(line: str) -> None:
    print(f"hcl pipeline: {line}", file=sys.stderr, flush=True)


def _check_needs(
    pipeline: Pipeline, journal: Journal, among: set[str], flying: Collection[str] = ()
) -> None:
    """What is left out must have finished.

    Raises:
        InputError: it has not.
    """
    for name in among:
        for need in pipeline.steps[name].needs:
            record = journal.state.steps.get(need)
            finished = record is not None and record.state == "finished"
            if not (need in among or need in flying or finished):
                raise InputError(f"--only: '{name}' needs '{need}', which has not finished; run it")


def _check_at_work(pipeline: Pipeline, journal: Journal, jobs: Mapping[str, Job]) -> None:
    """What is at work is what the file says now: else its results would not be wanted.

    Raises:
        InputError: it is not.
    """
    for name, job in jobs.items():
        step = pipeline.steps.get(name)
        if step is not None and step.words != journal.state.steps[name].words:
            raise InputError(
                f"step '{name}' is at work as job {job.id} with other words than now; "
                f"wait for it, or `hcl cancel {job.id}`, then try again"
            )


def _preview(pipeline: Pipeline, journal: Journal, among: set[str], forced: set[str]) -> str:
    """The graph, and what would be run and why."""
    from slurm.due_steps import reason

    lines = [f"{pipeline.name}: {len(pipeline.steps)} steps, in {pipeline.output}"]
    lines += [*_graph(pipeline), ""]
    pending: set[str] = set()
    for step in pipeline.steps.values():
        why = reason(step, journal.state.steps, forced, pending) if step.name in among else None
        record = journal.state.steps.get(step.name)
        if step.name not in among:
            verdict = "left out"
        elif record is not None and record.state == "submitted":
            verdict = "submitted"
            pending.add(step.name)
        elif why is None:
            verdict = "finished"
        else:
            verdict = f"would run: {why}"
            pending.add(step.name)
        needs = f"  (needs {_few(step.needs, pipeline)})" if step.needs else ""
        lines.append(f"  {step.name}{needs}: {verdict}")
        lines.append(f"      hcl {shlex.join(step.words)}")
    return "\n".join(lines) + "\n"


def _few(names: Sequence[str], pipeline: Pipeline) -> str:
    """Names of steps; where one family has many of them, how many."""
    counts = Counter(pipeline.steps[name].family for name in names)
    groups = {
        name if counts[family] <= SHOWN else f"{family} x {counts[family]}": None
        for name in names
        for family in [pipeline.steps[name].family]
    }
    return ", ".join(groups)


def _graph(pipeline: Pipeline) -> list[str]:
    """A line for each step of the file: how often it is there, and what it comes after."""
    families: dict[str, list[Step]] = {}
    for step in pipeline.steps.values():
        families.setdefault(step.family, []).append(step)
    lines = []
    for family, steps in families.items():
        needs = dict.fromkeys(pipeline.steps[n].family for step in steps for n in step.needs)
        times = f" x {len(steps)}" if len(steps) > 1 or steps[0].name != family else ""
        lines.append(f"  {family}{times}{'  <- ' if needs else ''}{', '.join(needs)}")
    return lines


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    from slurm.cluster import add_cluster

    parser.add_argument("pipeline", metavar="FILE", help="a YAML file, or a preset's name")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="other values for the file's variables"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be run and why")
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--only", metavar="STEP", help="this step alone, even if it has finished")
    some.add_argument(
        "--from",
        dest="from_step",
        metavar="STEP",
        help="this step again, and what needs it; and all that is due before",
    )
    there = parser.add_argument_group("on a cluster")
    add_cluster(there, "submit the steps as jobs: profile or file")
    there.add_argument("--wait", action="store_true", help="until all jobs have ended")


COMMAND = Command(
    "pipeline",
    "Run the steps of a file in order on this machine, or submit them as "
    "jobs. Run again to continue: what has finished and has not changed is left alone. The "
    "state is in OUTPUT/pipeline.json.",
    _add_arguments,
    _run,
    for_jobs=False,
)
