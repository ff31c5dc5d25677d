"""``hcl analyze hard-negatives``: which negatives a loss weighs, and whether two models agree."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from downstream.analysis import draw
from downstream.analysis.embedded import Embedded, Tested, load
from downstream.analysis.findings import Findings
from downstream.analysis.gallery import gallery
from downstream.analysis.weights import (
    Anchor,
    Weighting,
    choose_anchors,
    cosines,
    distances,
    own_weighting,
    triplet_weights,
    weightings,
)
from downstream.retrieval.finetune.loss import ball_points
from downstream.retrieval.finetune.settings import LossSettings
from downstream.retrieval.spaces import Floats, Rows, ball, sphere
from pretrain.errors import InputError

POINTS = 120
SHOWN = 6
LEAST_WEIGHT = 1e-9


@dataclass(frozen=True)
class Weighed:
    """How one weighting treats A anchors.

    Attributes:
        weighting: the formula.
        at: (R,) ranks from 1, about evenly spaced in their logarithm.
        weights: (A, R), p(x⁻) of the negative at each rank.
        shares: (A, R), part of the weight of all negatives that those up to the rank have.
        on_positive: (A,), p(x⁺), what a satisfied anchor leaves to no negative.
        effective: (A,), exp of the entropy of the weights: over how many negatives they spread.
        hardest: (A, K), rows of the negatives of the highest logits, the highest first.
    """

    weighting: Weighting
    at: Rows
    weights: Floats
    shares: Floats
    on_positive: Floats
    effective: Floats
    hardest: Rows


def analyse(arguments: argparse.Namespace) -> Findings:
    """Weights against rank, overlap of the hardest negatives, and a gallery of them.

    Raises:
        InputError: runs or data that cannot be used, or two runs of different images.
    """
    runs = [
        load(path, overrides=arguments.overrides, device=arguments.device)
        for path in arguments.runs
    ]
    tested = [_tested(run) for run in runs]
    for run, beside in pairwise(runs):
        if run.source.fingerprint != beside.source.fingerprint:
            raise InputError(
                f"{beside.source.path}: tested on other images than {run.source.path}; give the "
                "data of both, as in data.root=DIR"
            )
    anchors = list(
        choose_anchors(
            runs[0].labels, tested[0].queries, tested[0].keys, arguments.anchors, arguments.seed
        )
    )
    if not anchors:
        raise InputError(
            f"{tested[0].images.root}: no tested image has one of its own and one of another "
            "class to be compared with; give other data"
        )
    weighed = [
        weigh(
            run,
            anchors,
            weightings(
                about.settings.loss,
                arguments.temperature_spherical,
                arguments.temperature_hyperbolic,
            ),
            arguments.ranks,
        )
        for run, about in zip(runs, tested, strict=True)
    ]
    own = [
        weigh(run, anchors, [own_weighting(about.settings.loss)], arguments.ranks)[0]
        for run, about in zip(runs, tested, strict=True)
    ]
    names = _names(runs)
    lists = _compared(names, weighed, own)
    drawn = _weight_figures(names, weighed, own)
    overlaps = {f"{a} | {b}": overlap(x, y) for a, x, b, y in _pairs(names, weighed, lists)}
    chance = float(np.mean([1 / len(anchor.negatives) for anchor in anchors]))
    drawn.append(_overlap_figure(overlaps, chance, len(anchors)))
    (name, hardest), (other, others) = lists
    drawn.append(
        gallery(
            tested[0],
            anchors[: arguments.gallery],
            (name, hardest[:, :SHOWN]),
            (other, others[:, :SHOWN]),
        )
    )
    values: dict[str, Any] = {
        "anchors": len(anchors),
        "negatives": _range([len(anchor.negatives) for anchor in anchors]),
        "weights": {
            run_name: {each.weighting.label: _told(each) for each in listed}
            for run_name, listed in zip(names, weighed, strict=True)
        },
        "overlap": {
            pair: {f"at {k}": float(curve[k - 1]) for k in (1, SHOWN, 10, 50) if k <= len(curve)}
            for pair, curve in overlaps.items()
        },
        "overlap by chance": {f"at {k}": k * chance for k in (1, SHOWN, 10, 50)},
    }
    return Findings(
        title="Hard negatives: " + " and ".join(names),
        sources=[run.source for run in runs],
        values=values,
        drawn=drawn,
        notes=_notes(tested),
        warnings=_warnings(names, tested, weighed),
    )


def weigh(
    run: Embedded, anchors: Sequence[Anchor], ways: Sequence[Weighting], ranks: int
) -> list[Weighed]:
    """Weigh all negatives of every anchor, in float64, one anchor at a time.

    Args:
        run: a fine-tuned run's embeddings.
        anchors: A of them.
        ways: to weigh.
        ranks: how many of the hardest negatives to keep.
    """
    loss = _tested(run).settings.loss
    directions, in_ball = sphere(run.projections), ball(_points(run, loss), loss.curvature)
    fewest = min(len(anchor.negatives) for anchor in anchors)
    at = np.unique(np.geomspace(1, fewest, POINTS).round().astype(np.int64))
    kept: list[list[tuple[Floats, Floats, float, float, Rows]]] = [[] for _ in ways]
    for anchor in anchors:
        keys = np.append(anchor.negatives, anchor.positive)
        cos = cosines(directions, anchor.row, keys)
        far = distances(in_ball, anchor.row, keys, loss.curvature)
        for way, rows in zip(ways, kept, strict=True):
            logits = way.logits(cos, far)
            negatives, positive = logits[:-1], float(logits[-1])
            order = np.argsort(-negatives, kind="stable")
            weights = triplet_weights(negatives[order], positive)
            # Normalised on its own: where the positive takes nearly all, little would be left.
            shares = triplet_weights(negatives[order], -np.inf)
            informative = shares[shares > 0]
            rows.append(
                (
                    weights[at - 1],
                    np.cumsum(shares)[at - 1],
                    float(1 - weights.sum()),
                    float(np.exp(-(informative * np.log(informative)).sum())),
                    anchor.negatives[order[: min(ranks, fewest)]],
                )
            )
    return [
        Weighed(way, at, *(np.array(column) for column in zip(*rows, strict=True)))
        for way, rows in zip(ways, kept, strict=True)
    ]


def overlap(first: Rows, second: Rows) -> Floats:
    """Share of the k hardest negatives that two lists (A, K) have in common, for k = 1..K."""
    anchors, length = first.shape
    found = np.zeros(length)
    for a, b in zip(first, second, strict=True):
        place = {int(row): position for position, row in enumerate(b)}
        # A common row counts from the k at which both lists have it.
        common = [max(n, place[int(row)]) for n, row in enumerate(a) if int(row) in place]
        found += np.cumsum(np.bincount(common, minlength=length))
    return np.asarray(found / (anchors * np.arange(1, length + 1)))


def _points(run: Embedded, loss: LossSettings) -> Any:
    """Points of the ball: the run's own, or for one of the sphere those its settings would give."""
    if run.points is not None:
        return run.points
    return ball_points(run.projections, loss.model_copy(update={"numerics": "exact"}))


