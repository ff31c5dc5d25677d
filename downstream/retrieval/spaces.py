"""The geometries in which objects are ranked: two as one, weighted squared differences, and fused.

Both have an inner-product form for fast searching and a difference form for exact ranking::

    sphere:  |x - y|^2                                  inner =  <x, y>              = 1 - gap / 2
    ball:    |x - y|^2 / ((1 - c|x|^2) (1 - c|y|^2))    inner = <x_v, y_v> - x_0 y_0 = -1 - 2 c gap

The inner product of the ball is that of its Lorentz lift; ``-inner`` is cosh(sqrt(c) d) and
``d = 2 / sqrt(c) * asinh(sqrt(c gap))``. Near points agree in all leading digits of the inner
product; the differences lose none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pretrain.core.errors import InputError

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

# Numbers of a temporary: 16 MiB in float64, more of which is slower.
_BUDGET = 2**21


@dataclass(frozen=True)
class Space:
    """N points, ready for searching.

    Attributes:
        points: float64 (N, D), unit vectors or points of the ball.
        weights: float64 (N,): ``gap(x, y) = |x - y|^2 w_x w_y``.
        lifted: float64 (N, L), the keys of the inner-product form.
        signature: float64 (L,): ``lifted * signature`` are the queries.
        offset: ``inner = offset - slope * gap``.
        slope: likewise.
    """

    points: Floats
    weights: Floats
    lifted: Floats
    signature: Floats
    offset: float
    slope: float

    def __len__(self) -> int:
        return len(self.points)

    @property
    def width(self) -> int:
        """Dimension of the points."""
        return int(self.points.shape[1])

    def ranking_distances(self, queries: Rows, candidates: Rows) -> Floats:
        """Ranking value of ``candidates`` (Q, M) for ``queries`` (Q,): 0 at the point itself."""
        gaps = np.empty(candidates.shape)
        step = max(1, _BUDGET // (candidates.shape[1] * self.width))
        points = torch.from_numpy(self.points)
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            # torch gathers with all threads; numpy adds up every row in the same order, whatever
            # the shape, so that equal points have equal gaps.
            near = points[torch.from_numpy(candidates[part])]
            differences = near.sub_(points[torch.from_numpy(queries[part]), None]).numpy()
            np.einsum("qmd,qmd->qm", differences, differences, out=gaps[part])
        gaps *= self.weights[queries][:, None]
        gaps *= self.weights[candidates]
        return gaps

    def gap_of(self, inner: Floats) -> Floats:
        """The gap that belongs to an inner product; 0 where round-off would make it negative."""
        return np.asarray(np.maximum((self.offset - inner) / self.slope, 0.0))


@dataclass(frozen=True)
class FusedRanking:
    """Both geometries in one score, as HypMix sums them: cos/T_s - weight·d/T_h.

    Ranked by what it lacks of its maximum, ``(1 - cos)/T_s + weight·d/T_h``, which grows with the
    gap in either space.

    Attributes:
        sphere: the directions of N points.
        ball: their points in the ball.
        c: curvature of the ball is -c.
        spherical: factor of 1 - cos.
        hyperbolic: factor of the distance d.
    """

    sphere: Space
    ball: Space
    c: float
    spherical: float
    hyperbolic: float

    def __len__(self) -> int:
        return len(self.sphere)

    @property
    def width(self) -> int:
        """Numbers a point has in both spaces together."""
        return self.sphere.width + self.ball.width

    def ranking_distances(self, queries: Rows, candidates: Rows) -> Floats:
        """Ranking value of ``candidates`` (Q, M) for ``queries`` (Q,): 0 at the point itself."""
        return self.cost(
            self.sphere.ranking_distances(queries, candidates),
            self.ball.ranking_distances(queries, candidates),
        )

    def cost(self, sphere_gap: Floats, ball_gap: Floats) -> Floats:
        """The value that belongs to the gaps in the two spaces; grows with each."""
        distance = np.arcsinh(np.sqrt(self.c * ball_gap)) * (2 / self.c**0.5)
        return np.asarray(self.spherical * 0.5 * sphere_gap + self.hyperbolic * distance)


Ranking = Space | FusedRanking
"""What can be searched: N points with a ranking value of every pair, the smaller the nearer."""


def distances_from(ranking: Ranking, row: int, keys: Rows) -> Floats:
    """Ranking values of ``keys`` (M,) for one point, some keys at a time."""
    block = max(1, _BUDGET // ranking.width)
    query = np.array([row])
    parts = [
        ranking.ranking_distances(query, keys[start : start + block][None])[0]
        for start in range(0, len(keys), block)
    ]
    return np.concatenate(parts)


def sphere(embeddings: ArrayLike | torch.Tensor) -> Space:
    """Directions of ``embeddings`` (N, D), ranked by cosine similarity.

    Raises:
        InputError: a row is not finite or is the zero vector, which has no direction.
    """
    vectors = _matrix(embeddings)
    lengths = np.linalg.norm(vectors, axis=1)
    if not lengths.all():
        row = int(np.flatnonzero(lengths == 0)[0])
        raise InputError(f"embedding {row} is the zero vector: it has no direction to rank by")
    points = vectors / lengths[:, None]
    ones = np.ones(len(points))
    return Space(points, ones, points, np.ones(points.shape[1]), offset=1.0, slope=0.5)


def ball(embeddings: ArrayLike | torch.Tensor, c: float) -> Space:
    """Points (N, D) of the ball of curvature -c, ranked by hyperbolic distance.

    Raises:
        InputError: ``c`` is not positive, a row is not finite, or lies outside the ball.
    """
    if not c > 0:
        raise InputError(f"curvature c must be positive, got {c}")
    points = _matrix(embeddings)
    margin = 1.0 - c * np.einsum("nd,nd->n", points, points)
    if margin.min() <= 0:
        row = int(np.argmin(margin))
        raise InputError(
            f"embedding {row} has norm {np.linalg.norm(points[row]):.6g}: outside the ball of "
            f"radius {c**-0.5:.6g} (c = {c}); map embeddings into the ball first"
        )
    lifted = np.empty((len(points), points.shape[1] + 1))
    np.multiply(points, (2.0 * c**0.5 / margin)[:, None], out=lifted[:, :-1])
    lifted[:, -1] = (2.0 - margin) / margin
    signature = np.ones(lifted.shape[1])
    signature[-1] = -1.0
    return Space(points, 1.0 / margin, lifted, signature, offset=-1.0, slope=2.0 * c)


def _matrix(embeddings: ArrayLike | torch.Tensor) -> Floats:
    if isinstance(embeddings, torch.Tensor):
        embeddings = embeddings.detach().cpu().double().numpy()
    matrix = np.ascontiguousarray(embeddings, dtype=np.float64)
    if matrix.ndim != 2:
        raise InputError(f"embeddings must be (N, D), got shape {matrix.shape}")
    if len(matrix) < 2:
        raise InputError(f"retrieval needs at least 2 embeddings, got {len(matrix)}")
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        raise InputError(f"embedding {int(np.flatnonzero(~finite)[0])} is not finite")
    return matrix


def fused(
    embeddings: ArrayLike | torch.Tensor,
    points: ArrayLike | torch.Tensor,
    c: float,
    *,
    temperature_spherical: float,
    temperature_hyperbolic: float,
    weight: float,
) -> FusedRanking:
    """Directions of ``embeddings`` (N, D) and ``points`` (N, E) of the ball, ranked by their sum.

    Raises:
        InputError: see :func:`sphere` and :func:`ball`; N differs, or a temperature or the weight
            is not positive.
    """
    if not (temperature_spherical > 0 and temperature_hyperbolic > 0 and weight > 0):
        raise InputError(
            "fused scores need positive temperatures and weight, got "
            f"{temperature_spherical}, {temperature_hyperbolic} and {weight}"
        )
    directions, in_ball = sphere(embeddings), ball(points, c)
    if len(directions) != len(in_ball):
        raise InputError(f"{len(directions)} embeddings but {len(in_ball)} points of the ball")
    return FusedRanking(
        directions, in_ball, c, 1 / temperature_spherical, weight / temperature_hyperbolic
    )
