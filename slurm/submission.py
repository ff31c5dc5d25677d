"""Commands to jobs, through submitit."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

import pretrain
from pretrain.core.errors import InputError
from pretrain.core.files import new_folder, write_text
from slurm.cluster import ClusterSettings
from slurm.commands import check_command, read_words
from slurm.job import LOGS, Job, Spec, plain
from slurm.job_queue import outside_of_jobs
from slurm.task import Task

CODE = "code"
CODE_PARTS = ("hcl.py", "setup.py", "hcl_configs", "configs", "pretrain", "downstream", "slurm")
CODE_KINDS = {".py", ".yaml", ".j2"}


def prepare(
    words: Sequence[str], cluster: ClusterSettings, name: str | None, needs: Sequence[Job] = ()
) -> Job:
    """A job's folder with its command and code; it is not submitted yet.

    Raises:
        InputError: the command is unknown, or its settings are at fault.
    """
    spec = plan(words, cluster, name, needs)
    kept = Path(cluster.folder).absolute() / CODE
    changes = {"code": str(snapshot(kept)), "words": _keep_config(spec.words, kept)}
    return Job.create(spec.model_copy(update=changes))


def snapshot(folder: Path) -> Path:
    """Copy this program's source below ``folder``, so that a queued job runs what was submitted.

    Returns where. Copies are named for their content: submissions of the same code share one.
    """
    from pretrain.environment import versions  # which loads torch

    root = Path(pretrain.__file__).resolve().parent.parent
    files: dict[str, bytes] = {}
    for part in CODE_PARTS:
        top = root / part
        found = [top] if top.is_file() else sorted(top.rglob("*"))
        for file in found:
            if file.suffix in CODE_KINDS and file.is_file():
                files[str(file.relative_to(root))] = file.read_bytes()
    commit = versions()["commit"]
    files["COMMIT"] = f"{commit}\n".encode() if commit else b""
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    target = folder / digest.hexdigest()[:16]
    if target.is_dir():
        return target
    try:
        with new_folder(target) as made:
            for name, content in files.items():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                (made / name).write_bytes(content)
    except InputError:
        if not target.is_dir():  # else another was first
            raise
    return target


def _keep_config(words: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """The configuration file of a training, with its bases, as it is now.

    A detector's stays where it is: its protocol goes by the file's name.
    """
    command, arguments = read_words(words)
    if command is None or arguments is None or command.config is None or not command.config.read:
        return words
    config = str(arguments.config)
    if not Path(config).is_file():
        return words  # a preset is part of the code
    values = command.config.read(Path(config))
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    target = folder / f"{plain(Path(config).stem)}-{digest}.yaml"
    write_text(target, text)
    place = words.index(config, len(command.name.split()))
    return (*words[:place], str(target), *words[place + 1 :])


def plan(
    words: Sequence[str], cluster: ClusterSettings, name: str | None, needs: Sequence[Job] = ()
) -> Spec:
    """What a job would be; nothing is written.

    Raises:
        InputError: as ``prepare``.
    """
    run = check_command(words)
    command, _ = read_words(words)
    title = name or (f"{words[0]}-{Path(run).name}" if run else words[0])
    return Spec(
        name=title,
        words=tuple(words),
        run=None if run is None else str(Path(run).absolute()),
        code=str(Path(cluster.folder).absolute() / CODE / "SNAPSHOT"),
        cluster=cluster,
        needs=tuple(str(job.folder) for job in needs),
        submitted=time.time(),
        directory=str(Path.cwd()),
        saves_on_stop=command is not None and command.saves_on_stop,
    )


def submit(jobs: Sequence[Job], after: Sequence[str] = ()) -> None:
    """Hand jobs to the back end of their profile: one job, or an array where there are several.

    Slurm's comment on them begins with the first one's folder: where this process is killed before
    it has noted their ids, they are found by it. The profile's own comment comes after.

    Args:
        jobs: prepared, of one profile.
        after: Slurm's ids of jobs that must have succeeded.

    Raises:
        InputError: Slurm refuses.
    """
    import submitit

    spec = jobs[0].spec()
    cluster = spec.cluster
    if cluster.kind == "slurm" and shutil.which("srun") is None:
        raise InputError("srun: not found; there is no Slurm here, try --cluster local")
    executor = _executor(spec, jobs[0].folder / LOGS, after, comment=jobs[0].folder.name)
    try:
        with outside_of_jobs():
            array = cluster.kind == "slurm" and len(jobs) > 1
            with executor.batch() if array else contextlib.nullcontext():
                made = [executor.submit(Task(job.folder)) for job in jobs]
    except (submitit.core.utils.FailedJobError, OSError) as error:
        for job in jobs:
            job.note("failed", rank=0, why="not submitted", text=str(error))
        said = [line for line in str(error).splitlines() if "error:" in line] or [str(error)]
        raise InputError(f"sbatch: {said[-1].strip()[-300:]}") from None
    for job, one in zip(jobs, made, strict=True):
        job.set_id(str(one.job_id))
        if cluster.kind == "slurm" and job is not jobs[0]:
            job.share_logs(jobs[0])


def request(specs: Sequence[Spec], after: Sequence[str] = ()) -> str:
    """The script that sbatch would be given for one job, or an array of several."""
    folder = Path(specs[0].cluster.folder).absolute() / "JOB" / LOGS
    if specs[0].cluster.kind != "slurm":
        return "# a process of this machine\n"
    executor = _executor(specs[0], folder, after, comment="JOB")
    if len(specs) > 1:
        executor.parameters["map_count"] = len(specs)
    return str(executor._make_submission_file_text(executor._submitit_command_str, "dry-run"))


def _executor(spec: Spec, logs: Path, after: Sequence[str], comment: str) -> Any:
    """The executor of submitit with the profile's requests."""
    import submitit

    class Executor(submitit.SlurmExecutor):
        """Without Slurm its requests can be looked at."""

        @classmethod
        def affinity(cls) -> int:
            return 2

    logging.getLogger("submitit").setLevel(logging.WARNING)
    cluster = spec.cluster
    # The command's words are not here: they travel in the job's folder, and no shell sees them.
    script = f"{spec.code}/slurm/exec_signals_blocked.py"
    python = shlex.join([sys.executable, "-I", "-S", script, sys.executable])
    path = f"export PYTHONPATH={shlex.quote(spec.code)}"
    setup = [*cluster.setup, path + '"${PYTHONPATH:+:$PYTHONPATH}"']
    if cluster.kind == "local":
        if cluster.nodes > 1:
            raise InputError("nodes: this machine is one; with --cluster local give tasks_per_node")
        executor = submitit.LocalExecutor(logs, python=python)
        year = 60 * 24 * 365  # a machine of one's own has no time limit
        executor.update_parameters(
            tasks_per_node=cluster.tasks, timeout_min=year, setup=setup, stderr_to_stdout=True
        )
        return executor
    queued = Executor(logs, python=python)
    given = {
        **{key: getattr(cluster, key) for key in ("partition", "account", "qos", "constraint")},
        "mem": None if cluster.mem_gb is None else f"{round(cluster.mem_gb * 1024)}M",
        "gpus_per_node": cluster.gpus_per_node or None,
        "exclusive": cluster.exclusive or None,
        "dependency": "afterok:" + ":".join(after) if after else None,
    }
    extra: dict[str, Any] = {"requeue": True, "kill-on-invalid-dep": "yes", **cluster.sbatch}
    theirs = cluster.sbatch.get("comment")
    extra["comment"] = comment if theirs is None else f"{comment} {theirs}"
    queued.update_parameters(
        **{key: value for key, value in given.items() if value is not None},
        job_name=plain(spec.name),
        nodes=cluster.nodes,
        ntasks_per_node=cluster.tasks,
        cpus_per_task=cluster.cpus_per_task,
        time=cluster.time_min,
        signal_delay_s=cluster.signal_delay_s,
        array_parallelism=cluster.array_parallelism,
        stderr_to_stdout=True,
        # Without the trap a SIGTERM ends the script, and the job before its tasks have saved.
        setup=["trap : TERM", "unset MASTER_ADDR MASTER_PORT RANK WORLD_SIZE LOCAL_RANK", *setup],
        srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={cluster.cpus_per_task}"],
        additional_parameters=extra,
    )
    return queued
