"""Steps one after the other on this machine."""

from __future__ import annotations

import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from types import FrameType

from pretrain.core.exit_status import FAILED, FINISHED, STOPPED
from pretrain.signals import STOP_SIGNALS
from slurm import exec_with_parent
from slurm.due_steps import files_of, reason, status
from slurm.graph import Pipeline, Step
from slurm.state import Journal


class Runner:
    """Runs what is to be run of a pipeline.

    A signal to stop goes on to the running command; when that has ended, so has the pipeline.

    Args:
        pipeline: of steps.
        journal: its state.
        say: where lines about the steps go.
    """

    def __init__(self, pipeline: Pipeline, journal: Journal, say: Callable[[str], None]) -> None:
        self.pipeline, self.journal, self._say = pipeline, journal, say
        self._child: subprocess.Popen[bytes] | None = None
        self._stop: int | None = None

    def run(self, among: Collection[str], forced: Collection[str] = ()) -> int:
        """Run the steps of ``among`` that are due; returns 0, 1 after a failure, 75 if stopped."""
        before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        try:
            return self._run(among, forced)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run(self, among: Collection[str], forced: Collection[str]) -> int:
        without: dict[str, str] = {}
        for step in self.pipeline.steps.values():
            if step.name not in among:
                continue
            missing = next((need for need in step.needs if need in without), None)
            if missing is not None:
                without[step.name] = "was not run"
                self._say(f"{step.name}: not run: needs {missing}, which {without[missing]}")
                continue
            why = reason(step, self.journal.state.steps, forced)
            if why is None:
                self._say(f"{step.name}: finished before")
                continue
            if self._stop is not None:
                return STOPPED
            self._say(f"{step.name}: {why}: hcl {shlex.join(step.words)}")
            outcome = self._step(step)
            if outcome == STOPPED:
                return STOPPED
            if outcome == FAILED:
                without[step.name] = "failed"
        return FAILED if without else FINISHED

    def _step(self, step: Step) -> int:
        self.journal.begin(step.name, step.words, files_of(step), list(step.needs))
        start = time.monotonic()
        exit_status = self._call(step)
        seconds = time.monotonic() - start
        if exit_status == 0:
            self.journal.end(step.name, "finished", 0, seconds)
            return FINISHED
        if exit_status == STOPPED or self._stop is not None:
            self.journal.end(step.name, "stopped", exit_status, seconds)
            self._say(f"{step.name}: stopped; go on with the same command")
            return STOPPED
        self.journal.end(step.name, "failed", exit_status, seconds)
        self._say(f"{step.name}: failed ({status(exit_status)})")
        return FAILED

    def _call(self, step: Step) -> int:
        # A group of its own: Ctrl-C of a terminal reaches the command once, through this process.
        self._child = subprocess.Popen(command(step), stdin=subprocess.DEVNULL, process_group=0)
        if self._stop is not None:  # it came before there was a child to tell
            self._child.send_signal(self._stop)
        exit_status = self._child.wait()
        self._child = None
        return exit_status

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._stop = number
        if self._child is not None:
            self._child.send_signal(number)


def command(step: Step) -> list[str]:
    """The words to execute: this Python, this installation; it does not outlive this process."""
    spec = importlib.util.find_spec("hcl")
    assert spec is not None and spec.origin is not None, "hcl.py stands beside this package"
    bound = [sys.executable, exec_with_parent.__file__, str(os.getpid())]
    return [*bound, sys.executable, spec.origin, *step.words]
