"""The elementwise part of the streaming losses: a tile of dot products to weights and row sums.

A tile has N rows (queries) and k columns (negatives). With the logit l of a pair and a reference
m of its row, e = exp(l - m). What a tile contributes to log-sum-exp and gradient are row sums of
e times derivatives of l, and the weights W that multiply the negatives in a second matrix product.

For the ball the products are 2<x, y>. There u = cosh(√c d) - 1 = |x-y|² a b with a = 2c/gap_x and
b = 1/gap_y, and l = -p·acosh(1 + u) with p = 1/(√c T), so that dl/du = -p/r with r = √(u(u+2)).
The hyperboloid: the same with u = c(x₀y₀ - <x, y>) - 1. Flat space: l = -p·|x-y| with p = 1/T, so
that dl/d|x-y| = -p. All functions compile whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pretrain.geometry.gram import LORENTZ_NEAR, NEAR

FLOOR = -60.0
"""Smallest l - m: below, e is an invisible 1e-26. Subnormals would slow a matrix product 100x."""

CEILING = 1e13
"""Largest row sum of e before the reference must rise: far from overflow after division by r."""


class Sums(NamedTuple):
    """Row sums (N,) of a tile, or of all tiles.

    Attributes:
        e: of e; the log-sum-exp is m + log of this.
        weight: of W.
        slope: of h·∂u/∂f, where f is the row factor (log a, or time) and h = e/r.
        logit: of e·l: what a factor of l gets. Zero unless wide.
        tilt: of h·∂u/∂(log c) through the column factors. Zero unless wide.
    """

    e: Tensor
    weight: Tensor
    slope: Tensor
    logit: Tensor
    tilt: Tensor


class Tile(NamedTuple):
    """What one tile gives.

    Attributes:
        weights: W, (N, k).
        sums: its row sums.
        clear: (N,), positive where no pair of the row is near. Elsewhere the tile may hold
            anything, NaN too, and must be done again.
    """

    weights: Tensor
    sums: Sums
    clear: Tensor


class Span(NamedTuple):
    """What several tiles give: the sum of their W y, (N, D), and the rest of each."""

    weighted: Tensor
    sums: tuple[Sums, ...]
    clear: tuple[Tensor, ...]

    def total(self) -> Sums:
        """The sums of all tiles."""
        return Sums(*(torch.stack(parts).sum(0) for parts in zip(*self.sums, strict=True)))


Tiles = tuple[tuple[Tensor, Any], ...]
"""Negatives (k, D) with their column factors."""


class SpanConstants(NamedTuple):
    """What is the same for all tiles of a span.

    Attributes:
        rows: row factors of the geometry.
        m: (N, 1).
        wide: whether all sums are wanted.
    """

    rows: Any
    m: Tensor
    wide: bool


class CosineRows(NamedTuple):
    """Row factor (N, 1): 1/T."""

    scale: Tensor


class BallRows(NamedTuple):
    """Row factors (N, 1): |x|², a = 2c/gap_x, p = 1/(√c T)."""

    square: Tensor
    a: Tensor
    p: Tensor


class BallColumns(NamedTuple):
    """Column factors (k,): |y|², b = 1/gap_y."""

    square: Tensor
    b: Tensor


class HyperboloidRows(NamedTuple):
    """Row factors (N, 1): c·x₀, c, p = 1/(√c T)."""

    time: Tensor
    c: Tensor
    p: Tensor


class HyperboloidColumns(NamedTuple):
    """Column factor (k,): y₀."""

    time: Tensor


class FlatRows(NamedTuple):
    """Row factors (N, 1): |x|², p = 1/T."""

    square: Tensor
    p: Tensor


class FlatColumns(NamedTuple):
    """Column factor (k,): |y|²."""

    square: Tensor


def cosine(dots: Tensor, factors: tuple[CosineRows, None], m: Tensor, wide: bool) -> Tile:
    """One tile with logits dots/T; W = e."""
    logit = dots * factors[0].scale
    e = (logit - m).clamp_min(FLOOR).exp()
    zero = torch.zeros_like(m[:, 0])
    return Tile(e, Sums(e.sum(1), zero, zero, (e * logit).sum(1) if wide else zero, zero), zero + 1)


def ball(dots: Tensor, factors: tuple[BallRows, BallColumns], m: Tensor, wide: bool) -> Tile:
    """One tile with logits -d/T of ball points; W = h·b."""
    rows, columns = factors
    u, squared = ball_u(dots, rows, columns)
    e, h, logit = weigh(u, rows.p, m)
    w = h * columns.b
    slope = h * u
    zero = torch.zeros_like(m[:, 0])
    sums = Sums(
        e.sum(1),
        w.sum(1),
        slope.sum(1),
        (e * logit).sum(1) if wide else zero,
        (slope * (columns.b - 1)).sum(1) if wide else zero,
    )
    return Tile(w, sums, squared.amin(1) - NEAR * rows.square[:, 0])


def hyperboloid(
    dots: Tensor, factors: tuple[HyperboloidRows, HyperboloidColumns], m: Tensor, wide: bool
) -> Tile:
    """One tile with logits -d/T of hyperboloid points; W = h."""
    rows, columns = factors
    u, alarm = hyperboloid_u(dots, rows, columns)
    e, h, logit = weigh(u, rows.p, m)
    zero = torch.zeros_like(m[:, 0])
    slope = (h * columns.time).sum(1)
    logits = (e * logit).sum(1) if wide else zero
    return Tile(h, Sums(e.sum(1), zero, slope, logits, zero), alarm.amin(1))


def flat(dots: Tensor, factors: tuple[FlatRows, FlatColumns], m: Tensor, wide: bool) -> Tile:
    """One tile with logits -|x-y|/T; dots are 2<x, y>, W = e/|x-y|."""
    rows, columns = factors
    squared = (rows.square + columns.square) - dots
    length = squared.sqrt()
    logit = -rows.p * length
    e = (logit - m).clamp_min(FLOOR).exp()
    w = e / length
    zero = torch.zeros_like(m[:, 0])
    sums = Sums(e.sum(1), w.sum(1), zero, (e * logit).sum(1) if wide else zero, zero)
    return Tile(w, sums, squared.amin(1) - NEAR * rows.square[:, 0])


def cosine_sweep(left: Tensor, tiles: Tiles, given: SpanConstants) -> Span:
    """Several tiles of :func:`cosine`; left: the queries (N, D)."""
    return _sweep(cosine, left, tiles, given)


def ball_sweep(left: Tensor, tiles: Tiles, given: SpanConstants) -> Span:
    """Several tiles of :func:`ball`; left: the queries times 2."""
    return _sweep(ball, left, tiles, given)


def hyperboloid_sweep(left: Tensor, tiles: Tiles, given: SpanConstants) -> Span:
    """Several tiles of :func:`hyperboloid`; left: the queries."""
    return _sweep(hyperboloid, left, tiles, given)


def flat_sweep(left: Tensor, tiles: Tiles, given: SpanConstants) -> Span:
    """Several tiles of :func:`flat`; left: the queries times 2."""
    return _sweep(flat, left, tiles, given)


def _sweep(body: Callable[..., Tile], left: Tensor, tiles: Tiles, given: SpanConstants) -> Span:
    done: list[Tile] = []
    weighted, lhs = torch.zeros_like(left), left
    for y, columns in tiles:
        tile = body(lhs @ y.mT, (given.rows, columns), given.m, given.wide)
        weighted = torch.addmm(weighted, tile.weights, y)
        done.append(tile)
        # Let the next tile wait for all of this one. The compiler would rather do one kind of work
        # for many tiles, and they would leave the cache between their two products.
        link = weighted[:, :1] + tile.clear[:, None]
        lhs = left + (link - link)
    return Span(weighted, tuple(tile.sums for tile in done), tuple(tile.clear for tile in done))


def squares(y: Tensor, c: Tensor) -> Tensor:
    """|y|² of rows (k, D) of the ball, float64, to 2e-10 at least."""
    if torch.compiler.is_compiling() and y.dtype == torch.float32:
        return split_squares(y, c)
    return y.double().square().sum(1)


def split_squares(y: Tensor, c: Tensor) -> Tensor:
    """The same from float32 arithmetic, in half the time once compiled.

    y = high + low, where high has 11 bits below the radius: its squares are multiples of 2⁻²² of
    the radius', so float32 adds them without rounding. What remains is 2⁻¹¹ as large.
    """
    radius = torch.exp2(torch.ceil(-torch.log2(c) / 2)).to(y.dtype)
    shift = radius * (1.5 * 2.0 ** (23 - 11))
    high = (y + shift) - shift
    low = y - high
    return (high * high).sum(1).double() + ((high + y) * low).sum(1)


def ball_columns(y: Tensor, c: Tensor) -> BallColumns:
    """Column factors of ball points y (k, D); c float64."""
    return ball_factors(squares(y, c), c, y.dtype)


def ball_factors(square: Tensor, c: Tensor, dtype: torch.dtype) -> BallColumns:
    """Column factors from the float64 |y|² (k,)."""
    gap = (1 - c * square).clamp_min(torch.finfo(dtype).eps)
    return BallColumns(square.to(dtype), (1 / gap).to(dtype))


def hyperboloid_columns(y: Tensor, c: Tensor) -> HyperboloidColumns:
    """Column factor of hyperboloid points with spatial coordinates y (k, D); c float64."""
    return hyperboloid_factors(y.double().square().sum(1), c, y.dtype)


def hyperboloid_factors(square: Tensor, c: Tensor, dtype: torch.dtype) -> HyperboloidColumns:
    """Column factor from the float64 |y|² (k,)."""
    return HyperboloidColumns((1 / c + square).sqrt().to(dtype))


def flat_columns(y: Tensor, _: Tensor) -> FlatColumns:
    """Column factor of vectors y (k, D)."""
    return FlatColumns(y.double().square().sum(1).to(y.dtype))


def ball_u(dots: Tensor, rows: BallRows, columns: BallColumns) -> tuple[Tensor, Tensor]:
    """Return u and |x-y|²: near pairs have up to NEAR·|x|² of the latter."""
    squared = (rows.square + columns.square) - dots
    return squared * (rows.a * columns.b), squared


def hyperboloid_u(
    dots: Tensor, rows: HyperboloidRows, columns: HyperboloidColumns
) -> tuple[Tensor, Tensor]:
    """Return u, and a tensor that is not positive where the pair is near."""
    terms = rows.time * columns.time
    u = (terms - rows.c * dots) - 1
    return u, u - LORENTZ_NEAR * terms


def weigh(u: Tensor, p: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return e, h = e/r and l for u > 0. The factor -p of dl/du is left to the row sums."""
    r = (u * (u + 2)).sqrt()
    logit = -p * (1 + u + r).log()
    e = (logit - m).clamp_min(FLOOR).exp()
    return e, e / r, logit
