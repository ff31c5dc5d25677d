"""Plots of detectors: their training, precision over recall, and differences by category."""

from __future__ import annotations

import numpy as np

from downstream.compare.figures import Figure, seed_curves
from downstream.compare.plots import Line, difference_plot, line_plot, style_of
from downstream.compare.significance import NAMES, Analysis, pairs_of
from downstream.detection.coco.evaluate import KINDS
from downstream.figures.style import color_of
from downstream.results.collect import Collection, read_curves
from downstream.results.protocols import measured_on

# Of many categories those that differ most, on either side.
_MOST = 12
# More pictures of pairs nobody looks at; all numbers are in the results.
_MOST_PAIRS = 12
_RECALLS = list(range(101))


def precision_figures(found: Collection, analysis: Analysis) -> list[Figure]:
    """Precision over recall at IoU 0.50 and 0.75, all runs in one plot each."""
    figures = []
    for kind in KINDS:
        for percent in (50, 75):
            caption = f"{NAMES[kind].capitalize()} precision at IoU 0.{percent}, mean of categories"
            lines, told, rows = [], [], []
            for number, row in enumerate(found.names):
                curve = analysis.curves.get((row, kind, percent))
                if curve is not None:
                    values = (100 * curve).tolist()
                    lines.append(Line(color_of(number), (_RECALLS, values), style_of(number)))
                    told.append(f"{row} area {np.mean(values):.1f}")
                    rows.append(row)
            if lines:
                alt = f"{caption}: {'; '.join(told)}"
                svg = line_plot(
                    f"pr-{kind}-{percent}", alt, lines, "precision, %", x_label="recall, %"
                )
                figures.append(Figure(caption, svg, tuple(rows)))
    return figures


def training_figures(found: Collection) -> list[Figure]:
    """The detectors' loss and AP over their iterations."""
    logged = [
        (measured.row, read_curves(path, "iteration")[0])
        for measured in found.results
        if measured.result.task == "detection"
        and (path := measured.artifact(measured.result.artifacts.get("curve"))) is not None
    ]
    told = (
        ("Detector's training loss", "loss", "total_loss"),
        ("Box AP while the detector trains", "AP, %", "bbox/AP"),
        ("Mask AP while the detector trains", "AP, %", "segm/AP"),
    )
    figures = []
    for caption, label, metric in told:
        curves = [(row, single[metric]) for row, single in logged if metric in single]
        # AP of the end alone is in the table.
        if any(len(steps) > 1 for _, (steps, _) in curves):
            figures += seed_curves(found, caption, label, [(curves, "")], x_label="iteration")
    return figures


def category_figures(found: Collection, analysis: Analysis) -> list[Figure]:
    """AP by category of rows of one test set, the largest differences first."""
    pairs = [
        (second, first, kind)
        for kind in KINDS
        for rows in _of_one_set(found, analysis, kind)
        for first, second in pairs_of(rows)
    ]
    figures = []
    for number, (first_row, second_row, kind) in enumerate(pairs[:_MOST_PAIRS]):
        first = analysis.categories[first_row, kind]
        second = analysis.categories[second_row, kind]
        values = {name: first[name] - second[name] for name in first if name in second}
        if not values:
            continue
        ranked = sorted(values, key=lambda name: -abs(values[name]))[:_MOST]
        # Bars of no length tell nothing, unless there are no others.
        ranked = [name for name in ranked if abs(values[name]) >= 0.05] or ranked
        ranked.sort(key=lambda name: -values[name])
        left_out = len(ranked) < len(values)
        which = f", the {len(ranked)} largest of {len(values)} categories" * left_out
        caption = f"{first_row} less {second_row}, {NAMES[kind]} AP{which}"
        told = "; ".join(f"{name} {values[name]:+.1f}" for name in ranked)
        colors = [
            color_of(found.names.index(first_row if values[name] >= 0 else second_row))
            for name in ranked
        ]
        svg = difference_plot(
            f"category-{number}",
            f"{caption}: {told}",
            [(name, values[name], color) for name, color in zip(ranked, colors, strict=True)],
            x_label="difference of AP; color of the better run",
        )
        figures.append(Figure(caption, svg, (first_row, second_row)))
    return figures


def _of_one_set(found: Collection, analysis: Analysis, kind: str) -> list[list[str]]:
    """Rows that have AP by category, by the test set they were measured on."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for row in found.names:
        if (row, kind) in analysis.categories:
            groups.setdefault(measured_on(found.of(row, "detection")[0]), []).append(row)
    return list(groups.values())
