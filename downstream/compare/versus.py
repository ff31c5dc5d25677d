"""Own runs beside published rows, with a warning wherever the protocols differ."""

from __future__ import annotations

from dataclasses import dataclass

from downstream.compare.collect import Collection
from downstream.compare.protocols import DetectionProtocol, protocol_of
from downstream.compare.published import Benchmark, Row, load
from downstream.compare.sheets import MISSING, Cell, Sheet
from downstream.compare.table import value_of

TITLES = {"bbox": "box", "segm": "mask"}
# Rows of which own results may stand beside: those whose metrics are a detector's.
_DETECTION = "bbox/AP"


@dataclass(frozen=True)
class Versus:
    """One benchmark's published rows, and the own rows that stand beside them.

    Attributes:
        benchmark: how the published rows were measured.
        published: rows.
        own: names of own rows.
        warnings: where own protocols differ from the published.
    """

    benchmark: Benchmark
    published: list[Row]
    own: list[str]
    warnings: list[str]


def versus(found: Collection, paper: str) -> list[Versus]:
    """The published rows of ``paper``, or of ``all``.

    An own row stands beside the benchmark whose protocol it shares most of, and only there.
    """
    published = load()
    listed = published.of(paper)
    fitting = [
        name for name, rows in listed.items() if any(_DETECTION in row.metrics for row in rows)
    ]
    beside: dict[str, list[str]] = {name: [] for name in listed}
    warned: dict[str, list[str]] = {name: [] for name in listed}
    for row in found.names:
        results = found.of(row, "detection")
        if not results or not fitting:
            continue
        own = protocol_of(results[0])
        name = max(fitting, key=lambda n: own.agreements(published.benchmarks[n].protocol))
        beside[name].append(row)
        warned[name] += _warnings(row, own, published.benchmarks[name].protocol)
    return [
        Versus(published.benchmarks[name], rows, beside[name], warned[name])
        for name, rows in listed.items()
    ]


def _warnings(row: str, own: DetectionProtocol, theirs: DetectionProtocol) -> list[str]:
    different = own.differences(theirs)
    lines = [
        f"{key}: {mine} ({row}), published {other}" for key, (mine, other) in different.items()
    ]
    unknown = [
        key
        for key, value in own.model_dump().items()
        if value is None and getattr(theirs, key) is not None
    ]
    if unknown:
        lines.append(f"{', '.join(unknown)}: not recorded for {row}")
    return lines


def sheet(found: Collection, compared: Versus) -> Sheet:
    """Its table: published rows, then own ones."""
    metrics = list(dict.fromkeys(m for row in compared.published for m in row.metrics))
    # As COCO's tables stand: AP, AP50, AP75 of boxes, then of masks.
    metrics.sort(key=lambda m: (m.partition("/")[0], len(m) if "@" not in m else 0))
    rows: list[tuple[str, list[Cell]]] = []
    for row in compared.published:
        cells = [Cell(_published(row, metric)) for metric in metrics]
        more = [str(row.epochs) if row.epochs else "?", row.confidence]
        rows.append((f"{row.name} ({row.paper})", [*cells, *map(Cell, more)]))
    for name in compared.own:
        values = [value_of(found, name, "detection", metric) for metric in metrics]
        cells = [Cell(MISSING if v is None else v.text(1), best=v is not None) for v in values]
        rows.append((name, [*cells, Cell(MISSING), Cell("own")]))
    return Sheet(
        f"Published: {compared.benchmark.title}",
        ["row", *map(_title, metrics), "epochs", "source"],
        rows,
        [
            f"{compared.benchmark.note} Protocol: {compared.benchmark.source}.",
            *_unknown(compared.published),
            *(["Own runs in bold."] if compared.own else []),
            *(f"Warning: protocols differ in {line}" for line in compared.warnings),
        ],
    )


def _published(row: Row, metric: str) -> str:
    if metric not in row.metrics:
        return MISSING
    spread = f" ± {row.deviations[metric]:g}" if metric in row.deviations else ""
    return f"{row.metrics[metric]}{spread}"


def _unknown(rows: list[Row]) -> list[str]:
    """What is not known of rows, each thing once."""
    things: dict[str, list[str]] = {}
    for row in rows:
        for thing in row.unknown:
            things.setdefault(thing, []).append(row.name)
    lines = []
    for thing, names in things.items():
        who = "all rows" if len(names) == len(rows) else "; ".join(dict.fromkeys(names))
        lines.append(f"Not known: {thing} ({who}).")
    return lines


def _title(metric: str) -> str:
    kind, _, name = metric.partition("/")
    return f"{TITLES.get(kind, kind)} {name}"
