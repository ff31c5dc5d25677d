"""The weights that the losses give their negatives.

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

from downstream.retrieval.finetune.settings import LossSettings
from downstream.retrieval.spaces import Floats, Rows, Space

Geometry = Literal["sphere", "ball", "mixed"]

# Elements of the largest temporary: 64 MiB in float64.
_BUDGET = 2**23


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


def cosines(sphere: Space, row: int, keys: Rows) -> Floats:
    """Cosines of ``keys`` (M,) to one row, from differences."""
    return np.asarray(1 - _gaps(sphere, row, keys) / 2)


def distances(ball: Space, row: int, keys: Rows, c: float) -> Floats:
    """Hyperbolic distances of ``keys`` (M,) to one row, from differences."""
    return np.asarray(np.arcsinh(np.sqrt(c * _gaps(ball, row, keys))) * (2 / c**0.5))


def _gaps(space: Space, row: int, keys: Rows) -> Floats:
    block = max(1, _BUDGET // space.width)
    query = np.array([row])
    parts = [
        space.ranking_distances(query, keys[start : start + block][None])[0]
        for start in range(0, len(keys), block)
    ]
    return np.concatenate(parts)
