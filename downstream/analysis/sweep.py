"""``hcl analyze sweep``: a metric of finished runs over one of their settings."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from downstream.analysis import draw
from downstream.analysis.findings import Findings
from downstream.analysis.finished_run import OWN_TEMPERATURE, FinishedRun, read_finished
from downstream.analysis.options import SweepOptions
from downstream.figures.style import color_of
from pretrain.core.errors import InputError


@dataclass(frozen=True)
class Point:
    """The runs of one value of the setting.

    Attributes:
        line: value of ``--by``, or empty.
        metric: name, as asked for.
        value: of the setting.
        results: of its runs.
    """

    line: str
    metric: str
    value: Any
    results: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over runs."""
        return statistics.fmean(self.results)

    @property
    def deviation(self) -> float | None:
        """Over runs, of the sample (n - 1); None for a single run."""
        return statistics.stdev(self.results) if len(self.results) > 1 else None


def analyze(options: SweepOptions) -> Findings:
    """Group finished runs by a setting, and draw a metric over it.

    Raises:
        InputError: runs that are not finished, have no such setting or metric, or differ in
            something else.
    """
    runs = [read_finished(path) for path in options.runs]
    seen: dict[str, str] = {}
    for source in (run.source for run in runs):
        if source.sha256 in seen:
            # As two seeds it would have no deviation.
            before = seen[source.sha256]
            raise InputError(f"{source.path}: the same result as {before}; name each run once")
        seen[source.sha256] = source.path
    points = group(runs, options.over, options.metric, options.by)
    check_alike(
        runs,
        varied=[options.over, *([options.by] if options.by else [])],
        allowed=options.allow,
    )
    values: dict[str, Any] = {"runs": len(runs)}
    for point in points:
        name = " / ".join(part for part in (point.line, point.metric) if part)
        values.setdefault(name, {})[f"{options.over} = {point.value}"] = {
            "mean": point.mean,
            **({} if point.deviation is None else {"deviation": point.deviation}),
            "runs": len(point.results),
        }
    return Findings(
        title=f"{', '.join(options.metric)} over {options.over}",
        sources=[run.source for run in runs],
        values=values,
        drawn=[_figure(points, options.over)],
        notes=_notes(points, options),
        warnings=_warnings(points),
    )


def check_alike(
    runs: Sequence[FinishedRun], *, varied: Sequence[str], allowed: Sequence[str]
) -> None:
    """Refuse runs that differ in more than what is varied, their seed, name and folder.

    Raises:
        InputError: naming every such setting with its values.
    """
    free = {*varied, *allowed}
    if OWN_TEMPERATURE in free:
        free |= {"loss.temperature_spherical", "loss.temperature_hyperbolic"}
    # The protocol repeats some settings under their last name.
    repeated = {f"protocol.{key.rpartition('.')[2]}" for key in free}
    acting = [run.acting for run in runs]
    for key in allowed:
        if not any(key in settings for settings in acting):
            raise InputError(f"--allow {key}: no run has a setting '{key}' that acts")
    keys = sorted({key for settings in acting for key in settings} - free - repeated)
    differing = []
    for key in keys:
        # Where a key does not act in some runs, those that it acts in must agree.
        seen = {repr(settings[key]): None for settings in acting if key in settings}
        if len(seen) > 1:
            differing.append(f"{key}: {', '.join(seen)}")
    if differing:
        raise InputError(
            f"the runs differ in more than {' and '.join(varied)}: {'; '.join(differing)}; leave "
            "those runs out, or say --allow KEY"
        )


def group(
    runs: Sequence[FinishedRun], over: str, metrics: Sequence[str], by: str | None
) -> list[Point]:
    """Points in the order of their lines and values.

    Raises:
        InputError: a run has no such setting or metric.
    """
    found: dict[tuple[str, str, str], Point] = {}
    for run in runs:
        line = str(run.setting(by)) if by else ""
        value = run.setting(over)
        for metric in metrics:
            key = (line, metric, repr(value))
            before = found.get(key, Point(line, metric, value, ()))
            found[key] = replace(before, results=(*before.results, run.metric(metric)))
    return sorted(found.values(), key=lambda p: (p.line, metrics.index(p.metric), _order(p.value)))


