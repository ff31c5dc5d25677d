"""``hcl analyze norms``: what the lengths of embeddings say, and whether they say anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downstream.analysis import draw
from downstream.analysis.correlation import correlate
from downstream.analysis.embeddings import RunEmbeddings, Scenes, load_all
from downstream.analysis.findings import Findings
from downstream.analysis.options import NormsOptions
from downstream.figures.style import color_of, short
from downstream.retrieval.spaces import Floats
from pretrain.geometry import poincare

BINS = 60
CLASSES = 24
EQUAL = 1e-4
"""Relative deviation below which norms count as one."""

AT_LIMIT = 0.99
"""Share of clipped or projected points from which a run is warned of."""


@dataclass(frozen=True)
class Norms:
    """Norms of one run's embeddings.

    Attributes:
        name: of the run.
        raw: (N,), of the head's outputs.
        distances: (N,), of the points of the ball from its center; None without a ball.
        limited: share of the points that clipping, or the projection to the ball, holds at the
            largest norm there is; None without a ball.
        labels: (N,), classes.
        classes: their names.
        clip_radius: norm to which the ball's input is clipped.
        scenes: (M,), distances of whole scenes (norms without a ball); None where there are none.
        whole: what is known of the scenes besides.
    """

    name: str
    raw: Floats
    distances: Floats | None
    limited: float | None
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    clip_radius: float | None = None
    scenes: Floats | None = None
    whole: Scenes | None = None

    @property
    def collapsed(self) -> bool:
        """Whether all points of the ball have one norm."""
        d = self.distances
        return d is not None and float(d.std()) <= EQUAL * float(d.mean())

    @property
    def lengths(self) -> Floats:
        """Distances from the center of the ball; without one, norms."""
        return self.raw if self.distances is None else self.distances

    @property
    def shown(self) -> tuple[Floats, str]:
        """Distances from the center where these differ, else norms; and what to call them."""
        if self.distances is None or self.collapsed:
            return self.raw, "norm"
        return self.distances, "distance from the center"


def analyze(options: NormsOptions) -> Findings:
    """Histograms by run, quantiles by class, and norms against the objects of a scene.

    Raises:
        InputError: embeddings that cannot be used.
    """
    runs: list[Norms] = []
    sources = []
    for embedded in load_all(options):
        source = embedded.source
        sources.append(source)
        taken = {each.name for each in runs}
        runs.append(norms_of(embedded, source.path if source.name in taken else source.name))
    drawn = [_histogram("norms", "Norms of the head's outputs", "norm", runs, raw=True)]
    in_ball = [run for run in runs if run.distances is not None]
    if in_ball:
        title = "Distances of embeddings from the center of the ball"
        drawn.append(_histogram("distances", title, "distance from the center", in_ball, raw=False))
    for number, run in enumerate(runs):
        drawn.append(_by_class(f"classes_{number + 1}", run, color_of(number)))
        if run.scenes is not None and len(run.scenes):
            drawn.append(_by_objects(f"objects_{number + 1}", run))
    return Findings(
        title="Norms of embeddings: " + ", ".join(run.name for run in runs),
        sources=sources,
        values={run.name: _values(run) for run in runs},
        drawn=drawn,
        notes=[
            "Where all points of the ball have one norm, their hyperbolic distance is a function "
            "of the cosine, and both geometries rank alike.",
        ],
        warnings=[line for run in runs for line in warnings_of(run)],
    )


def norms_of(run: RunEmbeddings, name: str) -> Norms:
    """Norms, distances from the center and the share of points at the limit."""
    raw = run.projections.norm(dim=1).numpy()
    distances = limited = scenes = None
    if run.points is not None and run.c is not None:
        distances = poincare.distance_to_origin(run.points, run.c).numpy()
        # The distance of exp(u) from the center is 2|u|, up to the clip or the projection.
        rim = 2 / run.c**0.5 * np.arctanh(1 - poincare.MARGIN)
        limit = rim if run.clip_radius is None else min(rim, 2 * run.clip_radius)
        limited = float((distances >= limit * (1 - 1e-6)).mean())
    if run.scenes is not None:
        scenes = run.scenes.projections.norm(dim=1).numpy()
        if run.scenes.points is not None and run.c is not None:
            scenes = poincare.distance_to_origin(run.scenes.points, run.c).numpy()
    return Norms(
        name,
        raw,
        distances,
        limited,
        run.labels,
        run.classes,
        run.clip_radius,
        scenes,
        run.scenes,
    )


def warnings_of(run: Norms) -> list[str]:
    """What in the norms speaks against the ball."""
    if run.distances is None:
        return []
    if run.collapsed:
        return [
            f"{run.name}: all points of the ball lie {run.distances.mean():.4g} from its center "
            f"(deviation {run.distances.std():.1g}): the norm says nothing, and the ball ranks as "
            "the cosine does"
        ]
    if run.limited is not None and run.limited >= AT_LIMIT:
        return [
            f"{run.name}: {100 * run.limited:.1f} % of the points are held at the largest norm: "
            "among these the ball ranks as the cosine does"
        ]
    return []


def _values(run: Norms) -> dict[str, Any]:
    found: dict[str, Any] = {"embeddings": len(run.raw), "norm of the output": _spread(run.raw)}
    if run.distances is not None:
        found["distance from the center"] = _spread(run.distances)
        found["share at the largest norm"] = run.limited
    within, between = _split(run.shown[0], run.labels)
    found["deviation within classes"], found["deviation between classes"] = within, between
    if run.scenes is not None and run.whole is not None and len(run.scenes):
        whole = run.whole
        found["scenes"] = _spread(run.scenes)
        for name, norms, counts, quality, groups in (
            ("scenes", run.scenes, whole.objects, whole.quality, None),
            ("objects", run.lengths, whole.around, whole.object_quality, whole.images),
        ):
            correlation = correlate(counts, norms, quality, groups=groups)
            found[f"{name}, rank correlation with the number of objects in the image"] = (
                None if correlation is None else correlation.as_dict()
            )
    return found


def _spread(values: Floats) -> dict[str, float]:
    low, middle, high = np.percentile(values, (10, 50, 90))
    return {
        "mean": float(values.mean()),
        "deviation": float(values.std()),
        "10 %": float(low),
        "50 %": float(middle),
        "90 %": float(high),
    }


def _split(values: Floats, labels: NDArray[np.int64]) -> tuple[float, float]:
    """Standard deviations within classes, and of the classes' means over all values."""
    counts = np.bincount(labels)
    means = np.bincount(labels, values) / np.maximum(counts, 1)
    within = float(np.sqrt(np.mean((values - means[labels]) ** 2)))
    return within, float(means[labels].std())


