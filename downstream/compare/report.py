"""One self-contained page: no script, no file beside it, nothing fetched."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from downstream.compare import curves, figures
from downstream.compare.figures import Figure, RunPicture, ShownAnalysis
from downstream.compare.plots import swatch_of
from downstream.compare.significance import Analysis
from downstream.figures.pages import inline, render_template
from downstream.results.collect import Collection, Pretraining, ResultFile
from downstream.results.table import flatten, sheet, value_of
from downstream.results.text_table import MISSING, Sheet
from pretrain import __version__

DETECTIONS = 4
SHEETS = 2


def render(
    found: Collection,
    title: str,
    analysis: Analysis | None = None,
    sheets: Sequence[Sheet] = (),
    analyses: Sequence[ShownAnalysis] = (),
) -> str:
    """The report as HTML. Every text in it is escaped by the template engine.

    Args:
        found: what to show.
        title: heading.
        analysis: of the saved detections.
        sheets: tables beside the first: published rows, differences, cost.
        analyses: of `hcl analyze`, beside the runs.
    """
    analysis = analysis or Analysis()
    first = sheet(found)
    views = figures.views(found)
    detections = figures.artifacts(found, "detection", "detections", DETECTIONS)
    neighbors = figures.artifacts(found, "retrieval", "neighbours", SHEETS)
    pictures = inline([shown.path for shown in (*views, *detections, *neighbors)])

    def by_run(listed: list[RunPicture]) -> list[tuple[str, list[tuple[RunPicture, Any]]]]:
        groups: dict[str, list[tuple[RunPicture, Any]]] = {}
        for shown in listed:
            if shown.path in pictures:
                groups.setdefault(shown.run, []).append((shown, pictures[shown.path]))
        return list(groups.items())

    def by_image(listed: list[RunPicture]) -> list[tuple[str, list[tuple[RunPicture, Any]]]]:
        """The same image by all runs, side by side."""
        groups: dict[str, list[tuple[RunPicture, Any]]] = {}
        for shown in listed:
            groups.setdefault(shown.caption, []).append((shown, pictures[shown.path]))
        # Images that several runs have in common come first.
        return sorted(groups.items(), key=lambda group: -len(group[1]))

    return render_template(
        "downstream.compare",
        "report.html.j2",
        title=title,
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        version=__version__,
        colors={name: swatch_of(number) for number, name in enumerate(found.names)},
        first=first,
        sheets=sheets,
        notes=analysis.notes,
        training=[_training(run) for run in found.runs],
        losses=_safe(figures.loss_figures(found)),
        detection=_safe(figures.detection_figures(found, analysis)),
        detectors=_safe(curves.training_figures(found)),
        precision=_safe(curves.precision_figures(found, analysis)),
        categories=_safe(curves.category_figures(found, analysis)),
        retrieval=_safe(figures.retrieval_figures(found)),
        norms=_safe(figures.norm_figures(found)),
        analyses=analyses,
        views=by_run(views),
        detections=by_image([shown for shown in detections if shown.path in pictures]),
        neighbors=by_run(neighbors),
        metrics=_all_metrics(found),
        names=found.names,
        results=[_provenance(measured) for measured in found.results],
        runs=[_run_provenance(run) for run in found.runs],
    )


def _safe(plots: list[Figure]) -> list[tuple[str, Markup, tuple[str, ...]]]:
    # The SVG is our own and its labels are escaped where it is made.
    return [(plot.caption, Markup(plot.svg), plot.rows) for plot in plots]


def _training(run: Pretraining) -> dict[str, str]:
    """A line of the table of training runs."""

    def last(metric: str) -> str:
        values = run.curves.get(metric, ([], []))[1]
        # The mean of the last tenth: a single step is noise.
        return f"{statistics.fmean(values[-(len(values) // 10 + 1) :]):.4g}" if values else MISSING

    def median(metric: str, factor: float, unit: str) -> str:
        values = run.curves.get(metric, ([], []))[1]
        if not values:
            return MISSING
        middle = statistics.median(values) * factor
        return f"{middle:.0f}{unit}" if middle >= 100 else f"{middle:.3g}{unit}"

    record = run.record
    return {
        "row": run.name,
        "name": str(record.get("name") or run.folder.resolve().name),
        "method": str(record.get("method") or record.get("task") or MISSING),
        "steps": f"{record.get('step', MISSING)} of {record.get('total_steps', MISSING)}",
        "state": str(record.get("state", MISSING)),
        "loss": last("loss"),
        "speed": median("images_per_s", 1, ""),
        "wait": median("data_wait", 100, " %"),
    }


def _all_metrics(found: Collection) -> list[tuple[str, str, list[str]]]:
    """Every metric of every run, in the units of the result files."""
    keys: dict[tuple[str, str], None] = {}
    for measured in found.results:
        keys |= dict.fromkeys((measured.result.task, m) for m in measured.result.metrics)
    lines = []
    for task, metric in keys:
        values = [value_of(found, name, task, metric) for name in found.names]
        lines.append((task, metric, [MISSING if v is None else v.text(4) for v in values]))
    return lines


def _provenance(measured: ResultFile) -> dict[str, Any]:
    result = measured.result
    return {
        "name": measured.row,
        "task": result.task,
        "folder": str(measured.folder),
        "facts": list(flatten(result.provenance).items()),
        "protocol": list(flatten(result.protocol).items()),
    }


def _run_provenance(run: Pretraining) -> dict[str, Any]:
    record = dict(run.record)
    facts: dict[str, str] = {}
    for number, start in enumerate(record.pop("starts", None) or [], 1):
        if isinstance(start, dict):
            told = flatten(start)
            facts[f"start {number}"] = f"{told.get('time')}: {told.get('command')}"
    facts |= flatten(record)
    if run.damaged_lines:
        facts["unreadable lines of metrics.jsonl"] = str(run.damaged_lines)
    return {
        "name": run.name,
        "task": run.task,
        "folder": str(run.folder),
        "facts": list(facts.items()),
        "config": run.config,
    }
