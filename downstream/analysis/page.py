"""The page of one analysis: no script, no file beside it, nothing fetched."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from downstream.analysis.draw import embedded
from downstream.analysis.record import AnalysisRecord
from downstream.compare.sheets import MISSING
from pretrain import __version__


def render(record: AnalysisRecord, folder: Path) -> str:
    """The analysis as HTML, its figures read from ``folder``."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("downstream.analysis").joinpath("report.html.j2")
    template = environment.from_string(source.read_text(encoding="utf-8"))
    figures = []
    for figure in record.figures:
        with Image.open(folder / figure.png) as picture:
            figures.append((figure, embedded(figure, folder), *picture.size))
    return template.render(
        record=record, figures=figures, values=numbers(record.values), version=__version__
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
