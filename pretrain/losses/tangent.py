"""Hyperbolic InfoNCE of tangent vectors, for a ball whose curvature is learned.

Where c is learned, everything in the ball moves with it: the positive and the negatives as well
as the query. Their tangent vectors at the origin do not, so those are the constants here, and c
gets the derivative of the loss as a function of c, not just of its part through the query.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pretrain.geometry import gram, poincare
from pretrain.geometry.precision import as_float
from pretrain.losses.contrast import contrast, logsumexp
from pretrain.losses.paths import Path

TILE = 2**22
"""Logits held at once (16 MiB of float32); more go tile by tile, and are redone in backward."""


def hyperbolic_info_nce_of_tangents(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    c: Tensor,
    temperature: float,
    clip: float | None = None,
    path: Path = "auto",
    tile: int = TILE,
) -> Tensor:
    """InfoNCE with logits -d(x, y)/T of ball points, y those of tangent vectors; gradient to c.

    Args:
        query: (N, D) ball points that move with c: :func:`moving_point`.
        key: (N, D) tangent vectors at the origin, the positive of each query; constant.
        queue: (K, D) likewise, the negatives. With K = 0 the loss and its gradients are 0.
        c: the curvature is -c; one element.
        temperature: T > 0.
        clip: as in :func:`pretrain.geometry.poincare.to_ball`.
        path: "plain" sums distances by differences, every other one by matrix products; nothing
            larger than ``tile`` logits is held either way.
        tile: logits held at once.

    Raises:
        ValueError: path "triton", whose kernel gives c no gradient.
    """
    if path == "triton":
        raise ValueError("path 'triton' gives no gradient to a curvature; use 'auto'")
    x = as_float(query)
    y = poincare.to_ball(key.detach().to(x.dtype), c, clip=clip)
    positive = -poincare.distance(x, y, c) / temperature
    pairwise = poincare.pairwise_distance if path == "plain" else gram.pairwise_distance

    def total(x: Tensor, tangents: Tensor, c: Tensor) -> Tensor:
        points = poincare.to_ball(tangents.to(x.dtype), c, clip=clip)
        return logsumexp(-pairwise(x, points, c) / temperature)

    rows = max(tile // len(query), 1)
    constant = queue.detach()
    if len(constant) <= rows:
        return contrast(positive, total(x, constant, c))
    parts = [
        checkpoint(total, x, part, c, use_reentrant=False) for part in torch.split(constant, rows)
    ]
    return contrast(positive, torch.stack(parts).logsumexp(0))


def moving_point(
    tangent: Tensor, c: Tensor, *, clip: float | None = None, riemannian: bool = False
) -> Tensor:
    """The ball points (N, D) of tangent vectors (N, D), with gradients to the vectors and to c.

    Arguments as in :func:`pretrain.geometry.poincare.to_ball`. The two gradients are computed
    apart, because the Riemannian factor belongs to the point as a place in the ball,
    while c is an ordinary number: scaled, its gradient would no longer be that of the loss.
    """
    x = poincare.to_ball(tangent, c.detach(), clip=clip, riemannian=riemannian)
    by_curvature = poincare.to_ball(tangent.detach(), c, clip=clip)
    return x + (by_curvature - by_curvature.detach())
