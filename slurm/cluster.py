"""Cluster profiles: what a job asks for, and how it is set up there."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from pretrain.core.config import read_yaml, settings_with
from pretrain.core.errors import InputError
from pretrain.core.presets import configs_root, find_config
from pretrain.core.settings import Settings, parse

Positive = Annotated[int, Field(ge=1)]
VARIABLE = "HCL_CLUSTER"
BUILT_IN = ("local", "debug")


class ClusterSettings(Settings):
    """A profile.

    Attributes:
        kind: ``slurm``; ``local``, in the background of this machine; ``debug``, in the foreground.
        folder: of jobs' records, logs and code; on a file system that all nodes share.
        nodes: of a job.
        gpus_per_node: 0: none are asked for.
        tasks_per_node: processes on a node; None: one per GPU, or one.
        cpus_per_task: cores of each process.
        mem_gb: of a node; None: the cluster's default.
        time_min: limit on one run of a job in minutes; the job is requeued before it.
        partition: as sbatch takes it.
        account: likewise.
        qos: likewise.
        constraint: likewise.
        exclusive: whole nodes.
        array_parallelism: how many tasks of an array run at a time.
        signal_delay_s: how long before the time limit a run is asked to save; must hold a step
            and a checkpoint, and Slurm may be a minute early.
        max_requeues: restarts of a job, of whatever cause, before it is given up.
        setup: lines of shell before the command, as in ``module load cuda``.
        sbatch: more of sbatch's options, by name; a ``comment`` comes after the job's own.
    """

    kind: Literal["slurm", "local", "debug"] = "slurm"
    folder: str = "runs/jobs"
    nodes: Positive = 1
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    tasks_per_node: Positive | None = None
    cpus_per_task: Positive = 1
    mem_gb: Annotated[float, Field(gt=0)] | None = None
    time_min: Positive = 60
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclusive: bool = False
    array_parallelism: Positive = 16
    signal_delay_s: Annotated[int, Field(ge=5)] = 120
    max_requeues: Annotated[int, Field(ge=0)] = 50
    setup: tuple[str, ...] = ()
    sbatch: dict[str, str | int | bool] = {}

    @property
    def tasks(self) -> int:
        """Processes on each node."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @field_validator("folder", "partition", "account", "qos", "constraint")
    @classmethod
    def _one_line(cls, value: str | None) -> str | None:
        if value is not None and any(not char.isprintable() for char in value):
            raise ValueError("must be one line of printable characters")
        return value

    @field_validator("folder")
    @classmethod
    def _no_pattern(cls, value: str) -> str:
        if "%" in str(Path(value).absolute()):
            raise ValueError("Slurm would replace the '%' in it; choose another")
        return value


def add_cluster(parser: argparse._ActionsContainer, what: str) -> None:
    """Add ``--cluster`` and ``--set``, which choose a profile; ``what`` is the first one's help."""
    parser.add_argument("--cluster", metavar="NAME", help=what)
    parser.add_argument(
        "--set",
        dest="profile",
        action="append",
        default=[],
        metavar="key=value",
        help="another value of the profile, as in nodes=2; may be repeated",
    )


def choose_cluster(name: str | None, overrides: Sequence[str] = ()) -> tuple[ClusterSettings, str]:
    """The profile to use, and why where it was not asked for.

    Args:
        name: of a profile or file, ``local`` or ``debug``; None: that of $HCL_CLUSTER, else local
            where there is no Slurm.
        overrides: ``key=value``.

    Raises:
        InputError: the profile is at fault, or one has to be chosen.
    """
    why = ""
    if name is None and (name := os.environ.get(VARIABLE)):
        why = f"{name}, from ${VARIABLE}"
    if name is None:
        if shutil.which("sbatch") is not None:
            root = configs_root() / "cluster"
            known = ", ".join([*sorted(file.stem for file in root.glob("*.yaml")), *BUILT_IN])
            raise InputError(f"--cluster: choose one of {known}, or a file; or set ${VARIABLE}")
        name, why = "local", "local: there is no sbatch on this machine"
    values: dict[str, Any]
    if name in BUILT_IN:
        source, values = name, {"kind": name}
    else:
        path = find_config(name, "cluster")
        source, values = str(path), read_yaml(path)

    def build(values: dict[str, Any], source: str) -> ClusterSettings:
        return parse(ClusterSettings, values, source=source)

    return settings_with(values, overrides, build, source), why