def _tested(run: Embedded) -> Tested:
    if run.tested is None:
        raise InputError(
            f"{run.source.path}: hard negatives are those of a loss; name a run folder of "
            "`hcl retrieve train`"
        )
    return run.tested


def _names(runs: Sequence[Embedded]) -> list[str]:
    """Names that differ."""
    names = [run.source.name for run in runs]
    return names if len(set(names)) == len(names) else [run.source.path for run in runs]


def _compared(
    names: Sequence[str], weighed: Sequence[Sequence[Weighed]], own: Sequence[Weighed]
) -> list[tuple[str, Rows]]:
    """The two lists of hardest negatives to compare: two models', or one's in two geometries."""
    if len(names) == 2:
        return [(name, each.hardest) for name, each in zip(names, own, strict=True)]
    return _by_geometry(names[0], weighed[0])


def _by_geometry(name: str, weighed: Sequence[Weighed]) -> list[tuple[str, Rows]]:
    first = {each.weighting.geometry: each.hardest for each in reversed(weighed)}
    return [
        (f"{name}, cosine", first["sphere"]),
        (f"{name}, distance in the ball", first["ball"]),
    ]


def _pairs(
    names: Sequence[str], weighed: Sequence[Sequence[Weighed]], lists: Sequence[tuple[str, Rows]]
) -> list[tuple[str, Rows, str, Rows]]:
    """What the overlap is shown of: the compared lists, and each model's two geometries."""
    pairs = [(*lists[0], *lists[1])]
    if len(names) == 2:
        for name, each in zip(names, weighed, strict=True):
            by_cosine, in_ball = _by_geometry(name, each)
            pairs.append((*by_cosine, *in_ball))
    return pairs


def _weight_figures(
    names: Sequence[str], weighed: Sequence[Sequence[Weighed]], own: Sequence[Weighed]
) -> list[draw.Drawn]:
    figures = []
    for number, (name, listed) in enumerate(zip(names, weighed, strict=True)):
        seen: dict[str, int] = {}
        lines = []
        for each in listed:
            place = seen[each.weighting.geometry] = seen.get(each.weighting.geometry, -1) + 1
            style = (draw.GEOMETRIES[each.weighting.geometry], draw.line(place))
            own_mark = " (its loss)" if each.weighting.own else ""
            lines.append((f"{each.weighting.label}{own_mark}", each, *style))
        caption = (
            f"{name}: weight p(x⁻) of a negative against its rank, and the share of all negatives' "
            "weight up to it, for the same embeddings under each geometry"
        )
        figures.append(_weights("weights" if number == 0 else "weights_other", caption, lines))
    if len(names) == 2:
        lines = [
            (f"{name}: {each.weighting.label}", each, draw.colour(number), draw.line(0))
            for number, (name, each) in enumerate(zip(names, own, strict=True))
        ]
        caption = "Each model by its own loss: weight p(x⁻) against rank, and its share up to there"
        figures.append(_weights("weights_own", caption, lines))
    return figures