def _order(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if _is_number(value) else (1, 0.0, str(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _figure(points: Sequence[Point], over: str) -> draw.NamedFigure:
    values = sorted({_order(point.value): point.value for point in points}.items())
    numeric = all(_is_number(value) for _, value in values)
    lines: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        lines.setdefault((point.line, point.metric), []).append(point)
    percent = all(point.metric.startswith(("recall", "map@r", "r-precision")) for point in points)
    scale = 100 if percent else 1
    one_metric = len({metric for _, metric in lines}) == 1
    with draw.figure_style():
        figure, axes = draw.canvas(5.6, 3.6)
        for number, ((line, metric), listed) in enumerate(lines.items()):
            places = [
                float(p.value) if numeric else [v for _, v in values].index(p.value) for p in listed
            ]
            label = line if one_metric else " / ".join(part for part in (line, metric) if part)
            color = draw.GEOMETRIES.get(line, color_of(number)) if one_metric else color_of(number)
            axes.errorbar(
                places,
                [scale * p.mean for p in listed],
                yerr=[scale * (p.deviation or 0.0) for p in listed],
                fmt=("o-" if numeric else "o"),
                color=color,
                lw=1.5,
                ms=4.5,
                capsize=3,
                label=label or None,
            )
            for place, point in zip(places, listed, strict=True):
                results = [scale * value for value in point.results]
                if len(results) > 1:
                    axes.plot(
                        [place] * len(results),
                        results,
                        "o",
                        ms=3,
                        mfc=draw.PAPER,
                        mec=color,
                        zorder=4,
                    )
        if numeric:
            _numeric_axis(axes, [float(value) for _, value in values])
        else:
            axes.set_xticks(range(len(values)), [str(value) for _, value in values])
            axes.margins(x=0.2)
        name = next(metric for _, metric in lines)
        axes.set(
            xlabel=over, ylabel=(name if one_metric else "metric") + (", %" if percent else "")
        )
        if len(lines) > 1:
            figure.legend(loc="outside upper left", ncols=3 if one_metric else 1)
    seeds = max(len(point.results) for point in points)
    spread = " and standard deviation over runs; small dots: the runs" if seeds > 1 else ""
    titles = ", ".join(dict.fromkeys(metric for _, metric in lines))
    return draw.NamedFigure("sweep", f"{titles} over {over}: mean{spread}.", figure)


def _numeric_axis(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic axis where the values span a decade; the measured values are its ticks."""
    wide = min(values) > 0 and max(values) >= 10 * min(values)
    if wide:
        draw.logarithmic(axes.xaxis)
    if len(values) <= 10:
        spans = values if not wide else [math.log(value) for value in values]
        reach = max(spans) - min(spans)
        kept: list[float] = []
        last = -math.inf
        for value, place in zip(values, spans, strict=True):
            # Labels closer than this would overlap.
            if place - last >= 0.07 * reach:
                kept.append(value)
                last = place
        axes.set_xticks(kept, [f"{value:g}" for value in kept])
        axes.set_xticks([], minor=True)


def _notes(points: Sequence[Point], options: SweepOptions) -> list[str]:
    notes = []
    if any("/own@" in metric for metric in options.metric):
        notes.append(
            "'own' is the ranking of the run's own geometry: cosine for the sphere, hyperbolic "
            "distance for the ball, the fused score for the mixture."
        )
    counts = Counter(len(point.results) for point in points)
    told = ", ".join(
        f"{number} with {runs} run{'s' if runs > 1 else ''}"
        for runs, number in sorted(counts.items())
    )
    notes.append(f"Points: {told}. The deviation is that of the sample (n - 1).")
    return notes


def _warnings(points: Sequence[Point]) -> list[str]:
    found = []
    if any(len(point.results) == 1 for point in points):
        found.append("some values have a single run: nothing tells their difference from chance")
    if len({_order(point.value) for point in points}) == 1:
        found.append("all runs have the same value of the setting: there is nothing to compare")
    return found
