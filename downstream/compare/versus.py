"""Own runs beside published rows, with a warning wherever the protocols differ."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator
from dataclasses import dataclass, field

from downstream.results.collect import Collection
from downstream.results.protocols import (
    TransferProtocol,
    differences,
    metric_of,
    protocol_of,
    retrieval_protocol_of,
)
from downstream.results.published import Benchmark, PublishedNumbers, Row, load
from downstream.results.table import SPACES, Value, value_of
from downstream.results.text_table import MISSING, Cell, Sheet

TITLES = {"bbox": "box", "segm": "mask"}


@dataclass(frozen=True)
class OwnRow:
    """An own row as it stands beside published ones: values in percent, by their metrics."""

    row: str
    protocol: TransferProtocol
    values: dict[str, Value]


@dataclass(frozen=True)
class Versus:
    """One benchmark's published rows, and the own rows that stand beside them.

    Attributes:
        benchmark: how the published rows were measured.
        published: rows.
        own: own rows by the name they have here: of an embedding with the space it is ranked in.
        warnings: where own protocols differ from the published.
    """

    benchmark: Benchmark
    published: list[Row]
    own: dict[str, OwnRow] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def versus(found: Collection, paper: str) -> list[Versus]:
    """The published rows of ``paper``, or of ``all``.

    An own detector stands beside the benchmark whose protocol it shares most of, and only there;
    never beside one of another metric. An own embedding stands beside every benchmark of its data
    set that ranks by a space it was measured in.
    """
    published = load()
    listed = {
        name: Versus(published.benchmarks[name], rows) for name, rows in published.of(paper).items()
    }
    _place_detectors(found, listed)
    _place_embeddings(found, listed)
    for one in listed.values():
        one.warnings.extend(_warnings(one, published))
    return list(listed.values())


def _place_detectors(found: Collection, listed: dict[str, Versus]) -> None:
    for row in found.names:
        results = found.of(row, "detection")
        fitting = [
            one
            for one in listed.values()
            if results and one.benchmark.metric == metric_of(results[0])
        ]
        if not fitting:
            continue
        own = protocol_of(results[0])
        one = max(fitting, key=lambda v: own.agreements(v.benchmark.protocol))
        values = {m: value_of(found, row, "detection", m) for m in _metrics(one)}
        one.own[row] = OwnRow(row, own, {m: v for m, v in values.items() if v is not None})


def _place_embeddings(found: Collection, listed: dict[str, Versus]) -> None:
    for one in listed.values():
        for row in found.names:
            results = found.of(row, "retrieval")
            # Object crops of a detection set have no name of a data set in their protocol.
            data = results[0].result.protocol.get("data") if results else None
            if one.benchmark.metric != "recall" or data != one.benchmark.protocol.data:
                continue
            for space in one.benchmark.spaces:
                # An own result names ``recall@1`` with the space in it.
                own_names = {m: m.replace("@", f"/{space}@") for m in _metrics(one)}
                values = {
                    metric: value.times(100)
                    for metric, own_name in own_names.items()
                    if (value := value_of(found, row, "retrieval", own_name)) is not None
                }
                if values:
                    own = retrieval_protocol_of(results[0], space)
                    one.own[f"{row}, {SPACES.get(space, space)}"] = OwnRow(row, own, values)


def _metrics(compared: Versus) -> list[str]:
    known = sorted({m for row in compared.published for m in row.metrics}, key=_place)
    # Where no source gives a number, own ones have their column all the same.
    return known or ["recall@1"]


def _warnings(compared: Versus, published: PublishedNumbers) -> list[str]:
    """One line a difference, with the rows that have it."""
    lines: dict[str, list[str]] = {}
    protocols = [published.protocol(row) for row in compared.published]
    for own in compared.own.values():
        for key, (mine, other) in differences(own.protocol, protocols).items():
            lines.setdefault(f"{key}: {mine} ({{}}), published {other}", []).append(own.row)
        unknown = [
            key
            for key, value in own.protocol.model_dump().items()
            if value is None and any(getattr(p, key) is not None for p in protocols)
        ]
        if unknown:
            lines.setdefault(f"{', '.join(unknown)}: not recorded for {{}}", []).append(own.row)
    # An embedding stands there once for every space.
    return [line.replace("{}", ", ".join(dict.fromkeys(rows))) for line, rows in lines.items()]


def sheet(compared: Versus) -> Sheet:
    """Its table: published rows, then own ones."""
    metrics = _metrics(compared)
    unknown = list(dict.fromkeys(text for row in compared.published for text in row.unknown))
    remarks = list(dict.fromkeys(text for row in compared.published for text in row.remarks))
    letters = dict(zip([*unknown, *remarks], _letters(), strict=False))
    rows: list[tuple[str, list[Cell]]] = []
    for row in compared.published:
        cells = [Cell(_published(row, metric)) for metric in metrics]
        marks = " ".join(sorted(letters[text] for text in (*row.unknown, *row.remarks)))
        more = [str(row.epochs or "?"), row.confidence, marks or MISSING]
        rows.append((f"{row.name} ({row.paper})", [*cells, *map(Cell, more)]))
    for name, own in compared.own.items():
        values = [own.values.get(metric) for metric in metrics]
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
        folded=not compared.own,
    )


def _letters() -> Iterator[str]:
    """a, b, ..., z, aa, ab, ..."""
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_lowercase, repeat=length):
            yield "".join(letters)


def _published(row: Row, metric: str) -> str:
    if metric not in row.metrics:
        return MISSING
    spread = f" ± {row.deviations[metric]:g}" if metric in row.deviations else ""
    return f"{row.metrics[metric]}{spread}"


def _place(metric: str) -> tuple[str, int, str]:
    """As tables stand: AP, AP50, AP75 of boxes, then of masks; recall by K."""
    return metric.partition("/" if "/" in metric else "@")[0], len(metric), metric


def _title(metric: str) -> str:
    kind, _, name = metric.partition("/")
    return f"{TITLES.get(kind, kind)} {name}".rstrip().replace("recall@", "R@")
