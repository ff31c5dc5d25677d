"""The table: rows are runs, columns are metrics, the best of each column in bold."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from downstream.results.collect import Collection
from downstream.results.protocols import measured_on, protocol_of
from downstream.results.text_table import MISSING, Cell, Sheet
from pretrain.core.text import flat


@dataclass(frozen=True)
class Column:
    """A metric in the table.

    Attributes:
        title: heading.
        task: of the results it comes from.
        metric: name in ``Result.metrics``.
        scale: factor to percent.
        ranked: whether the best value is marked.
        floor: in percent; where all values are less, none is marked.
    """

    title: str
    task: str
    metric: str
    scale: float = 1.0
    ranked: bool = True
    floor: float = 0.0


FLOOR = 1.0
"""AP in percent below which a detector has hardly learned anything: rows that are both less than
this are not told apart, however certain the sign of their difference is."""


SPACES = {
    "backbone/euclidean": "backbone cos",
    "head/euclidean": "head cos",
    "head/hyperbolic": "head hyp",
    "head/fused": "head fused",
}
"""How embeddings are ranked, by the names of ``Result.metrics``."""

COLUMNS = (
    *(
        Column(f"{title} {name}", "detection", f"{kind}/{name}", floor=FLOOR)
        for kind, title in (("bbox", "box"), ("segm", "mask"))
        for name in ("AP", "AP50", "AP75")
    ),
    *(
        Column(f"R@1 {title}", "retrieval", f"recall/{space}@1", 100)
        for space, title in SPACES.items()
    ),
    Column("R@1 chance", "retrieval", "recall/chance@1", 100, ranked=False),
    Column("linear top-1", "probe", "linear@1", 100),
    Column("linear mAP", "probe", "linear/map", 100),
    Column("k-NN top-1", "probe", "knn@1", 100),
)

TASKS = ("detection", "retrieval", "probe")


@dataclass(frozen=True)
class Value:
    """A metric over the results of one row: mean, and standard deviation where there are more."""

    mean: float
    deviation: float | None
    count: int

    def text(self, digits: int = 1) -> str:
        """As it stands in tables."""
        spread = "" if self.deviation is None else f" ± {self.deviation:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread}"

    def times(self, scale: float) -> Value:
        """In another unit."""
        deviation = None if self.deviation is None else self.deviation * scale
        return Value(self.mean * scale, deviation, self.count)


def value_of(found: Collection, name: str, task: str, metric: str) -> Value | None:
    """The metric of one row, over all its results that have it; None where there is none.

    The deviation is that of the sample (n - 1).
    """
    numbers = [
        measured.result.metrics[metric]
        for measured in found.of(name, task)
        if math.isfinite(measured.result.metrics.get(metric, math.nan))
    ]
    if not numbers:
        return None
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
    return Value(statistics.fmean(numbers), deviation, len(numbers))


def _column(found: Collection, column: Column) -> list[Cell]:
    values = [value_of(found, name, column.task, column.metric) for name in found.names]
    if not column.ranked:
        # Of the data, not of the run: seeds do not move it.
        values = [v and Value(v.mean, None, v.count) for v in values]
    measured = [found.of(name, column.task) for name in found.names]
    groups = [measured_on(results[0]) if results else None for results in measured]
    percent = [v and v.times(column.scale) for v in values]
    return cells(percent, groups, ranked=column.ranked, floor=column.floor)


def cells(
    values: Sequence[Value | None],
    groups: Sequence[object],
    *,
    ranked: bool = True,
    floor: float = 0.0,
) -> list[Cell]:
    """A column, the best value of each group in bold.

    Args:
        values: in percent; None is not measured.
        groups: what each was measured on: only within one is anything better than another.
        ranked: whether the best is marked.
        floor: a best value below this is not marked.
    """
    # One digit is what papers print; a column of small numbers would be all noughts.
    digits = 2 if all(v.mean < 1 for v in values if v is not None) else 1
    # What looks equal is equally good: the best is judged as displayed.
    shown: dict[object, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        if value is not None:
            shown.setdefault(group, []).append(round(value.mean, digits))
    # Of one, or where all are alike, none is the best.
    best = {
        group: max(means)
        for group, means in shown.items()
        if len(set(means)) > 1 and max(means) >= floor
    }
    return [
        Cell(MISSING)
        if v is None
        else Cell(v.text(digits), best=ranked and round(v.mean, digits) == best.get(group))
        for v, group in zip(values, groups, strict=True)
    ]


def sheet(found: Collection) -> Sheet:
    """The table of own runs, with its notes; columns that no run has are left out."""
    known = [
        column
        for column in COLUMNS
        if any(value_of(found, n, column.task, column.metric) is not None for n in found.names)
    ]
    columns = known or COLUMNS
    header = ["run", *(column.title for column in columns)]
    rows = zip(*(_column(found, column) for column in columns), strict=True)
    lines = list(zip(found.names, rows, strict=True))
    return Sheet("", header, lines, notes(found), warnings(found))


def notes(found: Collection) -> list[str]:
    """What one must know to read the numbers rightly."""
    lines = [
        "All numbers in percent; in bold the best of each column among rows of one test set "
        f"(AP: where it reaches {FLOOR:g}); {MISSING} is not measured."
    ]
    if any(measured.result.task == "retrieval" for measured in found.results):
        lines.append(
            "R@1: recall at 1 by category, of embeddings of backbone or head, by cosine (cos), "
            "hyperbolic distance (hyp) or both (fused)."
        )
    if any(measured.result.task == "probe" for measured in found.results):
        lines.append("linear, k-NN: classification with the frozen backbone (`hcl probe`).")
    seeds: dict[int, list[str]] = {}
    for name in found.names:
        for task in TASKS:
            count = len(found.of(name, task))
            if count > 1:
                seeds.setdefault(count, []).append(f"{name} ({task})")
    if seeds:
        told = "; ".join(f"{count} of {', '.join(rows)}" for count, rows in seeds.items())
        lines.append(
            f"Mean ± standard deviation over several results: {told}. Results are "
            "seeds of one row where name (but for a seed at its end) and protocol are the same."
        )
    return lines


def warnings(found: Collection) -> list[str]:
    """What is missing, and why numbers are not comparable or not independent."""
    return [
        *found.unfinished,
        *_protocol_differences(found),
        *_detector_differences(found),
        *_repeated_weights(found),
    ]


def _protocol_differences(found: Collection) -> list[str]:
    lines = []
    for task in TASKS:
        compared = [m for m in found.results if m.result.task == task]
        flat = [(m.row, flatten(m.result.protocol)) for m in compared]
        lines += [f"{task} protocols differ in {line}" for line in _differences(flat)]
    return lines


def _detector_differences(found: Collection) -> list[str]:
    """Of what stands in detectron2's config and not in the result itself."""
    said = {key for m in found.results for key in m.result.protocol}
    flat = []
    for measured in found.results:
        if measured.result.task == "detection":
            known = protocol_of(measured).model_dump(include={"model", "head", "norm", "input"})
            flat.append((measured.row, {k: v for k, v in known.items() if v and k not in said}))
    return [f"detectors differ in {line}" for line in _differences(flat)]


