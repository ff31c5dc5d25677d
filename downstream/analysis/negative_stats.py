"""The weights that the losses give their negatives, and what two rankings have in common.

With logits ``l = cos/t_e``, ``-d/t_h`` or ``cos/t_e - λ·d/t_h`` the pairwise cross-entropy of one
anchor x with positive x⁺ is a weighted sum of triplets: its gradient is ``Σ p(x⁻) (dl⁻ - dl⁺)``
with::

    p(x⁻) = exp(l⁻) / (exp(l⁺) + Σ exp(l⁻))

so the geometry, its temperatures and its curvature say which negatives count (Yue et al. 2024,
arXiv 2404.15523; the formula follows from the loss).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from downstream.analysis.embeddings import RunEmbeddings, TestSet
from downstream.retrieval.finetune.loss import ball_points
from downstream.retrieval.finetune.settings import LossSettings
from downstream.retrieval.spaces import Floats, Rows, Space, ball, distances_from, sphere
from pretrain.core.errors import InputError

Geometry = Literal["sphere", "ball", "mixed"]

POINTS = 120
"""Ranks at which weights are recorded."""


@dataclass(frozen=True)
class Weighting:
    """One way to weigh negatives, ``l = spherical·cos - hyperbolic·d``.

    Attributes:
        geometry: which of the two parts count.
        label: for figures.
        spherical: 1/t_e, or 0.
        hyperbolic: 1/t_h, λ/t_h, or 0.
        own: whether it is the one of the run's own loss.
    """

    geometry: Geometry
    label: str
    spherical: float
    hyperbolic: float
    own: bool = False

    def logits(self, cosines: Floats, distances: Floats) -> Floats:
        """Logits (...) from cosines and distances in the ball (...)."""
        return np.asarray(self.spherical * cosines - self.hyperbolic * distances)


def weightings(
    loss: LossSettings,
    spherical: Sequence[float] = (),
    hyperbolic: Sequence[float] = (),
) -> list[Weighting]:
    """Sphere, ball and mixture by the settings of a loss.

    A mixed loss with ``combine=losses`` has two softmaxes, and no weight of its own for the sum:
    then none is ``own``.

    Args:
        loss: of the run; also a sphere's settings have the values of a ball.
        spherical: temperatures of the sphere instead of the run's own.
        hyperbolic: temperatures of the ball instead of the run's own.
    """
    t_e, t_h = loss.temperature_spherical, loss.temperature_hyperbolic
    found = [
        Weighting("sphere", f"sphere, T={t:g}", 1 / t, 0.0, loss.geometry == "sphere" and t == t_e)
        for t in spherical or [t_e]
    ]
    found += [
        Weighting("ball", f"ball, T={t:g}", 0.0, 1 / t, loss.geometry == "ball" and t == t_h)
        for t in hyperbolic or [t_h]
    ]
    own = loss.geometry == "mixed" and loss.combine == "logits"
    label = f"mixture, T={t_e:g} and {t_h:g}, λ={loss.weight:g}"
    found.append(Weighting("mixed", label, 1 / t_e, loss.weight / t_h, own))
    return found


def own_weighting(loss: LossSettings) -> Weighting:
    """The weighting whose logits rank as the run itself does."""
    return next(each for each in weightings(loss) if each.geometry == loss.geometry)


def triplet_weights(negatives: Floats, positive: float) -> Floats:
    """p(x⁻) (..., M) of one anchor from the logits of its negatives (..., M) and positive.

    The weights sum to 1 - p(x⁺).
    """
    highest = max(float(np.max(negatives)), positive)
    shares = np.exp(negatives - highest)
    return np.asarray(shares / (np.exp(positive - highest) + shares.sum()))


class Anchor(NamedTuple):
    """A query, and one image of its class that is searched."""

    row: int
    positive: int


def choose_anchors(
    labels: Rows, queries: Rows, keys: Rows, count: int, seed: int
) -> Iterator[Anchor]:
    """Anchors drawn by ``seed`` among the queries with a positive, each with one drawn positive."""
    rng = np.random.default_rng(seed)
    found = 0
    for row in rng.permutation(queries):
        if found == count:
            return
        same = labels[keys] == labels[row]
        positives = keys[same & (keys != row)]
        if len(positives) and not same.all():
            found += 1
            yield Anchor(int(row), int(rng.choice(positives)))


def negatives_of(row: int, labels: Rows, keys: Rows) -> Rows:
    """The keys of other classes than that of ``row``, in the order of the keys."""
    others: Rows = keys[labels[keys] != labels[row]]
    return others


def cosines(space: Space, row: int, keys: Rows) -> Floats:
    """Cosines of ``keys`` (M,) to one row, from differences."""
    return np.asarray(1 - distances_from(space, row, keys) / 2)


def distances(space: Space, row: int, keys: Rows, c: float) -> Floats:
    """Hyperbolic distances of ``keys`` (M,) to one row, from differences."""
    return np.asarray(np.arcsinh(np.sqrt(c * distances_from(space, row, keys))) * (2 / c**0.5))


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
