"""What a pipeline has done: ``pipeline.json`` in its folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from pretrain.core.errors import InputError
from pretrain.core.files import write_text
from pretrain.core.settings import Settings
from slurm.job import Job

VERSION = 1
FILE = "pipeline.json"


class Record(Settings):
    """The last run of a step.

    Attributes:
        state: ``running`` also where the runner itself was killed; ``submitted``: a cluster's.
        run: number of the run, growing over the whole pipeline.
        words: of the command, variables put in.
        files: hashes of the configurations and files that the words name, before the run.
        needs: which run of each needed step it came after.
        exit: status of the command; negative: the signal that killed it.
        started: UTC.
        seconds: how long it took.
        job: folder of the job, where it was submitted.
        why: what became of that job, where it did not finish.
    """

    state: Literal["running", "submitted", "finished", "failed", "stopped"]
    run: int
    words: tuple[str, ...]
    files: dict[str, str]
    needs: dict[str, int]
    exit: int | None = None
    started: str
    seconds: float | None = None
    job: str | None = None
    why: str | None = None


class State(Settings):
    """The content of ``pipeline.json``."""

    version: int = VERSION
    name: str
    steps: dict[str, Record] = {}


class Journal:
    """The state of a pipeline's folder, kept on disk at every change.

    Args:
        folder: of the pipeline.
        name: of the pipeline.
        keep: write changes; else they are only looked at.
    """

    def __init__(self, folder: Path, name: str, *, keep: bool = True) -> None:
        self._file, self._keep = folder / FILE, keep
        self.state = _read(self._file, name)

    def begin(
        self,
        step: str,
        words: tuple[str, ...],
        files: dict[str, str],
        needs: list[str],
        job: str | None = None,
    ) -> None:
        """Record that a step is being run, or has been submitted as a job."""
        steps = self.state.steps
        record = Record(
            state="running" if job is None else "submitted",
            run=1 + max((record.run for record in steps.values()), default=0),
            words=words,
            files=files,
            needs={need: steps[need].run for need in needs},
            started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            job=job,
        )
        self._put(step, record)

    def end(
        self,
        step: str,
        state: Literal["finished", "failed", "stopped"],
        exit: int,
        seconds: float,
        why: str | None = None,
    ) -> None:
        """Record how it ended."""
        changes = {"state": state, "exit": exit, "seconds": round(seconds, 1), "why": why}
        self._put(step, self.state.steps[step].model_copy(update=changes))

    def submitted(self) -> dict[str, Job]:
        """The jobs of the steps that are submitted, by step."""
        return {
            name: Job(Path(record.job))
            for name, record in self.state.steps.items()
            if record.state == "submitted" and record.job is not None
        }

    def _put(self, step: str, record: Record) -> None:
        self.state = self.state.model_copy(update={"steps": {**self.state.steps, step: record}})
        if self._keep:
            write_text(self._file, self.state.model_dump_json(indent=1) + "\n")


def _read(file: Path, name: str) -> State:
    if not file.is_file():
        return State(name=name)
    try:
        version = json.loads(file.read_text(encoding="utf-8"))["version"]
        if version != VERSION:
            raise InputError(f"{file}: of version {version}, this program writes {VERSION}")
        state = State.model_validate_json(file.read_bytes())
    except InputError:
        raise
    except (ValidationError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{file}: damaged; remove it and every step is looked at again by its own command"
        ) from None
    if state.name != name:
        raise InputError(
            f"{file}: is of pipeline '{state.name}', not '{name}'; choose another output"
        )
    return state
