"""Finding what there is to compare: result files and pretraining runs."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from downstream.results.analysis_record import FILE_NAME as ANALYSIS
from downstream.results.result import FILE_NAME, Result, read_result
from pretrain.core.errors import InputError
from pretrain.core.run_files import CONFIG, METRICS, RECORD

# `hcl detect` marks its folder with this file before it trains.
DETECTION_MARK = "fingerprint.txt"

# What a seed's name has more than the others': `moco-seed1`, `moco_seed=1`, `moco/seed1`.
_SEED = re.compile(r"[-_./ ]seed[-_=]?\d+$", re.IGNORECASE)

Curve = tuple[list[int], list[float]]
"""Steps and values."""


@dataclass(frozen=True)
class ResultFile:
    """One result file, and the folder that its artifacts are relative to.

    Results of one ``row`` are seeds: of one name, but for a seed at its end, and one protocol.
    """

    folder: Path
    result: Result
    row: str

    def artifact(self, name: Any) -> Path | None:
        """A file of the result; None where it is missing or outside the result's folder."""
        if not isinstance(name, str):
            return None
        folder = self.folder.resolve()
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder) and path.is_file() else None


@dataclass(frozen=True)
class Pretraining:
    """One run folder, of `hcl pretrain` or of `hcl retrieve train`.

    Attributes:
        folder: of the run.
        name: the row it belongs to.
        record: content of ``run.json``.
        config: text of ``config.yaml``.
        curves: logged values by name, non-finite ones left out.
        damaged_lines: lines of ``metrics.jsonl`` that are not JSON, as a kill may leave.
    """

    folder: Path
    name: str
    record: dict[str, Any]
    config: str
    curves: dict[str, Curve]
    damaged_lines: int

    @property
    def task(self) -> str:
        """``pretraining``, or what the network was fine-tuned for."""
        return "retrieval" if "task" in self.record else "pretraining"

    @property
    def views(self) -> Path | None:
        """The grid of training views, if the run has one."""
        path = self.folder / "views.png"
        return path if path.is_file() else None


@dataclass
class Collection:
    """Everything found, in the order it was found.

    Attributes:
        results: result files.
        runs: run folders.
        names: rows.
        unfinished: what was begun and has no result, or cannot be read, one line each.
    """

    results: list[ResultFile] = field(default_factory=list)
    runs: list[Pretraining] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)

    def of(self, name: str, task: str) -> list[ResultFile]:
        """The results of one row and task: several where there are several seeds."""
        return [m for m in self.results if m.row == name and m.result.task == task]


def collect(items: Sequence[Path]) -> Collection:
    """Search ``items`` recursively; what is reached twice counts once.

    What was begun and has no result yet, or lies in a folder that cannot be read, is named in
    ``unfinished``.

    Args:
        items: folders with results or runs in them, at any depth, or result files.

    Raises:
        InputError: an item is missing, cannot be read or holds a damaged file, or no item holds
            anything.
    """
    found = Collection()
    seen: set[Path] = set()
    empty: list[Path] = []
    unread: list[str] = []
    for item in items:
        if not item.exists():
            raise InputError(f"{item}: no such file or folder")
        paths, begun, closed = ([item], [], []) if item.is_file() else _files(item)
        if not paths and not begun and not closed and not any(item.rglob(ANALYSIS)):
            empty.append(item)
        found.unfinished += [
            f"{folder}: a detection transfer was begun and has no {FILE_NAME}; go on with "
            "hcl detect --resume"
            for folder in begun
        ]
        found.unfinished += closed
        unread += closed
        for path in paths:
            if path.resolve() not in seen:
                seen.add(path.resolve())
                _add(found, path)
    if not found.names:
        where = ", ".join(map(str, items))
        if unread:
            raise InputError(f"{where}: nothing to compare in what can be read; {unread[0]}")
        raise InputError(
            f"{where}: no {FILE_NAME} and no run of `hcl pretrain` in it; run `hcl detect` or "
            "`hcl retrieve` first, or leave it out"
        )
    found.unfinished += [f"{item}: neither a {FILE_NAME} nor a run in it" for item in empty]
    _split(found)
    found.unfinished += _without_result(found)
    return found


def without_seed(name: str) -> str:
    """The row that a run of this name belongs to."""
    return _SEED.sub("", name) or name


