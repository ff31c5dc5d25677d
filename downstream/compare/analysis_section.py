"""The analyses of `hcl analyze` that lie beside the compared runs, as a section of the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from downstream.figures.pages import render_template
from downstream.figures.pictures import embedded
from downstream.results.analysis_record import FILE_NAME, AnalysisRecord, read_record

BUDGET = 8 * 2**20
"""Characters of all figures together; what goes beyond is named, not shown."""


def below(items: Sequence[Path]) -> list[tuple[AnalysisRecord, Path]]:
    """Every analysis in folders, at any depth; what is reached twice counts once.

    Raises:
        InputError: an ``analysis.json`` cannot be read.
    """
    found: dict[Path, tuple[AnalysisRecord, Path]] = {}
    for item in items:
        for path in sorted(item.rglob(FILE_NAME)) if item.is_dir() else ():
            if path.resolve() not in found:
                found[path.resolve()] = (read_record(path), path.parent)
    return list(found.values())


def section(items: Sequence[Path]) -> Markup:
    """The section of the report; empty where there is no analysis."""
    shown = []
    room = BUDGET
    for record, folder in below(items):
        figures, left_out = [], []
        for figure in record.figures:
            uri = embedded(figure, folder)
            if uri is None or len(uri) > room:
                left_out.append(figure.name)
                continue
            room -= len(uri)
            figures.append((figure, uri))
        shown.append((record, folder, figures, left_out))
    if not shown:
        return Markup()
    text = render_template("downstream.compare", "analysis_section.html.j2", analyses=shown)
    return Markup(text)
