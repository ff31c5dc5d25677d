"""Every number of a comparison, one record each: for CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from downstream.compare.cost import costs
from downstream.compare.significance import Analysis, corrected
from downstream.compare.versus import Versus
from downstream.results.collect import Collection
from downstream.results.protocols import protocol_of
from downstream.results.table import value_of, warnings

FIELDS = (
    *("table", "row", "against", "task", "metric", "value", "deviation", "low", "high", "p"),
    *("p_corrected", "count", "source", "confidence"),
)
Record = dict[str, Any]


def records(found: Collection, analysis: Analysis, compared: Sequence[Versus]) -> list[Record]:
    """One record a number, in the units of the result files.

    ``table`` says what it is: ``own`` (mean over ``count`` seeds, ``low`` to ``high`` the 95 %
    interval over test images), ``difference`` (``row`` less ``against``, ``count`` draws,
    ``p_corrected`` where it was tested), ``published`` (``count`` trainings, where that is known)
    or ``cost``.
    """
    listed: list[Record] = []
    record: Record
    tasks = dict.fromkeys((m.row, m.result.task) for m in found.results)
    for row, task in tasks:
        metrics = dict.fromkeys(k for m in found.of(row, task) for k in m.result.metrics)
        for metric in metrics:
            value = value_of(found, row, task, metric)
            if value is not None:
                low, high = analysis.intervals.get((row, metric), (None, None))
                record = {"table": "own", "row": row, "task": task, "metric": metric}
                record |= {"value": value.mean, "deviation": value.deviation}
                listed.append({**record, "low": low, "high": high, "count": value.count})
    for pair, probabilities in zip(analysis.pairs, corrected(analysis), strict=True):
        for name, d in pair.differences.items():
            record = {"table": "difference", "row": pair.first, "against": pair.second}
            record |= {"task": "detection", "metric": f"{pair.kind}/{name}", "value": d.value}
            record |= {"p": d.p, "p_corrected": probabilities.get(name)}
            listed.append({**record, "low": d.low, "high": d.high, "count": d.resamples})
    for one in compared:
        for published in one.published:
            for metric, number in published.metrics.items():
                record = {"table": "published", "row": published.name, "against": published.paper}
                record |= {"task": published.benchmark, "metric": metric, "value": number}
                record |= {"deviation": published.deviations.get(metric), "count": published.runs}
                record |= {"source": published.source, "confidence": published.confidence}
                listed.append(record)
    for cost in costs(found):
        for part, hours in cost.hours.items():
            record = {"table": "cost", "row": cost.row, "task": part, "metric": cost.unit}
            listed.append({**record, "value": hours, "source": cost.device})
    # NaN is no number of JSON's.
    return [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in r.items()}
        for r in listed
    ]


def as_csv(listed: Sequence[Record]) -> str:
    """With a heading; what a record lacks is empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(listed)
    return buffer.getvalue()


def as_json(
    listed: Sequence[Record], found: Collection, analysis: Analysis, compared: Sequence[Versus]
) -> str:
    """The records, and with them protocols, warnings and what is not known."""
    content = {
        "records": listed,
        "protocols": {
            name: protocol_of(results[0]).model_dump()
            for name in found.names
            if (results := found.of(name, "detection"))
        },
        "published": [
            {
                **one.benchmark.model_dump(),
                "rows": [row.model_dump() for row in one.published],
                "own": {name: own.row for name, own in one.own.items()},
                "warnings": one.warnings,
            }
            for one in compared
        ],
        "warnings": [*warnings(found), *analysis.notes],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"
