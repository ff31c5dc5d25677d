"""Own runs beside published rows, with a warning wherever the protocols differ."""

from __future__ import annotations

import string
from dataclasses import dataclass

from downstream.compare.collect import Collection
from downstream.compare.protocols import DetectionProtocol, protocol_of
from downstream.compare.published import Benchmark, Row, load
from downstream.compare.sheets import MISSING, Cell, Sheet
from downstream.compare.table import value_of

TITLES = {"bbox": "box", "segm": "mask"}


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

    An own row stands beside the benchmark whose protocol it shares most of, and only there; never
    beside one of another metric.
    """
    published = load()
    listed = published.of(paper)
    beside: dict[str, dict[str, DetectionProtocol]] = {name: {} for name in listed}
    for row in found.names:
        results = found.of(row, "detection")
        if not results:
            continue
        own = protocol_of(results[0])
        metric = "voc07" if (own.data or "").startswith("voc_2007") else "coco"
        fitting = [name for name in listed if published.benchmarks[name].metric == metric]
        if fitting:
            name = max(fitting, key=lambda n: own.agreements(published.benchmarks[n].protocol))
            beside[name][row] = own
    return [
        Versus(
            published.benchmarks[name],
            rows,
            list(beside[name]),
            _warnings(beside[name], published.benchmarks[name].protocol),
        )
        for name, rows in listed.items()
    ]


def _warnings(own: dict[str, DetectionProtocol], theirs: DetectionProtocol) -> list[str]:
    """One line a difference, with the rows that have it."""
    lines: dict[str, list[str]] = {}
    for row, protocol in own.items():
        for key, (mine, published) in protocol.differences(theirs).items():
            lines.setdefault(f"{key}: {mine} ({{}}), published {published}", []).append(row)
        unknown = [
            key
            for key, value in protocol.model_dump().items()
            if value is None and getattr(theirs, key) is not None
        ]
        if unknown:
            lines.setdefault(f"{', '.join(unknown)}: not recorded for {{}}", []).append(row)
    return [line.replace("{}", ", ".join(rows)) for line, rows in lines.items()]


def sheet(found: Collection, compared: Versus) -> Sheet:
    """Its table: published rows, then own ones."""
    metrics = sorted({m for row in compared.published for m in row.metrics}, key=_place)
    unknown = list(dict.fromkeys(text for row in compared.published for text in row.unknown))
    remarks = list(dict.fromkeys(text for row in compared.published for text in row.remarks))
    letters = dict(zip([*unknown, *remarks], string.ascii_lowercase, strict=False))
    rows: list[tuple[str, list[Cell]]] = []
    for row in compared.published:
        cells = [Cell(_published(row, metric)) for metric in metrics]
        marks = " ".join(sorted(letters[text] for text in (*row.unknown, *row.remarks)))
        more = [str(row.epochs or "?"), row.confidence, marks or MISSING]
        rows.append((f"{row.name} ({row.paper})", [*cells, *map(Cell, more)]))
    for name in compared.own:
        values = [value_of(found, name, "detection", metric) for metric in metrics]
        cells = [Cell(MISSING if v is None else v.text(1), best=v is not None) for v in values]
        rows.append((name, [*cells, Cell(MISSING), Cell("own"), Cell(MISSING)]))
    return Sheet(
        f"Published: {compared.benchmark.title}",
        ["row", *map(_title, metrics), "epochs", "source", "notes"],
        rows,
        [
            f"{compared.benchmark.note} Protocol: {compared.benchmark.source}.",
            *(["Own runs in bold."] if compared.own else []),
            *(
                f"{heading}: {'; '.join(f'({letters[text]}) {text}' for text in texts)}."
                for heading, texts in (("Not known", unknown), ("Remarks", remarks))
                if texts
            ),
        ],
        [f"protocols differ in {line}" for line in compared.warnings],
    )


def _published(row: Row, metric: str) -> str:
    if metric not in row.metrics:
        return MISSING
    spread = f" ± {row.deviations[metric]:g}" if metric in row.deviations else ""
    return f"{row.metrics[metric]}{spread}"


def _place(metric: str) -> tuple[str, int, str]:
    """As COCO's tables stand: AP, AP50, AP75 of boxes, then of masks."""
    kind, _, name = metric.partition("/")
    return kind, len(name), name


def _title(metric: str) -> str:
    kind, _, name = metric.partition("/")
    return f"{TITLES.get(kind, kind)} {name}"
