"""What saved detections tell beyond the numbers in the results: intervals, differences, curves."""

from __future__ import annotations

import itertools
import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from downstream.compare.bootstrap import sampled
from downstream.compare.matches import match
from downstream.detection.coco.backends import available
from downstream.detection.coco.evaluate import KINDS, METRICS, evaluate
from downstream.results.collect import Collection, ResultFile
from downstream.results.protocols import metric_of
from downstream.results.resampling import (
    Array,
    Difference,
    average,
    difference,
    holm,
    interval,
    weights_of,
)
from downstream.results.table import FLOOR
from downstream.results.text_table import MISSING, Cell, Sheet
from pretrain.core.errors import InputError
from pretrain.core.files import sha256

MEASURES = ("AP", "AP50", "AP75")
NAMES = {"bbox": "box", "segm": "mask"}
METRIC_NAMES = {"voc07": "VOC 2007", "voc": "VOC since 2010", "lvis": "LVIS"}
# Beyond this many rows each is compared with the first alone.
ALL_PAIRS = 4
ALPHA = 0.05
"""Largest corrected p-value of a difference that is shown in bold."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Pair:
    """Two rows compared.

    Attributes:
        first: row.
        second: row.
        kind: ``bbox`` or ``segm``.
        differences: by measure, the first row's value less the second's.
        tested: measures of which one value at least reaches ``table.FLOOR``.
    """

    first: str
    second: str
    kind: str
    differences: dict[str, Difference]
    tested: tuple[str, ...]


@dataclass
class Analysis:
    """Of all results with saved detections.

    Attributes:
        intervals: 95 % interval of AP by (row, ``bbox/AP``), over draws of the images.
        pairs: the comparisons.
        curves: (101,) mean precision at recalls 0 to 1, by (row, kind, IoU in percent).
        categories: AP in percent by (row, kind) and category name, mean over seeds.
        notes: why something is not here.
    """

    intervals: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)
    curves: dict[tuple[str, str, int], Array] = field(default_factory=dict)
    categories: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _SavedDetections:
    """A result, its detections, and the annotations they are of, with their sha256."""

    measured: ResultFile
    detections: Path
    annotations: Path
    digest: str


def analyze(
    found: Collection,
    *,
    annotations: Path | None = None,
    resamples: int = 2000,
    seed: int = 0,
    say: Say = print,
) -> Analysis:
    """Evaluate and compare the saved detections.

    Rows are compared where they were tested on the same annotations, wherever the file lies;
    several seeds of a row are averaged within each draw of the images.

    Args:
        found: the results.
        annotations: of the test set; None takes the file that each result names.
        resamples: draws of the images; 0 leaves intervals and comparisons out.
        seed: of the draws.
        say: told what takes long.

    Raises:
        InputError: ``annotations`` or saved detections are unusable.
    """
    analysis = Analysis(categories=_saved_categories(found))
    if "pycocotools" not in available():
        analysis.notes.append("no intervals and curves: pycocotools is missing; pip install it")
        return analysis
    sets: dict[str, list[_SavedDetections]] = {}
    detections = [m for m in found.results if m.result.task == "detection"]
    others = {m.row: metric for m in detections if (metric := metric_of(m)) != "coco"}
    for row, metric in others.items():
        analysis.notes.append(
            f"{row}: no intervals, comparisons and precision curves, which are of COCO's AP; this "
            f"is AP by the metric of {METRIC_NAMES.get(metric, metric)}, which matches otherwise"
        )
    for measured in detections:
        if metric_of(measured) == "coco" and (
            saved := _saved(measured, annotations, analysis.notes)
        ):
            sets.setdefault(saved.digest, []).append(saved)
    for kind in KINDS:
        for group in sets.values():
            rows: dict[str, list[_SavedDetections]] = {}
            for saved in group:
                if f"{kind}/AP" in saved.measured.result.metrics:
                    rows.setdefault(saved.measured.row, []).append(saved)
            for row, members in rows.items():
                _measure(analysis, row, kind, members)
            if resamples and rows:
                same = group[0].annotations
                _resample(analysis, same, kind, rows, draws=(resamples, seed), say=say)
    return analysis


def _saved_categories(found: Collection) -> dict[tuple[str, str], dict[str, float]]:
    """AP by category as the results have it, by their own metric; mean over seeds."""
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for measured in found.results:
        saved = measured.result.artifacts.get("by_category")
        if measured.result.task != "detection" or not isinstance(saved, dict):
            continue
        for kind in KINDS:
            single = saved.get(kind)
            for name, value in single.items() if isinstance(single, dict) else ():
                if isinstance(value, int | float) and math.isfinite(value):
                    values.setdefault((measured.row, kind), {}).setdefault(name, []).append(value)
    return {
        key: {name: statistics.fmean(listed) for name, listed in by_name.items()}
        for key, by_name in values.items()
    }


def _saved(measured: ResultFile, given: Path | None, notes: list[str]) -> _SavedDetections | None:
    result = measured.result
    detections = measured.artifact(result.artifacts.get("results"))
    if detections is None:
        notes.append(f"{measured.folder}: no saved detections, so no intervals of {measured.row}")
        return None
    val = result.provenance.get("val")
    said = val.get("annotations") if isinstance(val, dict) else None
    file = given or (Path(said) if isinstance(said, str) else None)
    if file is None or not file.is_file():
        if given is not None:
            raise InputError(f"--annotations {given}: no such file")
        notes.append(
            f"{measured.folder}: its annotations {said} are not here, so no intervals of "
            f"{measured.row}; give them with --annotations"
        )
        return None
    expected, digest = result.protocol.get("val_annotations_sha256"), sha256(file)
    if expected is not None and digest != expected:
        notes.append(
            f"{file}: not the annotations that {measured.folder} was measured on (its sha256 "
            f"differs), so no intervals of {measured.row}"
        )
        return None
    return _SavedDetections(measured, detections, file.resolve(), digest)


def _measure(analysis: Analysis, row: str, kind: str, members: list[_SavedDetections]) -> None:
    """Curves and AP by category, mean over seeds; the result's own AP is checked."""
    curves: dict[int, list[Array]] = {50: [], 75: []}
    categories: dict[str, list[float]] = {}
    for saved in members:
        scores = evaluate(saved.annotations, saved.detections, (kind,))[kind]
        for percent, place in ((50, 0), (75, 5)):
            table = scores.precision[place, :, :, 0]
            table = table[:, (table > -1).all(axis=0)]
            if table.size:
                curves[percent].append(table.mean(axis=1))
        for name, value in scores.by_category.items():
            categories.setdefault(name, []).append(value)
        for name in METRICS:
            said = saved.measured.result.metrics.get(f"{kind}/{name}")
            again = scores.metrics.get(name)
            if said is not None and again is not None and abs(said - again) > 1e-4:
                analysis.notes.append(
                    f"{saved.measured.folder}: {kind}/{name} is {said:.4f} in the result and "
                    f"{again:.4f} by its saved detections"
                )
                break
    for percent, listed in curves.items():
        if listed:
            analysis.curves[row, kind, percent] = np.mean(listed, axis=0)
    analysis.categories[row, kind] = {
        name: float(np.mean(values)) for name, values in categories.items()
    }


