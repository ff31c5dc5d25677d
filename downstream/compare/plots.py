"""Plots as inline SVG: text as outlines, so they look the same everywhere; no file, no script.

The ink follows the page (``currentColor``), so light and dark both work; the color of a run is
the same in all plots and in the table.
"""

from __future__ import annotations

import html
import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from downstream.figures.style import LINES, PALETTE, color_of, style
from downstream.results.collect import Curve

# Stands for the text color of the page until the SVG is written; no palette color is like it.
_INK = "#010203"
_MAX_POINTS = 300
_LINE = 16
# In inches, which a column of the page stretches by a third: text of 9 pt becomes some 12 px.
_WIDTH = 3.7


@dataclass(frozen=True)
class Line:
    """One curve."""

    color: str
    curve: Curve
    style: str = "-"
    width: float = 1.6
    alpha: float = 1.0


@dataclass(frozen=True)
class Bar:
    """One bar: its length, and how far it may reach to either side."""

    value: float
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True)
class Group:
    """The bars of one run; None where a quantity was not measured."""

    name: str
    color: str
    bars: Sequence[Bar | None]


def swatch_of(number: int) -> str:
    """CSS background of that run's chip: striped where its lines are broken."""
    color = color_of(number)
    if style_of(number) == "-":
        return color
    return f"repeating-linear-gradient(90deg, {color} 0 3px, transparent 3px 5px)"


