"""``hcl submit``: a command as a job."""

from __future__ import annotations

import argparse
import shlex
import sys

from pretrain.core.command import Command


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    from slurm.cluster import add_cluster

    add_cluster(
        parser, "profile or file, local or debug (default: $HCL_CLUSTER, local without Slurm)"
    )
    parser.add_argument("--name", help="of the job (default: after the command and its run)")
    parser.add_argument("--dry-run", action="store_true", help="print the request and stop")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND ...")


def _run(arguments: argparse.Namespace) -> int:
    """Run ``hcl submit``: 0 submitted; with ``--cluster debug`` the command's own status."""
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    from slurm.cluster import choose_cluster
    from slurm.job_queue import check_reachable
    from slurm.submission import plan, prepare, request, submit

    cluster, why = choose_cluster(arguments.cluster, arguments.profile)
    if why:
        print(f"hcl submit: {why}", file=sys.stderr)
    if arguments.dry_run:
        spec = plan(words, cluster, arguments.name)
        print(f"# hcl {shlex.join(spec.words)}\n{request([spec])}", end="")
        return 0
    if cluster.kind == "slurm":
        check_reachable()
    job = prepare(words, cluster, arguments.name)
    if cluster.kind == "debug":
        from slurm.task import Task

        return Task(job.folder).run()
    submit([job])
    where = "job" if cluster.kind == "slurm" else "process"
    print(f"{where} {job.id}: {job.spec().name}\nfolder {job.folder}")
    print(f"hcl status --folder {cluster.folder} / hcl logs {job.id} -f / hcl cancel {job.id}")
    return 0


COMMAND = Command(
    "submit",
    "Run any other command as a job. Its words arrive as they are, and it runs "
    "the code of this moment. hcl status, hcl logs and hcl cancel take it from there.",
    _add_arguments,
    _run,
    for_jobs=False,
)
