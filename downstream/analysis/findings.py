"""What an analysis found, and the folder it is written to: figures, a page and a record."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from downstream.analysis.draw import NamedFigure, save
from downstream.figures.pages import embedded, render_template
from downstream.results.analysis_record import (
    PAGE_NAME,
    AnalysisRecord,
    Kind,
    Source,
    clear,
    write_record,
)
from downstream.results.text_table import MISSING
from pretrain import __version__
from pretrain.core.files import write_text


@dataclass(frozen=True)
class Findings:
    """The outcome of one analysis; see :class:`AnalysisRecord`."""

    title: str
    sources: Sequence[Source]
    values: dict[str, Any]
    drawn: Sequence[NamedFigure]
    notes: Sequence[str] = field(default=())
    warnings: Sequence[str] = field(default=())


def publish(
    found: Findings, kind: Kind, options: dict[str, Any], command: Sequence[str], folder: Path
) -> AnalysisRecord:
    """Write figures, page and, last, the record."""
    folder.mkdir(parents=True, exist_ok=True)
    clear(folder)
    record = AnalysisRecord(
        kind=kind,
        title=found.title,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        command=shlex.join(command),
        options=options,
        sources=tuple(found.sources),
        values=found.values,
        notes=tuple(found.notes),
        warnings=tuple(found.warnings),
        figures=tuple(save(drawn, folder) for drawn in found.drawn),
    )
    write_text(folder / PAGE_NAME, render(record, folder))
    write_record(record, folder)
    return record


def render(record: AnalysisRecord, folder: Path) -> str:
    """The page of one analysis: no script, no file beside it; figures are read from ``folder``."""
    figures = []
    for figure in record.figures:
        with Image.open(folder / figure.png) as picture:
            figures.append((figure, embedded(figure, folder), *picture.size))
    return render_template(
        "downstream.analysis",
        "report.html.j2",
        record=record,
        figures=figures,
        values=numbers(record.values),
        version=__version__,
    )


def numbers(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as lines of a table; lists of numbers, which the figures show, are left out."""
    if isinstance(values, dict):
        return [
            line
            for key, value in values.items()
            for line in numbers(value, f"{prefix} / {key}" if prefix else str(key))
        ]
    if isinstance(values, list | tuple):
        return []
    if values is None:
        return [(prefix, MISSING)]
    text = f"{values:.6g}" if isinstance(values, float) else str(values)
    return [(prefix, text)]