def _histogram(
    name: str, title: str, x_label: str, runs: Sequence[Norms], *, raw: bool
) -> draw.NamedFigure:
    listed = [(run.name, run.raw if raw else run.lengths) for run in runs]
    low = min(float(values.min()) for _, values in listed)
    high = max(float(values.max()) for _, values in listed)
    # Equal norms would have no bins at all.
    room = 0.02 * max(high - low, 0.05 * max(high, 1e-6))
    edges = np.linspace(low - room, high + room, BINS + 1)
    with draw.figure_style():
        figure, axes = draw.canvas(6.4, 3.2)
        for number, (label, values) in enumerate(listed):
            shares = 100 * np.histogram(values, edges)[0] / len(values)
            color, style = color_of(number), draw.line(number)
            axes.stairs(shares, edges, color=color, ls=style, lw=1.4, label=draw.brief(label))
            axes.stairs(shares, edges, color=color, fill=True, alpha=0.12)
        for clip in sorted({run.clip_radius for run in runs if raw and run.clip_radius}):
            axes.axvline(clip, color=draw.INK, ls="--", lw=0.8, label=f"clip radius {clip:g}")
        axes.set(xlabel=x_label, ylabel="share of the embeddings, %")
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside right upper")
    return draw.NamedFigure(name, f"{title}, by run.", figure)


def _by_class(name: str, run: Norms, color: str) -> draw.NamedFigure:
    counts = np.bincount(run.labels, minlength=len(run.classes))
    largest = np.argsort(-counts, kind="stable")[:CLASSES]
    values, x_label = run.shown
    groups = [
        (np.percentile(values[run.labels == label], (10, 50, 90)), run.classes[label])
        for label in largest
        if counts[label]
    ]
    groups.sort(key=lambda group: float(group[0][1]))
    with draw.figure_style():
        figure, axes = draw.canvas(5.2, 0.9 + 0.19 * len(groups))
        for place, ((low, middle, high), _) in enumerate(groups):
            axes.plot([low, high], [place, place], color=color, lw=3, alpha=0.35)
            axes.plot([middle], [place], "o", color=color, ms=5)
        axes.set_yticks(range(len(groups)), [short(label) for _, label in groups])
        axes.set_ylim(-0.7, len(groups) - 0.3)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(x_label)
    many = "" if int((counts > 0).sum()) <= CLASSES else f" The {CLASSES} largest classes."
    caption = f"{run.name}: norms by class, median and 10th to 90th percentile.{many}"
    return draw.NamedFigure(name, caption, figure)


def _by_objects(name: str, run: Norms) -> draw.NamedFigure:
    assert run.scenes is not None and run.whole is not None
    with draw.figure_style():
        figure, axes = draw.canvas()
        groups = (
            (run.scenes, run.whole.objects, "scenes"),
            (run.lengths, run.whole.around, "objects in them"),
        )
        for number, (values, counts, label) in enumerate(groups):
            color, kinds = color_of(number), np.unique(counts)
            parts = [values[counts == kind] for kind in kinds]
            means = np.array([part.mean() for part in parts])
            low, high = (np.array([np.percentile(part, q) for part in parts]) for q in (10, 90))
            axes.fill_between(kinds, low, high, color=color, alpha=0.15, lw=0)
            axes.plot(kinds, means, "o-", color=color, lw=1.4, ms=3.5, label=label)
        draw.whole_numbers(axes.xaxis)
        axes.set(
            xlabel="objects in the image",
            ylabel="norm" if run.distances is None else "distance from the center",
        )
        figure.legend(loc="outside upper left", ncols=2)
    caption = (
        f"{run.name}: norms against the number of objects in the image, mean and 10th to 90th "
        "percentile, of whole scenes and of the crops of their objects."
    )
    return draw.NamedFigure(name, caption, figure)
