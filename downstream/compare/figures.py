"""Which plots and pictures the report shows of what was found."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from downstream.compare.plots import Bar, Group, Line, bar_plot, line_plot, style_of
from downstream.compare.retrieval import known_ks
from downstream.compare.significance import Analysis
from downstream.figures.pages import embedded
from downstream.figures.style import color_of
from downstream.results.analysis_record import (
    FILE_NAME,
    AnalysisRecord,
    FigureRecord,
    read_record,
)
from downstream.results.collect import Collection, Curve
from downstream.results.table import SPACES, value_of

ONE_ENCODER = "hyperbolic/key/distance"
"""Logged by runs that compare objects and scenes by one encoder.

In runs of earlier versions ``norm/object`` was the momentum encoder's and ``norm/scene`` the query
encoder's; they are not drawn.
"""


@dataclass(frozen=True)
class Figure:
    """An SVG element, its caption, and the rows drawn in it."""

    caption: str
    svg: str
    rows: tuple[str, ...]


BUDGET = 8 * 2**20
"""Characters of all figures of analyses together; what goes beyond is named, not shown."""


class ShownAnalysis(NamedTuple):
    """An analysis of `hcl analyze`, with its figures as data URIs."""

    record: AnalysisRecord
    folder: Path
    figures: list[tuple[FigureRecord, str]]
    left_out: list[str]


@dataclass(frozen=True)
class RunPicture:
    """A picture file of a run and what it shows."""

    run: str
    caption: str
    path: Path


def loss_figures(found: Collection) -> list[Figure]:
    """The total loss and every term, all runs in one plot each."""
    logged = {name for run in found.runs for name in run.curves}
    first = ["loss", "loss/euclidean", "loss/hyperbolic"]
    terms = sorted(name for name in logged if name.startswith("loss/") and name not in first)
    figures = []
    for metric in [*(name for name in first if name in logged), *terms]:
        caption = "Total loss" if metric == "loss" else f"{metric.removeprefix('loss/')} term"
        figures += _curves(found, caption.capitalize(), "loss", [(metric, "")])
    return figures


def detection_figures(found: Collection, analysis: Analysis) -> list[Figure]:
    """Box and mask AP, grouped by run; whiskers where they were drawn or there are seeds."""

    def whiskers(found: Collection, name: str, metric: str) -> tuple[float, float]:
        value = value_of(found, name, "detection", metric)
        assert value is not None
        if (name, metric) not in analysis.intervals:
            return value.deviation or 0.0, value.deviation or 0.0
        low, high = analysis.intervals[name, metric]
        return max(value.mean - low, 0.0), max(high - value.mean, 0.0)

    kind_of = (
        "95 % intervals over test images" if analysis.intervals else "deviation over seeds, if any"
    )
    figures = []
    for caption, kind in (("Box AP", "bbox"), ("Mask AP", "segm")):
        quantities = [(name, f"{kind}/{name}") for name in ("AP", "AP50", "AP75")]
        figures += _bars(
            found,
            f"{caption}; whiskers: {kind_of}",
            "detection",
            quantities,
            x_label="average precision, %",
            whiskers=whiskers,
            digits=2,
        )
    return figures


def retrieval_figures(found: Collection) -> list[Figure]:
    """Recall@K for every K that was measured, grouped by run."""
    # Chance is known for K = 1 alone, and depends on the set of objects.
    chances = {
        m.result.metrics["recall/chance@1"]
        for m in found.results
        if "recall/chance@1" in m.result.metrics
    }
    figures = []
    seeds = any(len(found.of(name, "retrieval")) > 1 for name in found.names)
    for k in known_ks(found):
        reference = ("chance", 100 * min(chances)) if k == 1 and len(chances) == 1 else None
        figures += _bars(
            found,
            f"Recall@{k}" + "; whiskers: deviation over seeds" * seeds,
            "retrieval",
            [(label, f"recall/{space}@{k}") for space, label in SPACES.items()],
            x_label=f"recall@{k}, %",
            scale=100,
            reference=reference,
        )
    return figures


def norm_figures(found: Collection) -> list[Figure]:
    """Distances from the center of the ball, in training and after it, each from one encoder."""
    compared = [run for run in found.runs if ONE_ENCODER in run.curves]
    training = _curves(
        replace(found, runs=compared),
        "During pretraining, query encoder in evaluation mode, batch means",
        "distance from the center",
        [("norm/object", "objects"), ("norm/scene", "scenes")],
    )
    after = _bars(
        found,
        "After pretraining, on the retrieval set; whiskers: 10th to 90th percentile",
        "retrieval",
        [("objects", "norm/object"), ("scenes", "norm/scene")],
        x_label="mean distance from the center",
        whiskers=_quantiles,
        digits=2,
    )
    return [*training, *after]


def views(found: Collection) -> list[RunPicture]:
    """The training views of every row's first run that has a picture of them."""
    shown: dict[str, RunPicture] = {}
    for run in found.runs:
        if run.views is not None:
            one = RunPicture(run.name, "Training views, one image a row", run.views)
            shown.setdefault(run.name, one)
    return list(shown.values())


def artifacts(found: Collection, task: str, key: str, most: int) -> list[RunPicture]:
    """The first pictures under ``key`` of every run's first result that has any.

    Files outside the result's folder are not shown, whatever the result says.
    """
    shown = []
    for name in found.names:
        for measured in found.of(name, task):
            listed: Any = measured.result.artifacts.get(key)
            paths = [
                path for entry in listed or () if (path := measured.artifact(entry)) is not None
            ]
            if paths:
                shown += [
                    RunPicture(name, path.stem.replace("_", " ").capitalize(), path)
                    for path in paths[:most]
                ]
                break
    return shown


