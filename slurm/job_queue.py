"""What Slurm says and is told: the queue, requests to requeue and to cancel."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from pretrain.core.errors import InputError

TIMEOUT_S = 8


@dataclass(frozen=True)
class Entry:
    """A job in the queue, or one that has left it a little while ago.

    Attributes:
        state: as Slurm has it, such as ``PENDING``.
        nodes: where it runs.
        reason: why it waits.
    """

    state: str
    nodes: str
    reason: str


@dataclass(frozen=True)
class Detail:
    """What Slurm says of one job.

    Attributes:
        state: as Slurm has it.
        end: when its time limit ends it, in seconds since 1970; None: there is no limit.
        preempted: another job has been given its place.
    """

    state: str
    end: float | None
    preempted: bool


def ask(*words: str, timeout: float = TIMEOUT_S) -> str:
    """The output of one of Slurm's commands.

    Raises:
        InputError: it failed, or Slurm's controller does not answer.
    """
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=True, timeout=timeout, env=clean()
        )
    except FileNotFoundError:
        raise InputError(f"{words[0]}: not found; there is no Slurm here") from None
    except subprocess.TimeoutExpired:
        raise InputError(
            f"{words[0]}: Slurm's controller has not answered within {timeout:.0f} s; "
            "try again later, or --cluster local"
        ) from None
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split()) or f"status {error.returncode}"
        raise InputError(f"{words[0]}: {said[-300:]}") from None
    return done.stdout


def check_reachable() -> None:
    """Refuse to submit where no controller answers.

    Raises:
        InputError: it does not.
    """
    try:
        ask("sinfo", "-h", "-o", "%P")
    except InputError as error:
        raise InputError(f"Slurm cannot be reached: {error}") from None


def queue() -> dict[str, Entry]:
    """This user's jobs by id (array tasks as ``12_3``), with those that ended minutes ago.

    Raises:
        InputError: Slurm does not answer.
    """
    text = ask("squeue", "--me", "--states=all", "-h", "-r", "-o", "%i|%T|%N|%r")
    rows = (line.split("|", 3) for line in text.splitlines() if line.count("|") >= 3)
    return {name.strip(): Entry(state, nodes, reason) for name, state, nodes, reason in rows}


def detail_of(job: str) -> Detail | None:
    """What Slurm says of a job; None where it cannot."""
    try:
        words = ask("scontrol", "show", "job", "-o", job).split()
    except InputError:
        return None
    # The job's name, which comes before these, has no blanks; paths and comments come after.
    found: dict[str, str] = {}
    for key, _, value in (word.partition("=") for word in words):
        found.setdefault(key, value)
    try:
        end = datetime.fromisoformat(found.get("EndTime", "")).timestamp()
    except ValueError:
        end = None
    preempted = found.get("PreemptTime", "None") != "None"
    return Detail(found.get("JobState", ""), end, preempted)


def requeue(job: str) -> str | None:
    """Put a running job back into the queue; returns why it could not be done."""
    try:
        ask("scontrol", "requeue", job, timeout=60)
    except InputError as error:
        return str(error)
    return None


def cancel(jobs: list[str]) -> None:
    """Take jobs out of the queue, or end them.

    Raises:
        InputError: Slurm refuses.
    """
    ask("scancel", *jobs)


def clean() -> dict[str, str]:
    """This environment without a surrounding job's variables, which commands would obey."""
    prefixes = ("SLURM_", "SBATCH_", "SRUN_")
    return {k: v for k, v in os.environ.items() if not k.startswith(prefixes) or k == "SLURM_CONF"}


@contextlib.contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Submit from within a job as if from outside."""
    before = dict(os.environ)
    kept = clean()
    try:
        for name in before.keys() - kept.keys():
            del os.environ[name]
        yield
    finally:
        os.environ.update(before)
