"""What runs cost, from what their folders say: hours on a device."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from downstream.results.collect import Collection, Pretraining, ResultFile
from downstream.results.text_table import MISSING, Cell, Sheet

TASKS = ("pretraining", "detection", "retrieval")


@dataclass(frozen=True)
class Cost:
    """Hours of one row, over all its seeds and all processes.

    Attributes:
        row: its name.
        hours: by task: ``pretraining``, ``detection``, ``retrieval``.
        unit: ``GPU-hours``; ``process-hours`` on a CPU, however many cores a process used.
        device: names of the devices.
    """

    row: str
    hours: dict[str, float]
    unit: str
    device: str


def costs(found: Collection) -> list[Cost]:
    """Of every row that says anything about time."""
    listed = []
    for name in found.names:
        runs = [run for run in found.runs if run.name == name]
        detections = found.of(name, "detection")
        parts = {task: [_training(r) for r in runs if r.task == task] for task in TASKS}
        parts["detection"] = [_detection(measured) for measured in detections]
        hours = {task: sum(h for h in each if h is not None) for task, each in parts.items()}
        hours = {task: value for task, value in hours.items() if value}
        if hours:
            machines = [run.record.get("machine") for run in runs]
            machines += [m.result.provenance.get("machine") for m in detections]
            known = sorted({str(machine) for machine in machines if machine})
            listed.append(Cost(name, hours, _unit(known), _devices(known)))
    return listed


def sheet(found: Collection) -> Sheet | None:
    """The table of costs; None where no folder says anything about time."""
    listed = costs(found)
    if not listed:
        return None
    tasks = [task for task in TASKS if any(task in cost.hours for cost in listed)]
    rows = []
    for cost in listed:
        values = [cost.hours.get(task) for task in tasks]
        cells = [*map(_hours, [*values, sum(cost.hours.values())]), cost.unit, cost.device]
        rows.append((cost.row, [Cell(text) for text in cells]))
    notes = [
        "All seeds of a row together, times the number of processes. Training: steps by their "
        "median or mean time, without waiting in a queue; detection with its evaluation."
    ]
    if any(cost.unit == "process-hours" for cost in listed):
        notes.append("Process-hours: hours of a process on a CPU, however many cores it used.")
    return Sheet("Cost", ["run", *tasks, "together", "unit", "device"], rows, notes)


def _devices(machines: Sequence[str]) -> str:
    """Of ``NVIDIA H100, 16 cores, x86_64`` the GPU's name; of a CPU its cores too."""
    names = []
    for machine in machines:
        name, _, rest = machine.partition(",")
        names.append(f"{name},{rest.partition(',')[0]}" if name == "cpu" and rest else name)
    return "; ".join(dict.fromkeys(names)) or MISSING


def _unit(machines: Sequence[str]) -> str:
    kinds = {machine.partition(",")[0] == "cpu" for machine in machines}
    return {frozenset({True}): "process-hours", frozenset({False}): "GPU-hours"}.get(
        frozenset(kinds), "device-hours"
    )


def _hours(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def _training(run: Pretraining) -> float | None:
    """Steps done, by the median speed; the batch is the config's."""
    speeds = [value for value in run.curves.get("images_per_s", ([], []))[1] if value > 0]
    try:
        config = yaml.safe_load(run.config)
        images = int(run.record["step"]) * _batch(config)
        world = int(run.record["starts"][-1].get("world", 1))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, yaml.YAMLError):
        return None
    return images / statistics.median(speeds) * world / 3600 if speeds else None


def _batch(config: dict[str, Any]) -> int:
    """Images a step, of all processes together."""
    if "sampler" in config:
        return int(config["sampler"]["classes"]) * int(config["sampler"]["samples"])
    return int(config["optim"]["batch_size"])


def _detection(measured: ResultFile) -> float | None:
    provenance = measured.result.provenance
    seconds: Any = provenance.get("seconds")
    if not isinstance(seconds, dict):
        return None
    iterations = measured.result.protocol.get("iterations")
    each, evaluation, train = (seconds.get(key) for key in ("iteration", "evaluation", "train"))
    if train is not None and isinstance(each, int | float) and isinstance(iterations, int):
        # A resumed training's own seconds are those since it was resumed.
        train = max(train, each * iterations)
    known = [float(part) for part in (train, evaluation) if isinstance(part, int | float)]
    world = provenance.get("world", 1)
    return sum(known) * (world if isinstance(world, int) else 1) / 3600 if known else None