def analyses(items: Sequence[Path]) -> list[ShownAnalysis]:
    """Every analysis of `hcl analyze` in folders, at any depth; what is reached twice counts once.

    Raises:
        InputError: an ``analysis.json`` cannot be read.
    """
    found: dict[Path, Path] = {}
    for item in items:
        for path in sorted(item.rglob(FILE_NAME)) if item.is_dir() else ():
            found.setdefault(path.resolve(), path)
    shown = []
    room = BUDGET
    for path in found.values():
        record, folder = read_record(path), path.parent
        shown.append(ShownAnalysis(record, folder, [], []))
        for figure in record.figures:
            uri = embedded(figure, folder)
            if uri is None or len(uri) > room:
                shown[-1].left_out.append(figure.name)
                continue
            room -= len(uri)
            shown[-1].figures.append((figure, uri))
    return shown


def _curves(
    found: Collection, caption: str, y_label: str, metrics: Sequence[tuple[str, str]]
) -> list[Figure]:
    """Logged values of all runs in one plot."""
    quantities = [
        ([(run.name, run.curves[metric]) for run in found.runs if metric in run.curves], label)
        for metric, label in metrics
    ]
    return seed_curves(found, caption, y_label, quantities)


def seed_curves(
    found: Collection,
    caption: str,
    y_label: str,
    quantities: Sequence[tuple[Sequence[tuple[str, Curve]], str]],
    x_label: str = "step",
) -> list[Figure]:
    """One plot: a row's seeds as thin lines and their mean as a thick one; none without curves.

    Args:
        found: for the colors.
        caption: of the plot.
        y_label: of the axis.
        quantities: rows with their curves, and a label; a second quantity is dotted.
        x_label: of the axis.
    """
    thin, thick, told = [], [], []
    several = False
    for place, (curves, label) in enumerate(quantities):
        for row in dict.fromkeys(name for name, _ in curves):
            number = found.names.index(row)
            style = ":" if place else style_of(number)
            seeds = [curve for name, curve in curves if name == row]
            mean = _mean(seeds)
            if len(seeds) > 1:
                several = True
                thin += [Line(color_of(number), c, style, width=0.8, alpha=0.6) for c in seeds]
            if mean[0]:
                thick.append(Line(color_of(number), mean, style))
                who = f"{row} {label}".rstrip()
                told.append(f"{who} from {mean[1][0]:.3g} to {mean[1][-1]:.3g}")
    if not thin and not thick:
        return []
    if len(quantities) > 1:
        caption += f" ({quantities[0][1]} solid, {quantities[1][1]} dotted)"
    if several:
        caption += "; thin: seeds, thick: their mean"
    identity = "".join(c if c.isalnum() else "-" for c in f"curve-{caption}")
    alt = f"{caption}: {'; '.join(told)}"
    svg = line_plot(identity, alt, [*thin, *thick], y_label, x_label)
    rows = dict.fromkeys(name for curves, _ in quantities for name, _ in curves)
    return [Figure(caption, svg, tuple(rows))]


def _mean(curves: Sequence[Curve]) -> Curve:
    """Over the steps that all have."""
    tables = [dict(zip(*curve, strict=True)) for curve in curves]
    steps = sorted(set(tables[0]).intersection(*tables[1:]))
    return steps, [statistics.fmean(table[step] for table in tables) for step in steps]


def _bars(
    found: Collection,
    caption: str,
    task: str,
    quantities: Sequence[tuple[str, str]],
    *,
    x_label: str,
    scale: float = 1.0,
    reference: tuple[str, float] | None = None,
    whiskers: Callable[[Collection, str, str], tuple[float, float]] | None = None,
    digits: int = 1,
) -> list[Figure]:
    """One plot of the quantities that some run has; none where no run has any."""
    known = [
        (label, metric)
        for label, metric in quantities
        if any(value_of(found, name, task, metric) is not None for name in found.names)
    ]
    groups, told = [], []
    for number, name in enumerate(found.names):
        bars: list[Bar | None] = []
        for label, metric in known:
            value = value_of(found, name, task, metric)
            if value is None:
                bars.append(None)
                continue
            spread = value.deviation or 0.0
            low, high = whiskers(found, name, metric) if whiskers else (spread, spread)
            bars.append(Bar(value.mean * scale, low * scale, high * scale))
            told.append(f"{name} {label} {value.mean * scale:.{digits}f}")
        if any(bar is not None for bar in bars):
            groups.append(Group(name, color_of(number), bars))
    if not groups:
        return []
    identity = "".join(c if c.isalnum() else "-" for c in f"bars-{known[0][1]}")
    svg = bar_plot(
        identity,
        f"{caption}: {'; '.join(told)}",
        groups,
        [label for label, _ in known],
        x_label=x_label,
        reference=reference,
        digits=digits,
    )
    return [Figure(caption, svg, tuple(group.name for group in groups))]


def _quantiles(found: Collection, name: str, metric: str) -> tuple[float, float]:
    """How far the 10th and the 90th percentile lie from the mean."""
    mean = value_of(found, name, "retrieval", metric)
    low = value_of(found, name, "retrieval", f"{metric}/q10")
    high = value_of(found, name, "retrieval", f"{metric}/q90")
    if mean is None or low is None or high is None:
        return 0.0, 0.0
    return max(mean.mean - low.mean, 0.0), max(high.mean - mean.mean, 0.0)
