"""Differentiable log-sum-exp over constant negatives, by streaming or by the fused kernel.

One autograd function serves all geometries: it takes the queries and their row factors, keeps
the gradient of the log-sum-exp for each while summing, and multiplies them in backward. What the
factors depend on (the query's gap, the curvature, the temperature) is left to autograd.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pretrain.geometry import poincare
from pretrain.geometry.gram import NEAR
from pretrain.geometry.precision import (
    Curvature,
    curvature_like,
    ieee_matmul,
    pairwise_euclidean,
    root,
)
from pretrain.losses import chunk_math, streaming
from pretrain.losses.chunk_math import (
    BallColumns,
    BallRows,
    CosineRows,
    HyperboloidColumns,
    HyperboloidRows,
    Sums,
    Tile,
)
from pretrain.losses.contrast import Temperature
from pretrain.losses.streaming import Total

ROWS = 512
"""Queries done together; more go in several passes over the queue."""


class Differentiable(streaming.Geometry, Protocol):
    """A geometry that knows the gradient.

    Attributes:
        costly: positions of the factors whose gradients need the sums of ``wide``.
    """

    costly: tuple[int, ...]

    def gradients(self, total: Total) -> tuple[Tensor, ...]:
        """Of the log-sum-exp (N,): for the queries (N, D) and each factor (N, 1)."""


class Cosine:
    """Logits <x, y>/T. Factors: 1/T."""

    sweep = staticmethod(chunk_math.cosine_sweep)
    stretch = 1.0
    prepare = None
    costly = (0,)

    def __init__(self, x: Tensor, factors: tuple[Tensor, ...], wide: bool) -> None:
        self.factors = factors
        (self.scale,) = factors
        self.curvature = x.new_zeros(())
        self.rows, self.wide = CosineRows(self.scale), wide

    def peak(self, dots: Tensor, columns: None) -> Tensor:
        """Largest logit of each row, (N, 1)."""
        return dots.amax(1, keepdim=True) * self.scale

    def careful(self, y: Tensor, dots: Tensor, columns: None, total: Total) -> Tile:
        """No pair is ever near: only the reference rises."""
        total.raise_to(self.peak(dots, columns))
        return chunk_math.cosine(dots, (self.rows, None), total.m, self.wide)

    def gradients(self, total: Total) -> tuple[Tensor, ...]:
        """For x and 1/T."""
        e = total.sums.e[:, None]
        return total.weighted * (self.scale / e), total.sums.logit[:, None] / (self.scale * e)


class Ball:
    """Logits -d(x, y)/T of ball points. Factors: a = 2c/gap_x, p = 1/(√c T), c."""

    sweep = staticmethod(chunk_math.ball_sweep)
    stretch = 2.0
    prepare = staticmethod(chunk_math.ball_columns)
    costly = (1, 2)

    def __init__(self, x: Tensor, factors: tuple[Tensor, ...], wide: bool) -> None:
        self.x, self.factors, self.wide = x, factors, wide
        self.a, self.p, self.c = factors
        self.curvature = self.c[0]
        self.rows = BallRows(square(x)[:, None].to(x.dtype), self.a, self.p)

    def peak(self, dots: Tensor, columns: BallColumns) -> Tensor:
        """Largest logit of each row, (N, 1)."""
        u, _ = chunk_math.ball_u(dots, self.rows, columns)
        return _peak(u, self.p)

    def careful(self, y: Tensor, dots: Tensor, columns: BallColumns, total: Total) -> Tile:
        """Near pairs, and the block of rows and columns they span, by differences."""
        u, squared = chunk_math.ball_u(dots, self.rows, columns)
        i, j = span(squared <= NEAR * self.rows.square)
        with torch.enable_grad():
            x = self.x[i].requires_grad_()
            chord = pairwise_euclidean(x, y[j])
        stretch = self.a[i] * columns.b[j]
        u[i[:, None], j] = chord.detach().square() * stretch
        total.raise_to(_peak(u, self.p))
        e, h, logit = chunk_math.weigh(u, self.p, total.m)
        h = torch.where(u > 0, h, 0.0)  # coincident points have no slope
        pull = h[i[:, None], j] * 2 * chord.detach() * stretch
        total.near[i] += torch.autograd.grad(chord, x, pull)[0]
        slope, w = h * u, h * columns.b
        w[i[:, None], j] = 0
        parts = (e, w, slope, e * logit, slope * (columns.b - 1))
        return Tile(w, Sums(*(part.sum(1) for part in parts)), torch.ones_like(e[:, 0]))

    def gradients(self, total: Total) -> tuple[Tensor, ...]:
        """For x at constant a, and for a, p and c."""
        sums = Sums(*(part[:, None] for part in total.sums))
        pull = 2 * self.a * (self.x * sums.weight - total.weighted) + total.near
        factor = -self.p / sums.e
        return (
            factor * pull,
            factor * sums.slope / self.a,
            sums.logit / (self.p * sums.e),
            factor * sums.tilt / self.c,
        )


class Hyperboloid:
    """Logits -d(x, y)/T of hyperboloid points. Factors: c·x₀, c (no gradient), p = 1/(√c T).

    Queries and negatives are their spatial coordinates (N, D); times follow from them.
    """

    sweep = staticmethod(chunk_math.hyperboloid_sweep)
    stretch = 1.0
    prepare = staticmethod(chunk_math.hyperboloid_columns)
    costly = (2,)

    def __init__(self, x: Tensor, factors: tuple[Tensor, ...], wide: bool) -> None:
        self.x, self.factors, self.wide = x, factors, wide
        self.time, self.c, self.p = factors
        self.curvature = self.c[0]
        self.rows = HyperboloidRows(self.time, self.c.to(x.dtype), self.p)

    def peak(self, dots: Tensor, columns: HyperboloidColumns) -> Tensor:
        """Largest logit of each row, (N, 1)."""
        u, _ = chunk_math.hyperboloid_u(dots, self.rows, columns)
        return _peak(u, self.p)

    def careful(self, y: Tensor, dots: Tensor, columns: HyperboloidColumns, total: Total) -> Tile:
        """Near pairs, and the block of rows and columns they span, as float64 ball points."""
        u, alarm = chunk_math.hyperboloid_u(dots, self.rows, columns)
        i, j = span(alarm <= 0)
        with torch.enable_grad():
            x = self.x[i].requires_grad_()
            block = spatial_u(x, y[j], self.curvature)
        u[i[:, None], j] = block.detach().to(u.dtype)
        total.raise_to(_peak(u, self.p))
        e, h, logit = chunk_math.weigh(u, self.p, total.m)
        h = torch.where(u > 0, h, 0.0)
        total.near[i] += torch.autograd.grad(block, x, h[i[:, None], j].double())[0]
        h[i[:, None], j] = 0
        zero = torch.zeros_like(e)
        parts = (e, zero, h * columns.time, e * logit, zero)
        return Tile(h, Sums(*(part.sum(1) for part in parts)), torch.ones_like(e[:, 0]))

    def gradients(self, total: Total) -> tuple[Tensor, ...]:
        """For x at constant time, and for c·x₀, c (none) and p."""
        sums = Sums(*(part[:, None] for part in total.sums))
        factor = -self.p / sums.e
        return (
            factor * (total.near - self.rows.c * total.weighted),
            factor * sums.slope,
            torch.zeros_like(self.c),
            sums.logit / (self.p * sums.e),
        )


class _LogSumExp(torch.autograd.Function):
    """Over the negatives, (N,), of x (N, D) with row factors (N, 1)."""

    @staticmethod
    def forward(
        ctx: Any,
        kind: type[Differentiable],
        fused: bool,
        queue: Tensor,
        x: Tensor,
        *factors: Tensor,
    ) -> Tensor:
        wide = any(ctx.needs_input_grad[4 + position] for position in kind.costly)
        results = []
        with ieee_matmul(x.device):
            for start in range(0, len(x), ROWS):
                part = slice(start, start + ROWS)
                geometry = kind(x[part], tuple(factor[part] for factor in factors), wide)
                total = _total(geometry, x[part], queue, fused)
                results.append((total.logsumexp(), *geometry.gradients(total)))
        value, *gradients = (torch.cat(parts) for parts in zip(*results, strict=True))
        ctx.save_for_backward(*gradients)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *(part * grad[:, None] for part in ctx.saved_tensors)


def _total(geometry: Differentiable, x: Tensor, queue: Tensor, fused: bool) -> Total:
    if fused:
        from pretrain.losses.fused import accumulate

        return accumulate(geometry, x, queue)
    return streaming.accumulate(geometry, x, queue)


def cosine(query: Tensor, queue: Tensor, temperature: Temperature, *, fused: bool) -> Tensor:
    """Log Σ_j exp(<x, y_j>/T), (N,), of queries (N, D)."""
    return log_sum_exp(Cosine, fused, queue, query, column(1 / temperature, query))


def ball(
    query: Tensor, queue: Tensor, c: Curvature, temperature: Temperature, *, fused: bool
) -> Tensor:
    """Log Σ_j exp(-d(x, y_j)/T), (N,), of ball points; gradients reach c and T too."""
    # The gap of a negative near the rim is wrong by eps/gap if c is rounded to float32.
    wide_c = column(c, query.double())
    c = curvature_like(c, query)
    a = 2 * c / poincare.gap(query, c)
    p = column(1 / (root(c) * temperature), query)
    return log_sum_exp(Ball, fused, queue, query, a[:, None], p, wide_c)


def hyperboloid(
    query: Tensor, queue: Tensor, c: float, temperature: Temperature, *, fused: bool
) -> Tensor:
    """Log Σ_j exp(-d(x, y_j)/T), (N,), of spatial coordinates (N, D) and (K, D)."""
    wide_c = column(c, query.double())
    time = (1 / c + square(query)).sqrt().to(query.dtype)
    p = column(1 / (root(c) * temperature), query)
    return log_sum_exp(Hyperboloid, fused, queue, query, c * time[:, None], wide_c, p)


def spatial_u(x: Tensor, y: Tensor, c: Curvature) -> Tensor:
    """cosh(√c d) - 1 of hyperboloid points given by x (N, D) and y (M, D), float64 (N, M).

    As float64 ball points, whose gap 2/(1 + √c x₀) has no cancellation, by differences.
    """
    s = root(c)
    x, y = x.double(), y.double()
    shift_x, shift_y = (1 + s * (1 / c + square(spatial)).sqrt() for spatial in (x, y))
    chord = pairwise_euclidean(x / shift_x[:, None], y / shift_y[:, None])
    return c / 2 * chord.square() * shift_x[:, None] * shift_y


def log_sum_exp(kind: type, fused: bool, queue: Tensor, *tensors: Tensor) -> Tensor:
    """Over the constant negatives, (N,), of queries and row factors: ``tensors``.

    Args:
        kind: a :class:`Differentiable`.
        fused: by the CUDA kernel.
        queue: (K, D).
        tensors: the queries (N, D), then the factors (N, 1) that ``kind`` wants.
    """
    value: Tensor = _LogSumExp.apply(kind, fused, queue, *tensors)  # type: ignore[no-untyped-call]
    return value


def column(value: float | Tensor, like: Tensor) -> Tensor:
    """A number, or a tensor of one or N elements, as (N, 1) in the dtype of ``like``."""
    column = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return column.reshape(-1, 1).expand(len(like), 1)


def _peak(u: Tensor, p: Tensor) -> Tensor:
    """Largest logit of each row of u, (N, 1)."""
    return -p * torch.acosh(1 + u.amin(1, keepdim=True).clamp_min(0))


def square(x: Tensor) -> Tensor:
    """|x|² of rows, in float64."""
    return x.double().square().sum(1)


def span(near: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns with a near pair."""
    return near.any(1).nonzero()[:, 0], near.any(0).nonzero()[:, 0]
