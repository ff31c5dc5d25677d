"""What a weighting makes of all negatives of the anchors, and what two rankings have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from downstream.analysis.embeddings import RunEmbeddings, TestSet
from downstream.analysis.negative_weights import (
    Anchor,
    Weighting,
    cosines,
    distances,
    negatives_of,
    triplet_weights,
)
from downstream.retrieval.finetune.loss import ball_points
from downstream.retrieval.finetune.settings import LossSettings
from downstream.retrieval.spaces import Floats, Rows, ball, sphere
from pretrain.core.errors import InputError

POINTS = 120


@dataclass(frozen=True)
class NegativeStats:
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


def weigh(
    run: RunEmbeddings, anchors: Sequence[Anchor], ways: Sequence[Weighting], ranks: int
) -> list[NegativeStats]:
    """Weigh all negatives of every anchor, in float64, one anchor at a time.

    Args:
        run: a fine-tuned run's embeddings.
        anchors: A of them.
        ways: to weigh.
        ranks: how many of the hardest negatives to keep.
    """
    tested = tested_of(run)
    loss = tested.settings.loss
    directions, in_ball = sphere(run.projections), ball(_points(run, loss), loss.curvature)
    fewest = min(len(negatives_of(a.row, run.labels, tested.keys)) for a in anchors)
    at = np.unique(np.geomspace(1, fewest, POINTS).round().astype(np.int64))
    kept: list[list[tuple[Floats, Floats, float, float, Rows]]] = [[] for _ in ways]
    for anchor in anchors:
        others = negatives_of(anchor.row, run.labels, tested.keys)
        keys = np.append(others, anchor.positive)
        cos = cosines(directions, anchor.row, keys)
        far = distances(in_ball, anchor.row, keys, loss.curvature)
        for way, rows in zip(ways, kept, strict=True):
            logits = way.logits(cos, far)
            negatives, positive = logits[:-1], float(logits[-1])
            order = np.argsort(-negatives, kind="stable")
            weights = triplet_weights(negatives[order], positive)
            # Normalized on its own: where the positive takes nearly all, little would be left.
            shares = triplet_weights(negatives[order], -np.inf)
            informative = shares[shares > 0]
            rows.append(
                (
                    weights[at - 1],
                    np.cumsum(shares)[at - 1],
                    float(1 - weights.sum()),
                    float(np.exp(-(informative * np.log(informative)).sum())),
                    others[order[: min(ranks, fewest)]],
                )
            )
    return [
        NegativeStats(way, at, *(np.array(column) for column in zip(*rows, strict=True)))
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


def _points(run: RunEmbeddings, loss: LossSettings) -> Tensor:
    """Points of the ball: the run's own, or for one of the sphere those its settings would give."""
    if run.points is not None:
        return run.points
    return ball_points(run.projections, loss.model_copy(update={"numerics": "exact"}))


def tested_of(run: RunEmbeddings) -> TestSet:
    """The tested images of a fine-tuned run.

    Raises:
        InputError: it is none.
    """
    if run.tested is None:
        raise InputError(
            f"{run.source.path}: hard negatives are those of a loss; name a run folder of "
            "`hcl retrieve train`"
        )
    return run.tested
