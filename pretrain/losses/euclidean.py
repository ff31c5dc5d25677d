"""InfoNCE with Euclidean distances: what the hyperbolic loss becomes in flat space."""

from __future__ import annotations

import torch
from torch import Tensor

from pretrain.geometry import gram
from pretrain.geometry.gram import NEAR
from pretrain.geometry.precision import norm, pairwise_euclidean
from pretrain.losses import chunk_math, negatives
from pretrain.losses.chunk_math import FlatColumns, FlatRows, Sums, Tile
from pretrain.losses.contrast import (
    Temperature,
    check_rows,
    check_temperature,
    contrast,
    logsumexp,
    over,
)
from pretrain.losses.paths import Path, choose
from pretrain.losses.streaming import Total


def euclidean_info_nce(
    query: Tensor, key: Tensor, queue: Tensor, *, temperature: Temperature, path: Path = "auto"
) -> Tensor:
    """InfoNCE with logits -|x - y|/T of vectors of any length, averaged over the queries.

    Args:
        query: (N, D), with gradient; zero from a negative or key that it equals.
        key: (N, D), the positive of each query; constant.
        queue: (K, D), the negatives; constant. With K = 0 the loss is 0 with zero gradient.
        temperature: T; gradients reach a tensor.
        path: how the negatives are summed, see :mod:`pretrain.losses.paths`; there is no fused
            kernel.

    Raises:
        ValueError: shapes that do not fit, a temperature that is not positive, path "triton".
    """
    if path == "triton":
        raise ValueError("path 'triton' has no Euclidean distance; use 'auto' or 'streaming'")
    query, key, queue = check_rows(query, key, queue)
    temperature = check_temperature(temperature, query)
    path = choose(path, "euclidean_info_nce", query, queue, learnable=False)
    positive = over(-norm(query - key), temperature)
    if path in ("plain", "matrix") or len(queue) == 0:
        pairwise = pairwise_euclidean if path == "plain" else gram.pairwise_chord
        return contrast(positive, logsumexp(over(-pairwise(query, queue), temperature)))
    p = negatives.column(1 / temperature, query)
    return contrast(positive, negatives.log_sum_exp(Flat, False, queue, query, p))


class Flat:
    """Logits -|x-y|/T, as a ``negatives.Differentiable``. Factor: p = 1/T."""

    sweep = staticmethod(chunk_math.flat_sweep)
    stretch = 2.0
    prepare = staticmethod(chunk_math.flat_columns)
    costly = (0,)

    def __init__(self, x: Tensor, factors: tuple[Tensor, ...], wide: bool) -> None:
        self.x, self.factors, self.wide = x, factors, wide
        (self.p,) = factors
        self.curvature = x.new_zeros((), dtype=torch.float64)
        self.rows = FlatRows(negatives.square(x)[:, None].to(x.dtype), self.p)

    def peak(self, dots: Tensor, columns: FlatColumns) -> Tensor:
        """Largest logit of each row, (N, 1)."""
        squared = (self.rows.square + columns.square) - dots
        return -self.p * squared.amin(1, keepdim=True).clamp_min(0).sqrt()

    def careful(self, y: Tensor, dots: Tensor, columns: FlatColumns, total: Total) -> Tile:
        """Near pairs, and the block of rows and columns they span, by differences."""
        squared = (self.rows.square + columns.square) - dots
        i, j = negatives.span(squared <= NEAR * self.rows.square)
        with torch.enable_grad():
            x = self.x[i].requires_grad_()
            near = pairwise_euclidean(x, y[j])
        length = squared.clamp_min(0).sqrt()
        length[i[:, None], j] = near.detach()
        logit = -self.p * length
        total.raise_to(logit.amax(1, keepdim=True))
        e = (logit - total.m).clamp_min(chunk_math.FLOOR).exp()
        total.near[i] += torch.autograd.grad(near, x, e[i[:, None], j])[0]
        w = e / length
        w[i[:, None], j] = 0
        zero = torch.zeros_like(e[:, 0])
        sums = Sums(e.sum(1), w.sum(1), zero, (e * logit).sum(1), zero)
        return Tile(w, sums, zero + 1)

    def gradients(self, total: Total) -> tuple[Tensor, ...]:
        """For x and p."""
        sums = Sums(*(part[:, None] for part in total.sums))
        pull = self.x * sums.weight - total.weighted + total.near
        return -self.p / sums.e * pull, sums.logit / (self.p * sums.e)