def _resample(
    analysis: Analysis,
    annotations: Path,
    kind: str,
    rows: dict[str, list[_SavedDetections]],
    *,
    draws: tuple[int, int],
    say: Say,
) -> None:
    """Intervals of every row, and the comparisons."""
    samples: dict[str, dict[str, Array]] = {}
    weights: npt.NDArray[np.int32] | None = None
    for row, members in rows.items():
        listed = []
        for saved in members:
            say(f"drawing the images again: {NAMES[kind]} AP of {saved.measured.folder}")
            matches = match(annotations, saved.detections, kind)
            if weights is None:
                weights = weights_of(len(matches.images), *draws)
            listed.append(sampled(matches, weights, MEASURES, threads=os.cpu_count() or 1))
        samples[row] = average(listed)
        for name, values in samples[row].items():
            if np.isfinite(values[1:]).any():
                analysis.intervals[row, f"{kind}/{name}"] = interval(values)
    for first, second in pairs_of(list(samples)):
        # The later row less the earlier: baselines are usually named first.
        sides = samples[second], samples[first]
        compared = {m: difference(sides[0][m], sides[1][m]) for m in MEASURES}
        tested = tuple(m for m in MEASURES if max(side[m][0] for side in sides) >= FLOOR)
        analysis.pairs.append(Pair(second, first, kind, compared, tested))


def pairs_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """Which rows are compared, the earlier first: all, or of many each with the first."""
    if len(names) <= ALL_PAIRS:
        return list(itertools.combinations(names, 2))
    return [(names[0], name) for name in names[1:]]


def corrected(analysis: Analysis) -> list[dict[str, float]]:
    """Of each pair the p-values by measure, corrected for all tests of the analysis (Holm)."""
    places = [(n, name) for n, pair in enumerate(analysis.pairs) for name in pair.tested]
    values = holm([analysis.pairs[n].differences[name].p for n, name in places])
    found: list[dict[str, float]] = [{} for _ in analysis.pairs]
    for (n, name), p in zip(places, values, strict=True):
        found[n][name] = p
    return found


def significance(analysis: Analysis) -> Sheet | None:
    """The table of comparisons; None where there is none."""
    if not analysis.pairs:
        return None
    rows = []
    probabilities = corrected(analysis)
    for pair, by_measure in zip(analysis.pairs, probabilities, strict=True):
        cells = []
        for name in MEASURES:
            d, p = pair.differences[name], by_measure.get(name)
            text = f"{d.value:+.2f} [{d.low:+.2f}, {d.high:+.2f}]"
            cells.append(Cell(text, best=p is not None and p < ALPHA))
            shown = MISSING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
            cells.append(Cell(shown))
        rows.append((f"{pair.first} less {pair.second}, {NAMES[pair.kind]}", cells))
    tests = sum(map(len, probabilities))
    draws = min(d.resamples for pair in analysis.pairs for d in pair.differences.values())
    # The least p-value of a bootstrap is 2 / (draws + 1): with fewer draws none is below ``ALPHA``.
    needed = round(2 * tests / ALPHA)
    return Sheet(
        "Differences of AP",
        ["runs", *(text for name in MEASURES for text in (name, "p"))],
        rows,
        [
            f"Paired bootstrap over test images, {draws} draws: difference, its 95 % interval and "
            f"two-sided p-value, corrected for the {tests} tests of this table (Holm); bold where "
            f"it is below {ALPHA:g}. Where both values are below {FLOOR:g} there is no test "
            f"({MISSING}). Seeds of a row are averaged. It says what other test images would have "
            "given with these weights, nothing about other seeds of training."
        ],
        [f"{draws} draws are too few for {tests} tests; give --resamples {needed} or more"]
        * (draws < needed),
    )
