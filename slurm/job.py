"""A job's folder: what was submitted, and what has happened to it since."""

from __future__ import annotations

import json
import re
import secrets
import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pretrain.core.errors import InputError
from pretrain.core.files import sync_file, write_text
from pretrain.core.settings import Settings
from slurm.cluster import ClusterSettings

SPEC, EVENTS, ALIVE, ID, LOGS = "job.json", "events.jsonl", "alive", "id", "log"


class Spec(Settings):
    """What was submitted.

    Attributes:
        name: for people.
        words: of the ``hcl`` command.
        run: the run folder, where the command has one.
        code: the copy of the source that is run.
        cluster: the profile.
        needs: folders of the jobs it waits for.
        submitted: seconds since 1970.
        directory: where it was submitted and runs.
        saves_on_stop: of the command. It stands here so that the job says why a command failed
            whose code cannot be loaded at all.
    """

    name: str
    words: tuple[str, ...]
    run: str | None
    code: str
    cluster: ClusterSettings
    needs: tuple[str, ...] = ()
    submitted: float
    directory: str
    saves_on_stop: bool = False


class Job:
    """A folder of a job; everything else is read from it.

    Args:
        folder: absolute.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, spec: Spec) -> Job:
        """A folder of its own below the profile's."""
        stamp = time.strftime("%m%d-%H%M%S", time.localtime(spec.submitted))
        root = Path(spec.cluster.folder).absolute()
        job = cls(root / f"{plain(spec.name)}-{stamp}-{secrets.token_hex(3)}")
        try:
            (job.folder / LOGS).mkdir(parents=True)
            write_text(job.folder / SPEC, spec.model_dump_json(indent=1) + "\n")
        except OSError as error:
            raise InputError(f"{job.folder}: cannot be written ({error.strerror})") from None
        return job

    def spec(self) -> Spec:
        """What was submitted.

        Raises:
            InputError: its file is damaged.
        """
        try:
            return Spec.model_validate_json((self.folder / SPEC).read_bytes())
        except (OSError, ValidationError) as error:
            raise InputError(f"{self.folder / SPEC}: cannot be read ({error})") from None

    @property
    def id(self) -> str | None:
        """Slurm's name of it; None before it is submitted."""
        file = self.folder / ID
        return file.read_text(encoding="utf-8").strip() if file.is_file() else None

    def set_id(self, name: str) -> None:
        """Note Slurm's name, or the process's where there is no Slurm."""
        write_text(self.folder / ID, name + "\n")

    def note(self, kind: str, **more: Any) -> None:
        """Add an event; a line is written at once, so tasks on many nodes may do so."""
        line = json.dumps({"time": round(time.time(), 1), "kind": kind, **more}) + "\n"
        with (self.folder / EVENTS).open("a", encoding="utf-8") as file:
            file.write(line)
            sync_file(file)

    def events(self) -> list[dict[str, Any]]:
        """All that has happened, in order; a line cut off by a crash is left out."""
        file = self.folder / EVENTS
        found = []
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def pulse(self) -> None:
        """Say that the main task is alive."""
        (self.folder / ALIVE).touch()

    def last_pulse(self) -> float | None:
        """When it last was."""
        file = self.folder / ALIVE
        return file.stat().st_mtime if file.exists() else None

    def logs(self) -> list[Path]:
        """Logs of all tasks, in the order of their ranks."""
        return sorted(self.folder.glob(f"{LOGS}/{self.id}_*_log.out"), key=rank_of)

    def share_logs(self, other: Job) -> None:
        """Tasks of an array write into the first one's folder."""
        own = self.folder / LOGS
        own.rmdir()
        own.symlink_to(Path("..") / other.folder.name / LOGS)


def rank_of(log: Path) -> int:
    """The rank of the task that writes this log."""
    match = re.search(r"_(\d+)_log\.out$", log.name)
    return int(match[1]) if match else 0


def plain(name: str) -> str:
    """A name that folders, Slurm and shells take as it is."""
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", name)[:60].strip("_.-") or "job"


def jobs_below(root: Path) -> list[Job]:
    """All jobs of a folder, oldest first.

    Raises:
        InputError: there is no such folder.
    """
    if (root / SPEC).is_file():
        return [Job(root.absolute())]
    if not root.is_dir():
        raise InputError(f"{root}: no jobs have been submitted here; --folder names another place")
    found = [Job(file.parent.absolute()) for file in root.glob(f"*/{SPEC}")]
    return sorted(found, key=lambda job: (job.folder / SPEC).stat().st_mtime)