def _differences(flat: Sequence[tuple[str, dict[str, str]]]) -> list[str]:
    """One line a key whose values are not all the same, with the rows that have each."""
    lines = []
    for key in dict.fromkeys(key for _, protocol in flat for key in protocol):
        holders: dict[str, list[str]] = {}
        for run, protocol in flat:
            names = holders.setdefault(protocol.get(key, "absent"), [])
            if run not in names:
                names.append(run)
        if len(holders) > 1:
            values = "; ".join(f"{value} ({', '.join(n)})" for value, n in holders.items())
            lines.append(f"{key}: {values}")
    return lines


def _repeated_weights(found: Collection) -> list[str]:
    lines = []
    for name in found.names:
        for task in TASKS:
            results = found.of(name, task)
            flat = [flatten(m.result.provenance) for m in results]
            # Retrieval reads a checkpoint, detection the weights exported from one.
            weights = [f.get("weights_sha256") or f.get("weights.sha256") for f in flat]
            known = [sha for sha in weights if sha is not None]
            if len(set(known)) < len(known):
                lines.append(
                    f"{name}: {len(results)} {task} results, but some are of the same weights: "
                    "their deviation is not that between pretraining seeds"
                )
    return lines


def flatten(values: dict[str, Any]) -> dict[str, str]:
    """Nested values as dotted names and short texts."""
    return {key: _short(value) for key, value in flat(values).items()}


def _short(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return shlex.join(value)
    return "none" if value is None else str(value)