def style_of(number: int) -> str:
    """Line style that tells apart runs of one color."""
    return LINES[number // len(PALETTE) % len(LINES)]


def line_plot(
    identity: str, alt: str, lines: Sequence[Line], y_label: str, x_label: str = "step"
) -> str:
    """Curves over the training step or another quantity, as an ``<svg>`` element.

    Args:
        identity: prefix of the element's ids, unique in the page.
        alt: what the plot shows, for those who do not see it.
        lines: the curves; long ones are averaged in bins.
        y_label: of the axis.
        x_label: of the axis.
    """
    with style(_INK, "none"):
        figure = Figure(figsize=(_WIDTH, 2.6), layout="constrained")
        axes: Any = figure.add_subplot()
        for line in lines:
            steps, values = thin(line.curve)
            # A single point makes no line.
            marker = "o" if len(steps) == 1 else None
            look = {"color": line.color, "lw": line.width, "alpha": line.alpha}
            axes.plot(steps, values, line.style, marker=marker, ms=4, **look)
        lowest = min((min(line.curve[1]) for line in lines), default=0)
        highest = max((max(line.curve[1]) for line in lines), default=0)
        if lowest > 0 and highest > 50 * lowest:
            axes.set_yscale("log")
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.grid(True, color=_INK, alpha=0.15, lw=0.5)
        return _svg(figure, identity, alt)


def bar_plot(
    identity: str,
    alt: str,
    groups: Sequence[Group],
    quantities: Sequence[str],
    *,
    x_label: str,
    reference: tuple[str, float] | None = None,
    digits: int = 1,
) -> str:
    """Horizontal bars grouped by run, as an ``<svg>`` element.

    Args:
        identity: prefix of the element's ids, unique in the page.
        alt: what the plot shows, for those who do not see it.
        groups: one per run, from the top.
        quantities: what the bars of a group are, from the top.
        x_label: of the axis.
        reference: label and position of a dashed line, such as chance.
        digits: of the numbers at the bars.
    """
    with style(_INK, "none"):
        count = len(quantities)
        figure = Figure(
            figsize=(_WIDTH, 0.95 + (0.19 * count + 0.16) * len(groups)), layout="constrained"
        )
        axes: Any = figure.add_subplot()
        height = 0.84 / count
        shades = np.linspace(1.0, 0.4, count) if count > 1 else [1.0]
        for place, group in enumerate(groups):
            for number, bar in enumerate(group.bars):
                if bar is None:
                    continue
                y = place + (number - (count - 1) / 2) * height
                axes.barh(y, bar.value, height * 0.92, color=group.color, alpha=shades[number])
                if bar.low or bar.high:
                    spread = [[bar.low], [bar.high]]
                    axes.errorbar(bar.value, y, xerr=spread, ecolor=_INK, elinewidth=0.8, capsize=2)
                axes.annotate(
                    f"{bar.value:.{digits}f}",
                    (bar.value + bar.high, y),
                    xytext=(3, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=7.5,
                )
        if reference is not None:
            axes.axvline(reference[1], color=_INK, ls="--", lw=0.8)
        axes.set_ylim(len(groups) - 0.45, -0.55)
        axes.margins(x=0.14)
        axes.set_xlim(left=0)
        _name_rows(axes, [group.name for group in groups], x_label)
        keys: list[Any] = [
            Patch(facecolor=_INK, alpha=0.75 * shade, label=quantity)
            for quantity, shade in zip(quantities, shades, strict=True)
        ]
        if reference is not None:
            keys.append(Line2D([], [], color=_INK, ls="--", lw=0.8, label=reference[0]))
        columns = min(len(keys), 3)
        # A legend fills its columns one by one; it shall read line by line.
        keys = [key for column in range(columns) for key in keys[column::columns]]
        figure.legend(
            handles=keys,
            loc="outside upper left",
            ncols=columns,
            fontsize=8,
            handlelength=1.2,
        )
        return _svg(figure, identity, alt)


def difference_plot(
    identity: str, alt: str, bars: Sequence[tuple[str, float, str]], *, x_label: str
) -> str:
    """Horizontal bars to both sides of zero, as an ``<svg>`` element.

    Args:
        identity: prefix of the element's ids, unique in the page.
        alt: what the plot shows, for those who do not see it.
        bars: name, value and color, from the top.
        x_label: of the axis.
    """
    with style(_INK, "none"):
        figure = Figure(figsize=(_WIDTH, 0.75 + 0.22 * len(bars)), layout="constrained")
        axes: Any = figure.add_subplot()
        for place, (_, value, color) in enumerate(bars):
            axes.barh(place, value, 0.7, color=color)
            axes.annotate(
                f"{value:+.1f}",
                (value, place),
                xytext=(3 if value >= 0 else -3, 0),
                textcoords="offset points",
                ha="left" if value >= 0 else "right",
                va="center",
                fontsize=7.5,
            )
        axes.axvline(0, color=_INK, lw=0.8)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.margins(x=0.2)
        _name_rows(axes, [name for name, _, _ in bars], x_label)
        return _svg(figure, identity, alt)


def thin(curve: Curve) -> tuple[list[float], list[float]]:
    """At most 300 points: means over bins of equally many."""
    steps, values = (np.asarray(part, dtype=float) for part in curve)
    if len(steps) <= _MAX_POINTS:
        return steps.tolist(), values.tolist()
    bins = np.array_split(np.arange(len(steps)), _MAX_POINTS)
    return (
        [float(steps[rows].mean()) for rows in bins],
        [float(values[rows].mean()) for rows in bins],
    )


def _name_rows(axes: Any, names: Sequence[str], x_label: str) -> None:
    """The axes of horizontal bars, one row a name."""
    axes.set_yticks(range(len(names)), [_label(name) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(x_label)
    axes.grid(True, axis="x", color=_INK, alpha=0.15, lw=0.5)
    axes.set_axisbelow(True)


def _label(name: str) -> str:
    """A name that fits beside a bar, in two lines at most."""
    lines = textwrap.wrap(" ".join(name.split()), _LINE)
    if len(lines) > 2:
        lines[1] = lines[1][: _LINE - 1] + "…"
    return "\n".join(lines[:2])


def _svg(figure: Figure, identity: str, alt: str) -> str:
    """The figure as an element: no prolog, comments or metadata, unique ids, the page's ink."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{identity}-", text)
    text = text.replace(_INK, "currentColor")
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    label = html.escape(alt)
    return (
        f'<svg {box[0]} role="img" aria-label="{label}" xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink">{body.rstrip()}'
    )
