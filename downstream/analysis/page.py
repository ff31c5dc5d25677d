"""The page of one analysis: no script, no file beside it, nothing fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from downstream.figures.pages import render_template
from downstream.figures.pictures import embedded
from downstream.results.analysis_record import AnalysisRecord
from downstream.results.text_table import MISSING
from pretrain import __version__


def render(record: AnalysisRecord, folder: Path) -> str:
    """The analysis as HTML, its figures read from ``folder``."""
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