def _split(found: Collection) -> None:
    """Give results of one name but another protocol a row of their own.

    Their mean would be of nothing. The protocol does not hold the seed; the row's name says in
    what it differs from the first.
    """
    # The protocols of each name and task with their rows, the first of them named as the runs are.
    seen: dict[tuple[str, str], list[tuple[dict[str, Any], str]]] = {}
    used = {(measured.row, measured.result.task) for measured in found.results}
    last = {name: name for name in found.names}
    for place, measured in enumerate(found.results):
        row, task, protocol = measured.row, measured.result.task, measured.result.protocol
        rows = seen.setdefault((row, task), [(protocol, row)])
        name = next((name for other, name in rows if other == protocol), None)
        if name is None:
            base = f"{row} [{_deviation(protocol, rows[0][0])}]"
            numbered = (f"{base} #{n}" for n in itertools.count(2))
            name = next(n for n in itertools.chain([base], numbered) if (n, task) not in used)
            used.add((name, task))
            rows.append((protocol, name))
            if name not in found.names:
                found.names.insert(found.names.index(last[row]) + 1, name)
                last[row] = name
        found.results[place] = replace(measured, row=name)


def _deviation(protocol: dict[str, Any], usual: dict[str, Any]) -> str:
    """In what a protocol differs from the usual one, every entry cut to what a name can hold."""
    keys = [
        key
        for key in {**usual, **protocol}
        if (key in usual) != (key in protocol) or usual.get(key) != protocol.get(key)
    ]
    # A checksum tells less than what it is of.
    keys.sort(key=lambda key: "sha256" in key)
    return ", ".join(f"{key}={str(protocol.get(key))[:16]}" for key in keys)


def _without_result(found: Collection) -> list[str]:
    """Runs that are not through."""
    lines = []
    for run in found.runs:
        state = run.record.get("state", "finished")
        if state != "finished":
            step, steps = run.record.get("step", "?"), run.record.get("total_steps", "?")
            lines.append(f"{run.folder}: {run.task} is {state}, at step {step} of {steps}")
    measured = {measured.row for measured in found.results}
    lines += [
        f"{name}: no {FILE_NAME} of any transfer"
        for name in dict.fromkeys(run.name for run in found.runs)
        if name not in measured
    ]
    return lines


def _files(folder: Path) -> tuple[list[Path], list[Path], list[str]]:
    """What is under ``folder``.

    Returns:
        Files of runs and of results, sorted; detection transfers without any, sorted; a line for
        each folder further down that cannot be read.

    Raises:
        InputError: ``folder`` itself cannot be read.
    """
    runs, results, begun, closed = [], [], [], []

    def tell(error: OSError) -> None:
        line = f"{error.filename}: cannot be read ({error.strerror})"
        if Path(error.filename) == folder:
            raise InputError(line)
        closed.append(line)

    for place, _, files in os.walk(folder, onerror=tell):
        here, names = Path(place), set(files)
        if {RECORD, CONFIG} <= names:
            runs.append(here / RECORD)
        if FILE_NAME in names:
            results.append(here / FILE_NAME)
        elif DETECTION_MARK in names:
            begun.append(here)
    return sorted([*runs, *results]), sorted(begun), sorted(closed)


def _add(found: Collection, path: Path) -> None:
    if path.name == RECORD:
        run = _read_run(path)
        found.runs.append(run)
        name = run.name
    else:
        result = read_result(path)
        name = without_seed(result.run)
        found.results.append(ResultFile(path.parent, result, name))
    if name not in found.names:
        found.names.append(name)


def _read_run(path: Path) -> Pretraining:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        config = (path.parent / CONFIG).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: not a run's record: {error}; run pretraining again") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: not a run's record: not an object; run pretraining again")
    curves, damaged = read_curves(path.parent / METRICS)
    name = without_seed(str(record.get("name") or path.parent.resolve().name))
    return Pretraining(path.parent, name, record, config, curves, damaged)


def read_curves(path: Path, step_name: str = "step") -> tuple[dict[str, Curve], int]:
    """Logged values by name, from one JSON object a line, and the number of damaged lines."""
    curves: dict[str, Curve] = {}
    damaged = 0
    if not path.is_file():
        return curves, damaged
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    for line in lines:
        try:
            values = json.loads(line)
            step = int(values.pop(step_name))
        except (ValueError, KeyError, TypeError, AttributeError):
            damaged += 1
            continue
        for name, value in values.items():
            if isinstance(value, int | float) and math.isfinite(value):
                steps, points = curves.setdefault(name, ([], []))
                steps.append(step)
                points.append(float(value))
    return curves, damaged
