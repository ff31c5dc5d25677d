"""The look of the figures, and their files: the same figure gives the same bytes."""

from __future__ import annotations

import base64
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from downstream.analysis.record import FigureRecord
from downstream.compare.pictures import inline
from downstream.compare.plots import LINES, PALETTE

INK, PAPER = "#1d2229", "#ffffff"
FRAME = "#d73027"
GEOMETRIES = {"sphere": PALETTE[0], "ball": PALETTE[1], "mixed": PALETTE[2]}
"""The colour of each geometry, in all figures."""

_DPI = 160
_STYLE = {
    "svg.fonttype": "path",
    "svg.hashsalt": "hcl",
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.parse_math": False,
}

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

# A larger picture goes into pages as JPEG.
_VECTOR_BYTES = 2**19


@dataclass(frozen=True)
class Drawn:
    """A figure before it is written.

    Attributes:
        name: of its files.
        caption: what it shows and how to read it.
        figure: of matplotlib.
    """

    name: str
    caption: str
    figure: Any


@contextmanager
def style() -> Iterator[None]:
    """Figures are made, and written, within it."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the page has it in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def canvas(width: float = 5.2, height: float = 3.4) -> tuple[Any, Any]:
    """A figure with one pair of axes, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(True, color=INK, alpha=0.15, lw=0.5)
    axes.set_axisbelow(True)
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


def colour(number: int) -> str:
    """Of the run with this number."""
    return PALETTE[number % len(PALETTE)]


def line(number: int) -> str:
    """Line style with this number."""
    return LINES[number % len(LINES)]


def brief(name: str, length: int = 28) -> str:
    """A run's name for a legend, its middle left out: runs of one study differ at the end."""
    half = length // 2
    return name if len(name) <= length else f"{name[: half - 1]}…{name[-half:]}"


def whole_numbers(axis: Any) -> None:
    """Ticks at whole numbers only."""
    axis.set_major_locator(MaxNLocator(integer=True))


def save(drawn: Drawn, folder: Path) -> FigureRecord:
    """Write ``NAME.png`` and ``NAME.svg``."""
    png, svg = f"{drawn.name}.png", f"{drawn.name}.svg"
    with style():
        FigureCanvasSVG(drawn.figure).print_svg(folder / svg, metadata={"Date": None})
        drawn.figure.set_dpi(_DPI)
        FigureCanvasAgg(drawn.figure).print_png(folder / png, metadata={"Software": None})
    return FigureRecord(name=drawn.name, caption=drawn.caption, png=png, svg=svg)


def embedded(record: FigureRecord, folder: Path) -> str | None:
    """The figure as a data URI: the SVG, or where that is large or missing the PNG as JPEG.

    Only files inside the folder are taken; None where there is none.
    """
    svg, png = (_inside(folder, name) for name in (record.svg, record.png))
    if svg is not None and svg.stat().st_size <= _VECTOR_BYTES:
        data = base64.b64encode(svg.read_bytes()).decode("ascii")
        return f"data:image/svg+xml;base64,{data}"
    picture = None if png is None else inline([png], _VECTOR_BYTES).get(png)
    return None if picture is None else picture.uri


def _inside(folder: Path, name: str) -> Path | None:
    path = (folder / name).resolve()
    return path if path.is_relative_to(folder.resolve()) and path.is_file() else None
