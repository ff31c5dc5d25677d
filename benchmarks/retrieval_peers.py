"""Other ways to the nearest neighbors, for benchmarks/retrieval.py.

All take the points and some query rows and give (Q, k) rows, the query itself left out.
"""

from __future__ import annotations

from collections.abc import Callable

import faiss
import numpy as np
import torch
from torch import Tensor

try:
    from pytorch_metric_learning.distances import BaseDistance, LpDistance
    from pytorch_metric_learning.utils.inference import CustomKNN, FaissKNN
except ImportError:
    CustomKNN = None

C = 1.0
EPSILON = 1e-5  # of the reference, in the denominator and at the rim of artanh
SLICE = 20
Peer = Callable[[Tensor, Tensor, int], np.ndarray]


def reference(points: Tensor, rows: Tensor, k: int) -> np.ndarray:
    """As Hyp-ViT and HypMix evaluate: Möbius sums of all pairs, float32, 20 rows at a time."""
    found = []
    for part in rows.split(SLICE):
        x, y = -points[part], points
        xy = torch.einsum("qd,nd->qn", x, y)
        x2, y2 = x.square().sum(1)[:, None], y.square().sum(1)[None]
        of_x, of_y = 1 + 2 * C * xy + C * y2, 1 - C * x2
        below = 1 + 2 * C * xy + C**2 * x2 * y2 + EPSILON
        above = of_x[..., None] * x[:, None] + of_y[..., None] * y[None]
        found.append(_nearest(_distance((above / below[..., None]).norm(dim=-1)), part, k))
    return np.concatenate(found)


def row_loop(points: Tensor, rows: Tensor, k: int) -> np.ndarray:
    """The same formula, a row at a time."""
    found = []
    squares = points.square().sum(1, keepdim=True)
    for row in rows:
        x, x2 = -points[row], squares[row]
        xy = points @ x[:, None]
        above = (1 + 2 * C * xy + C * squares) * x + (1 - C * x2) * points
        below = 1 + 2 * C * xy + C**2 * x2 * squares + EPSILON
        distances = _distance((above / below).norm(dim=-1))
        found.append(_nearest(distances[None], row[None], k))
    return np.concatenate(found)


def _distance(norm: Tensor) -> Tensor:
    return 2 / C**0.5 * torch.atanh((C**0.5 * norm).clamp(max=1 - EPSILON))


def _nearest(distances: Tensor, rows: Tensor, k: int) -> np.ndarray:
    distances[torch.arange(len(rows)), rows] = torch.inf
    return distances.topk(k, largest=False).indices.numpy()


def lift_to_faiss(points: Tensor, rows: Tensor, k: int) -> np.ndarray:
    """The Lorentz lift in a float32 inner-product index, no proof and no second ranking."""
    lifted = _lift(points.double()).float()
    index = faiss.IndexFlatIP(lifted.shape[1])
    index.add(lifted.numpy())
    queries = lifted[rows]
    queries[:, -1] *= -1
    return _without_self(index.search(queries.numpy(), k + 1)[1], rows, k)


def lift_in_double(points: Tensor, rows: Tensor, k: int) -> np.ndarray:
    """The lift, a float64 product and topk; no proof and no second ranking."""
    lifted = _lift(points.double())
    found = []
    for part in rows.split(256):
        queries = lifted[part]
        queries[:, -1] *= -1
        found.append((queries @ lifted.T).topk(k + 1).indices.numpy())
    return _without_self(np.concatenate(found), rows, k)


def _lift(points: Tensor) -> Tensor:
    margin = 1 - C * points.square().sum(1, keepdim=True)
    return torch.cat([points * (2 * C**0.5 / margin), (2 - margin) / margin], dim=1)


def differences(points: Tensor, rows: Tensor, k: int) -> np.ndarray:
    """Float64 brute force: every difference of every pair. Equally near: the lower row first."""
    table = points.double().numpy()
    margin = 1 - C * np.square(table).sum(1)
    found = []
    for row in rows.numpy():
        gaps = np.square(table - table[row]).sum(1) / margin
        gaps[row] = np.inf
        found.append(np.argsort(gaps, kind="stable")[:k])
    return np.stack(found)


def _without_self(found: np.ndarray, rows: Tensor, k: int) -> np.ndarray:
    # As everybody does it: the first is the point itself, if it is among them.
    mine = found == rows.numpy()[:, None]
    mine[:, -1] |= ~mine.any(axis=1)
    return found[~mine].reshape(len(found), k)


def metric_learning() -> tuple[dict[str, Peer], dict[str, Peer], str | None]:
    """pytorch-metric-learning: peers in the ball, on the sphere, or the reason why not."""
    if CustomKNN is None:
        return {}, {}, "pytorch-metric-learning is not installed"

    class Hyperbolic(BaseDistance):
        """What a user adds, since it has no hyperbolic distance: arcosh of the Gram matrix."""

        def __init__(self) -> None:
            super().__init__(normalize_embeddings=False)

        def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
            x, y = _lift(query_emb), _lift(ref_emb)
            return torch.acosh((x[:, -1:] * y[:, -1] - x[:, :-1] @ y[:, :-1].T).clamp(min=1))

        def pairwise_distance(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
            return self.compute_mat(query_emb, ref_emb).diagonal()

    def peer(knn: Callable[[Tensor, int, Tensor], tuple[Tensor, Tensor]]) -> Peer:
        return lambda points, rows, k: _without_self(
            knn(points[rows], k + 1, points)[1].numpy(), rows, k
        )

    in_ball = {"pytorch-metric-learning, own distance": peer(CustomKNN(Hyperbolic()))}
    on_sphere = {
        "pytorch-metric-learning, LpDistance": peer(CustomKNN(LpDistance())),
        "pytorch-metric-learning, FAISS": peer(FaissKNN()),
    }
    return in_ball, on_sphere, None
