"""What runs cost, from what their folders say: hours on a device."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import yaml

from downstream.compare.collect import Collection, Measured, Pretraining
from downstream.compare.sheets import MISSING, Cell, Sheet


@dataclass(frozen=True)
class Cost:
    """Hours of one row, over all its seeds: device-hours where several devices worked at once."""

    row: str
    pretraining: float | None
    detection: float | None
    device: str


def costs(found: Collection) -> list[Cost]:
    """Of every row that says anything about time."""
    listed = []
    for name in found.names:
        runs = [run for run in found.runs if run.name == name]
        detections = found.of(name, "detection")
        before = _total([_pretraining(run) for run in runs])
        after = _total([_detection(measured) for measured in detections])
        if before is not None or after is not None:
            machines = [run.record.get("machine") for run in runs]
            machines += [m.result.provenance.get("machine") for m in detections]
            devices = {str(machine).partition(",")[0] for machine in machines if machine}
            listed.append(Cost(name, before, after, ", ".join(sorted(devices)) or MISSING))
    return listed


def sheet(found: Collection) -> Sheet | None:
    """The table of costs; None where no folder says anything about time."""
    listed = costs(found)
    if not listed:
        return None
    rows = []
    for cost in listed:
        parts = [part for part in (cost.pretraining, cost.detection) if part is not None]
        values = [_hours(value) for value in (cost.pretraining, cost.detection, sum(parts))]
        rows.append((cost.row, [*map(Cell, values), Cell(cost.device)]))
    return Sheet(
        "Cost",
        ["run", "pretraining, h", "detection, h", "together, h", "device"],
        rows,
        [
            "Device-hours (GPU-hours where the device is one), all seeds of a row together. "
            "Pretraining: steps by their median time, without evaluation and waiting in a queue; "
            "detection: training and evaluation."
        ],
    )


def _hours(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def _total(hours: list[float | None]) -> float | None:
    known = [value for value in hours if value is not None]
    return sum(known) if known else None


def _pretraining(run: Pretraining) -> float | None:
    """Steps done, by the median speed; the batch is the config's."""
    speeds = [value for value in run.curves.get("images_per_s", ([], []))[1] if value > 0]
    try:
        config = yaml.safe_load(run.config)
        images = int(run.record["step"]) * int(config["optim"]["batch_size"])
        world = int(run.record["starts"][-1].get("world", 1))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, yaml.YAMLError):
        return None
    return images / statistics.median(speeds) * world / 3600 if speeds else None


def _detection(measured: Measured) -> float | None:
    provenance = measured.result.provenance
    seconds: Any = provenance.get("seconds")
    if not isinstance(seconds, dict):
        return None
    parts = [seconds.get(key) for key in ("train", "evaluation")]
    known = [float(part) for part in parts if isinstance(part, int | float)]
    world = provenance.get("world", 1)
    return sum(known) * (world if isinstance(world, int) else 1) / 3600 if known else None
