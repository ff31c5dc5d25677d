"""The look of the figures, and their files: the same figure gives the same bytes."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from downstream.figures.style import LINES, PALETTE, style
from downstream.results.analysis_record import FigureRecord

INK, PAPER = "#1d2229", "#ffffff"
FRAME = "#d73027"
GEOMETRIES = {"sphere": PALETTE[0], "ball": PALETTE[1], "mixed": PALETTE[2]}
"""The color of each geometry, in all figures."""

_DPI = 160
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class NamedFigure:
    """A figure before it is written.

    Attributes:
        name: of its files.
        caption: what it shows and how to read it.
        figure: of matplotlib.
    """

    name: str
    caption: str
    figure: Any


def figure_style() -> AbstractContextManager[None]:
    """Figures of an analysis are made, and written, within it."""
    return style(INK, PAPER)


def canvas(width: float = 5.2, height: float = 3.4) -> tuple[Any, Any]:
    """A figure with one pair of axes, in inches."""
    figure, (axes,) = panels(1, width, height)
    return figure, axes


def panels(count: int, width: float = 8.2, height: float = 3.6) -> tuple[Any, list[Any]]:
    """A figure with pairs of axes side by side, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    listed = [figure.add_subplot(1, count, place + 1) for place in range(count)]
    for axes in listed:
        axes.grid(True, color=INK, alpha=0.15, lw=0.5)
        axes.set_axisbelow(True)
    return figure, listed


def logarithmic(axis: Any) -> None:
    """Make an axis of a plot logarithmic, its ticks as text: names may hold what reads as TeX."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_formatter(lambda value, _: power(value))
    axis.set_minor_formatter(NullFormatter())


def power(value: float) -> str:
    """A tick of a logarithmic axis."""
    if 1e-2 <= value < 1e4:
        return f"{value:g}"
    exponent = math.log10(value)
    if abs(exponent - round(exponent)) > 1e-9:
        return f"{value:g}"
    return "10" + str(round(exponent)).translate(_SUPERSCRIPT)


def line(number: int) -> str:
    """Line style with this number."""
    return LINES[number % len(LINES)]


def brief(name: str) -> str:
    """A run's name for a legend, its middle left out: runs of one study differ at the end."""
    return name if len(name) <= 28 else f"{name[:13]}…{name[-14:]}"


def whole_numbers(axis: Any) -> None:
    """Ticks at whole numbers only."""
    axis.set_major_locator(MaxNLocator(integer=True))


def save(drawn: NamedFigure, folder: Path) -> FigureRecord:
    """Write ``NAME.png`` and ``NAME.svg``."""
    png, svg = f"{drawn.name}.png", f"{drawn.name}.svg"
    with figure_style():
        FigureCanvasSVG(drawn.figure).print_svg(folder / svg, metadata={"Date": None})
        drawn.figure.set_dpi(_DPI)
        FigureCanvasAgg(drawn.figure).print_png(folder / png, metadata={"Software": None})
    return FigureRecord(name=drawn.name, caption=drawn.caption, png=png, svg=svg)
