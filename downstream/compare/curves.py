"""Plots made of saved detections: precision over recall, and differences by category."""

from __future__ import annotations

import numpy as np

from downstream.compare.analysis import NAMES, Analysis
from downstream.compare.collect import Collection
from downstream.compare.figures import Figure
from downstream.compare.plots import Line, colour_of, difference_plot, line_plot, style_of
from downstream.detection.evaluate import KINDS

# Of many categories those that differ most, on either side.
_MOST = 12
_RECALLS = list(range(101))


def precision_figures(found: Collection, analysis: Analysis) -> list[Figure]:
    """Precision over recall at IoU 0.50 and 0.75, all runs in one plot each."""
    figures = []
    for kind in KINDS:
        for percent in (50, 75):
            caption = f"{NAMES[kind].capitalize()} precision at IoU 0.{percent}, mean of categories"
            lines, told = [], []
            for number, row in enumerate(found.names):
                curve = analysis.curves.get((row, kind, percent))
                if curve is not None:
                    values = (100 * curve).tolist()
                    lines.append(Line(colour_of(number), (_RECALLS, values), style_of(number)))
                    told.append(f"{row} area {np.mean(values):.1f}")
            if lines:
                alt = f"{caption}: {'; '.join(told)}"
                svg = line_plot(
                    f"pr-{kind}-{percent}", alt, lines, "precision, %", x_label="recall, %"
                )
                figures.append(Figure(caption, svg))
    return figures


def category_figures(found: Collection, analysis: Analysis) -> list[Figure]:
    """AP by category of every compared pair, the largest differences first."""
    figures = []
    for number, pair in enumerate(analysis.pairs):
        first = analysis.categories.get((pair.first, pair.kind), {})
        second = analysis.categories.get((pair.second, pair.kind), {})
        values = {name: first[name] - second[name] for name in first if name in second}
        if not values:
            continue
        ranked = sorted(values, key=lambda name: -abs(values[name]))[:_MOST]
        ranked.sort(key=lambda name: -values[name])
        which = f", the {_MOST} largest of {len(values)}" if len(values) > _MOST else ""
        caption = f"{pair.first} less {pair.second}, {NAMES[pair.kind]} AP{which}"
        told = "; ".join(f"{name} {values[name]:+.1f}" for name in ranked)
        colours = [
            colour_of(found.names.index(pair.first if values[name] >= 0 else pair.second))
            for name in ranked
        ]
        svg = difference_plot(
            f"category-{number}",
            f"{caption}: {told}",
            [(name, values[name], colour) for name, colour in zip(ranked, colours, strict=True)],
            x_label="difference of AP; colour of the better run",
        )
        figures.append(Figure(caption, svg))
    return figures
