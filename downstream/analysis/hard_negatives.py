"""``hcl analyze hard-negatives``: which negatives a loss weighs, and whether two models agree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from downstream.analysis.embeddings import RunEmbeddings, TestSet, load_all
from downstream.analysis.findings import Findings
from downstream.analysis.gallery import gallery
from downstream.analysis.negative_figures import overlap_figure, weight_figures
from downstream.analysis.negative_stats import (
    NegativeStats,
    choose_anchors,
    negatives_of,
    overlap,
    own_weighting,
    tested_of,
    weigh,
    weightings,
)
from downstream.analysis.options import HardNegativesOptions
from downstream.retrieval.spaces import Rows
from pretrain.core.errors import InputError

SHOWN = 6
TOLD = (1, SHOWN, 10, 50)
"""K at which overlaps are recorded."""

ALIKE = 0.999
"""Overlap from which two rankings count as one: near ties may be broken by the last bit."""


def analyze(options: HardNegativesOptions) -> Findings:
    """Weights against rank, overlap of the hardest negatives, and a gallery of them.

    Raises:
        InputError: runs or data that cannot be used, or two runs of different images.
    """
    runs = list(load_all(options))
    tested = [tested_of(run) for run in runs]
    for run, beside in pairwise(runs):
        if run.source.fingerprint != beside.source.fingerprint:
            raise InputError(
                f"{beside.source.path}: tested on other images than {run.source.path}; give the "
                "data of both, as in data.root=DIR"
            )
    anchors = list(
        choose_anchors(
            runs[0].labels, tested[0].queries, tested[0].keys, options.anchors, options.seed
        )
    )
    if not anchors:
        raise InputError(
            f"{tested[0].images.root}: no tested image has one of its own and one of another "
            "class to be compared with; give other data"
        )
    weighed, own = [], []
    for run, about in zip(runs, tested, strict=True):
        loss = about.settings.loss
        ways = weightings(loss, options.temperature_spherical, options.temperature_hyperbolic)
        *listed, itself = weigh(run, anchors, [*ways, own_weighting(loss)], options.ranks)
        weighed.append(listed)
        own.append(itself)
    names = _names(runs)
    # The two lists to compare: two models', or one's in two geometries.
    lists = _by_geometry(names[0], weighed[0])
    if len(runs) == 2:
        lists = [(name, each.hardest) for name, each in zip(names, own, strict=True)]
    counts = [len(negatives_of(a.row, runs[0].labels, tested[0].keys)) for a in anchors]
    chance = float(np.mean([1 / count for count in counts]))
    # The overlap is shown of these, and of each model's two geometries.
    pairs = [lists]
    if len(runs) == 2:
        pairs += [_by_geometry(*each) for each in zip(names, weighed, strict=True)]
    overlaps = [(a, b, overlap(x, y)) for (a, x), (b, y) in pairs]
    (name, hardest), (other, others) = lists
    drawn = [
        *weight_figures(names, weighed, own),
        overlap_figure(overlaps, chance, len(anchors)),
        gallery(
            tested[0],
            anchors[: options.gallery],
            (name, hardest[:, :SHOWN]),
            (other, others[:, :SHOWN]),
        ),
    ]
    values: dict[str, Any] = {
        "anchors": len(anchors),
        "negatives": " to ".join(map(str, sorted({min(counts), max(counts)}))),
        "weights": {
            run_name: {each.weighting.label: _told(each) for each in listed}
            for run_name, listed in zip(names, weighed, strict=True)
        },
        "overlap": {
            f"{a} | {b}": {f"at {k}": float(curve[k - 1]) for k in TOLD if k <= len(curve)}
            for a, b, curve in overlaps
        },
        "overlap by chance": {f"at {k}": min(k * chance, 1.0) for k in TOLD},
    }
    return Findings(
        title="Hard negatives: " + " and ".join(names),
        sources=[run.source for run in runs],
        values=values,
        drawn=drawn,
        notes=_notes(tested),
        warnings=_warnings(names, tested, weighed),
    )


def _names(runs: Sequence[RunEmbeddings]) -> list[str]:
    """Names that differ."""
    names = [run.source.name for run in runs]
    return names if len(set(names)) == len(names) else [run.source.path for run in runs]


def _by_geometry(name: str, weighed: Sequence[NegativeStats]) -> list[tuple[str, Rows]]:
    first = {each.weighting.geometry: each.hardest for each in reversed(weighed)}
    return [(f"{name}, cosine", first["sphere"]), (f"{name}, ball", first["ball"])]


def _told(each: NegativeStats) -> dict[str, float]:
    return {
        "effective number of negatives": float(each.effective.mean()),
        "share of the hardest": float(each.shares[:, 0].mean()),
        "p(x⁻) of the hardest": float(each.weights[:, 0].mean()),
        "p(x⁺)": float(each.on_positive.mean()),
    }


def _notes(tested: Sequence[TestSet]) -> list[str]:
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
    names: Sequence[str], tested: Sequence[TestSet], weighed: Sequence[Sequence[NegativeStats]]
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
        if overlap(by_cosine, in_ball).min() >= ALIKE:
            found.append(
                f"{name}: cosine and the ball rank all negatives alike, as they must where all "
                "points have one norm; `hcl analyze norms` shows the norms"
            )
    return found
