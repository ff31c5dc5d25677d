"""What each task of a job does: run the command, pass signals on, and see to what comes after.

The command is a process of its own below the task, so that its death, of whatever kind, can be
told apart and written down. State lives in its run folder; a job that is run again runs the same
words again.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from types import FrameType
from typing import IO

from pretrain.core.exit_status import STOPPED
from slurm import job_queue
from slurm.job import Job

SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
PULSE_S = 10
LOST = ("Connection closed by peer", "Connection reset by peer", "ncclRemoteError")
LOST_S = 10
GRACE_S = 1800
"""How long a job that has saved waits for a controller that does not answer."""
MEMORY = ("out of memory", "MemoryError", "can't allocate memory", "Cannot allocate memory")


class Task:
    """The callable that submitit runs on every rank; it holds a path and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __call__(self) -> None:
        """Run; leaves with the command's status."""
        status = self.run()
        if status:
            sys.exit(status)

    def run(self) -> int:
        """Run the command as one of the job's tasks; returns its status."""
        return _Run(Job(Path(self.folder))).run()


class _Run:
    """One run of a job's command on one rank."""

    def __init__(self, job: Job) -> None:
        import submitit

        self.job, self.spec = job, job.spec()
        self.on_slurm = self.spec.cluster.kind == "slurm"
        self.rank, self.world, self.node = 0, 1, socket.gethostname()
        self.environment = dict(os.environ)
        if self.spec.cluster.kind != "debug":
            place = submitit.JobEnvironment()
            self.rank, self.world = place.global_rank, place.num_tasks
            self.node = os.environ.get("SLURMD_NODENAME", self.node)
            restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0)) if self.on_slurm else 0
            # Without Slurm all tasks are children of one process.
            number = int(os.environ["SLURM_JOB_ID"]) if self.on_slurm else os.getppid()
            self.environment |= {
                "RANK": str(self.rank),
                "WORLD_SIZE": str(self.world),
                "LOCAL_RANK": str(place.local_rank),
                "LOCAL_WORLD_SIZE": str(self.spec.cluster.tasks),
                "MASTER_ADDR": place.hostnames[0] if self.on_slurm else "127.0.0.1",
                "MASTER_PORT": str(port(number, restarts)),
            }
        self.child: subprocess.Popen[str] | None = None
        self.signal: int | None = None
        self.told = 0.0  # when that was
        self.tail: deque[str] = deque(maxlen=60)

    def run(self) -> int:
        """Run the command, and requeue the job where it was asked to stop."""
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            return self._run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run(self) -> int:
        if self.rank == 0 and not self._begin():
            return 1
        status = self._command()
        if status == 0:
            if self.rank == 0:
                self.job.note("finished")
            return 0
        if status == STOPPED or self.signal is not None:
            return self._stopped()
        return self._failed(status)

    def _begin(self) -> bool:
        """Note the start, unless there have been too many."""
        starts = sum(event["kind"] == "start" for event in self.job.events())
        limit = self.spec.cluster.max_requeues
        if starts > limit:
            self.job.note("given up", why=f"given up after {limit} restarts")
            return False
        # `before`: how long an earlier run that left no word was alive.
        self.job.note("start", node=self.node, world=self.world, before=self.job.last_pulse())
        return True

    def _command(self) -> int:
        code = Path(self.spec.code)
        path = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
        words = [sys.executable, str(code / "slurm/exec_with_parent.py"), str(os.getpid())]
        # The mask is inherited: a signal waits until the command can save.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self.child = subprocess.Popen(
            [*words, sys.executable, "-u", str(code / "hcl.py"), *self.spec.words],
            env={**self.environment, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1"},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        assert self.child.stderr is not None
        reader = threading.Thread(target=self._read, args=(self.child.stderr,), daemon=True)
        reader.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        beat = 0.0
        while True:
            if self.rank == 0 and time.monotonic() - beat > PULSE_S:
                self.job.pulse()
                beat = time.monotonic()
            try:
                status = self.child.wait(0.5)
                break
            except subprocess.TimeoutExpired:
                if self.signal is not None and not self.spec.saves_on_stop:
                    self.child.kill()  # what it has done so far is on disk
        reader.join(5)
        return status

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            sys.stderr.write(line)
            sys.stderr.flush()
            self.tail.append(line)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.rank == 0 and self.signal != number:
            # At once: SIGKILL may follow before the command has saved.
            self.job.note("signal", name=signal.Signals(number).name)
        self.signal, self.told = number, self.told or time.time()
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(number)  # where Slurm has told the task alone

    def _stopped(self) -> int:
        """The command has saved: back into the queue, unless Slurm has decided already."""
        if not self.on_slurm:
            if self.rank == 0:
                self.job.note("stopped", why="asked to stop")
            return STOPPED
        if self.rank > 0:
            return 0
        if self._has_failed():
            return STOPPED  # Slurm ends a job's other tasks when one fails
        detail = job_queue.detail_of(own_id())
        end = detail.end if detail is not None else None
        # Slurm's warning may come a minute early.
        early = self.spec.cluster.signal_delay_s + 60
        if detail is not None and detail.preempted:
            why = "preempted"
        elif end is not None and self.told >= end - early:
            why = "time limit"
        else:
            why = "asked to stop"
        return self._requeue(why)

    def _requeue(self, why: str) -> int:
        """Once Slurm has the job back, how this run ends does not matter to it."""
        name, noted, refused = own_id(), False, None
        until = time.monotonic() + GRACE_S
        while time.monotonic() < until:
            detail = job_queue.detail_of(name)
            if detail is not None and detail.state != "RUNNING":
                if not noted:  # cancelled, or requeued from outside
                    self.job.note(
                        "stopped",
                        why="ended from outside",
                        state=detail.state,
                        preempted=detail.preempted,
                    )
                return STOPPED
            if not noted:
                self.job.note("requeue", why=why)
                noted = True
            refused = job_queue.requeue(name)
            if refused is None:
                return STOPPED
            if detail is not None and (now := job_queue.detail_of(name)) and now.state == "RUNNING":
                break
            self.job.pulse()  # the controller is away: until it is back
            time.sleep(1)
        self.job.note("given up", why=f"cannot be requeued: {refused}")
        return STOPPED

    def _failed(self, status: int) -> int:
        text = "".join(self.tail)
        lost = self.on_slurm and self.world > 1 and any(sign in text for sign in LOST)
        # Another task's process is gone. If that was a failure, its task says so now; if not, its
        # node has failed, which Slurm may see minutes later.
        if lost and not self._another_has_failed():
            return self._requeue("lost a process of another node")
        why = f"exit {status}" if status > 0 else f"killed by signal {-status}"
        if -status == signal.SIGKILL:
            # Slurm's own SIGKILL would have met this process too.
            why = "out of memory: killed by the kernel (SIGKILL)"
        elif any(sign in text for sign in MEMORY):
            why = f"out of memory ({why})"
        self.job.note("failed", rank=self.rank, why=why, status=status, text=text)
        return 1 if status < 0 else status

    def _another_has_failed(self) -> bool:
        """Whether a task of this run says so within ``LOST_S``."""
        until = time.monotonic() + LOST_S
        while time.monotonic() < until:
            if self._has_failed():
                return True
            time.sleep(0.5)
        return False

    def _has_failed(self) -> bool:
        kinds = (event["kind"] for event in reversed(self.job.events()))
        return next((kind for kind in kinds if kind in ("failed", "start")), None) == "failed"


def port(job: int, restarts: int) -> int:
    """The rendezvous's: differs for jobs on a node, below the kernel's own range."""
    return 10000 + (job * 7 + restarts % 7) % 10000


def own_id() -> str:
    """Slurm's name of the job that this process belongs to."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
