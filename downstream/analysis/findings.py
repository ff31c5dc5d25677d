"""What an analysis found, and the folder it is written to."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from downstream.analysis.draw import NamedFigure, save
from downstream.analysis.page import render
from downstream.results.analysis_record import (
    PAGE_NAME,
    AnalysisRecord,
    Kind,
    Source,
    clear,
    now,
    write_record,
)
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
        created=now(),
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