def _weights(name: str, caption: str, lines: Sequence[tuple[str, Weighed, str, str]]) -> draw.Drawn:
    with draw.style():
        figure, (left, right) = draw.panels(2)
        for label, each, colour, style in lines:
            mean = each.weights.mean(0)
            low, high = np.percentile(each.weights, (10, 90), axis=0)
            left.plot(each.at, mean, style, color=colour, lw=1.5, label=label)
            floor = LEAST_WEIGHT / 10
            left.fill_between(
                each.at,
                np.maximum(low, floor),
                np.maximum(high, floor),
                color=colour,
                alpha=0.12,
                lw=0,
            )
            right.plot(each.at, 100 * each.shares.mean(0), style, color=colour, lw=1.5)
        top = max(float(np.percentile(each.weights, 90, axis=0).max()) for _, each, *_ in lines)
        least = min(float(each.weights.mean(0).min()) for _, each, *_ in lines)
        left.set(xlabel="rank of the negative", ylabel="p(x⁻)")
        left.set_ylim(max(least / 2, LEAST_WEIGHT), min(max(top * 2, 10 * LEAST_WEIGHT), 1.5))
        right.set(xlabel="rank of the negative", ylabel="share of the weight, %")
        right.set_ylim(0, 103)
        for axis in (left.xaxis, left.yaxis, right.xaxis):
            draw.logarithmic(axis)
        figure.legend(loc="outside upper left", ncols=2 if len(lines) > 3 else len(lines))
    return draw.Drawn(name, f"{caption}. Mean over anchors; band: 10th to 90th percentile.", figure)


def _overlap_figure(overlaps: dict[str, Floats], chance: float, anchors: int) -> draw.Drawn:
    with draw.style():
        figure, axes = draw.canvas()
        length = 1
        for number, (label, curve) in enumerate(overlaps.items()):
            length = len(curve)
            ks = np.arange(1, length + 1)
            first, second = label.split(" | ")
            style = (draw.line(number), draw.colour(number))
            axes.plot(ks, 100 * curve, style[0], color=style[1], lw=1.6, label=f"{first}\n{second}")
        ks = np.arange(1, length + 1)
        axes.plot(ks, 100 * np.minimum(ks * chance, 1), color=draw.INK, lw=0.8, label="chance")
        axes.set(xlabel="k hardest negatives of an anchor", ylabel="in both lists, %")
        if length > 20:
            draw.logarithmic(axes.xaxis)
        axes.set_ylim(0, 103)
        figure.legend(loc="outside right upper", labelspacing=1)
        figure.set_size_inches(7.2, 3.4)
    caption = f"Hardest negatives that two rankings have in common, mean over {anchors} anchors."
    return draw.Drawn("overlap", caption, figure)


def _told(each: Weighed) -> dict[str, float]:
    return {
        "effective number of negatives": float(each.effective.mean()),
        "share of the hardest": float(each.shares[:, 0].mean()),
        "p(x⁻) of the hardest": float(each.weights[:, 0].mean()),
        "p(x⁺)": float(each.on_positive.mean()),
    }


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _notes(tested: Sequence[Tested]) -> list[str]:
    notes = [
        "Every tested image of another class is a negative, one drawn image of the anchor's class "
        "its positive; in training a batch has fewer negatives, which raises each one's weight. "
        "Distances are exact, in float64.",
        "The effective number of negatives is the exponential of the entropy of their weights.",
    ]
    if any(each.settings.loss.geometry == "sphere" for each in tested):
        notes.append(
            "A run of the sphere was not trained in a ball: its curves of ball and mixture are "
            "what the ball's settings in its configuration would make of its embeddings."
        )
    return notes


def _warnings(
    names: Sequence[str], tested: Sequence[Tested], weighed: Sequence[Sequence[Weighed]]
) -> list[str]:
    found = []
    for name, about, listed in zip(names, tested, weighed, strict=True):
        loss = about.settings.loss
        if loss.geometry == "mixed" and loss.combine == "losses":
            found.append(
                f"{name}: was trained with a sum of two losses, each with weights of its own (the "
                "sphere's and the ball's curves); the mixture is what one softmax would weigh"
            )
        (_, by_cosine), (_, in_ball) = _by_geometry(name, listed)
        if np.array_equal(by_cosine, in_ball):
            found.append(
                f"{name}: cosine and the ball rank all negatives alike, as they must where all "
                "points have one norm; `hcl analyze norms` shows the norms"
            )
    return found
