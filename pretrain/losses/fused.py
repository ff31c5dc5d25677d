"""The streaming sums in one CUDA kernel: dot products, weights, sums and gradient fused.

A program takes a block of queries and a share of the queue, goes through it tile by tile with a
running maximum (as in FlashAttention, Dao et al. 2022), and keeps its sums and its part of the
gradient in registers; the shares are joined afterwards. Memory is (shares, N, D), independent of
K. Products take three TF32 passes, which keeps 22 bits: one pass would lose every distance below
about 5 near the rim, and IEEE products run outside the tensor cores. Rows that meet a near pair,
for which a dot product is too coarse, are only marked by the kernel and done again by
:mod:`pretrain.losses.streaming`.

The arithmetic is that of :mod:`pretrain.losses.chunk_math`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from pretrain.geometry.gram import LORENTZ_NEAR, NEAR
from pretrain.losses import chunk_math, streaming
from pretrain.losses.chunk_math import Sums
from pretrain.losses.streaming import Total

if TYPE_CHECKING:
    from pretrain.losses.negatives import Differentiable

QUERIES, NEGATIVES = 32, 32
"""Rows and columns of a tile: what four warps hold in registers at D = 128 without spilling much,
in 48 KiB of shared memory."""

COSINE, BALL, HYPERBOLOID = 0, 1, 2
KINDS: dict[Callable[..., Any], int] = {
    chunk_math.cosine_sweep: COSINE,
    chunk_math.ball_sweep: BALL,
    chunk_math.hyperboloid_sweep: HYPERBOLOID,
}


@triton.jit  # type: ignore[untyped-decorator]
def _share(  # type: ignore[no-untyped-def]  # noqa: PLR0915, PLR0917
    x,
    y,
    rows,
    columns,
    m_out,
    sums_out,
    weighted_out,
    n,
    k,
    d,
    x_stride,
    y_stride,
    share: tl.constexpr,
    kind: tl.constexpr,
    near: tl.constexpr,
    queries: tl.constexpr,
    negatives: tl.constexpr,
    width: tl.constexpr,
):
    """One block of queries against one share of the queue.

    rows is (3, n), columns (2, k); m_out is (shares, n), sums_out (4, shares, n) for e, weight,
    slope and clear, weighted_out (shares, n, d).
    """
    part = tl.program_id(1)
    row = tl.program_id(0) * queries + tl.arange(0, queries)
    feature = tl.arange(0, width)
    in_rows, in_width = row < n, feature < d
    x_tile = tl.load(
        x + row[:, None] * x_stride + feature[None, :],
        mask=in_rows[:, None] & in_width[None, :],
        other=0.0,
    )
    # Rows beyond n compute with factors of 1 and are not stored.
    row_0 = tl.load(rows + row, mask=in_rows, other=1.0)[:, None]
    row_1 = tl.load(rows + n + row, mask=in_rows, other=1.0)[:, None]
    row_2 = tl.load(rows + 2 * n + row, mask=in_rows, other=1.0)[:, None]

    m = tl.full((queries,), float("-inf"), tl.float32)
    e_sum = tl.zeros((queries,), tl.float32)
    weight_sum = tl.zeros((queries,), tl.float32)
    slope_sum = tl.zeros((queries,), tl.float32)
    clear = tl.full((queries,), float("inf"), tl.float32)
    weighted = tl.zeros((queries, width), tl.float32)
    # A constant bound: the last share may run over k, into tiles that are masked throughout.
    for start in range(0, share, negatives):
        column = part * share + start + tl.arange(0, negatives)
        in_columns = (column < k)[None, :]
        y_tile = tl.load(
            y + column[:, None] * y_stride + feature[None, :],
            mask=(column < k)[:, None] & in_width[None, :],
            other=0.0,
        )
        dots = tl.dot(x_tile, tl.trans(y_tile), input_precision="tf32x3")
        if kind == 0:
            logit = dots * row_0
        else:
            column_0 = tl.load(columns + column, mask=column < k, other=1.0)[None, :]
            if kind == 1:
                column_1 = tl.load(columns + k + column, mask=column < k, other=1.0)[None, :]
                squared = (row_0 + column_0) - 2.0 * dots
                u = squared * (row_1 * column_1)
                alarm = squared - near * row_0
            else:
                terms = row_0 * column_0
                u = (terms - row_1 * dots) - 1.0
                alarm = u - near * terms
            clear = tl.minimum(clear, tl.min(tl.where(in_columns, alarm, float("inf")), 1))
            u = tl.maximum(u, 1.1754944e-38)
            logit = -row_2 * tl.log(1.0 + u + tl.sqrt(u * (u + 2.0)))
        logit = tl.where(in_columns, logit, float("-inf"))
        m_new = tl.maximum(m, tl.max(logit, 1))
        fade = tl.exp(m - m_new)
        w = tl.exp(logit - m_new[:, None])
        m = m_new
        e_sum = e_sum * fade + tl.sum(w, 1)
        if kind != 0:
            # The root again, rather than a tile of them kept in registers.
            w = w * tl.rsqrt(u * (u + 2.0))
            if kind == 1:
                slope_sum = slope_sum * fade + tl.sum(w * u, 1)
                w = w * column_1
                weight_sum = weight_sum * fade + tl.sum(w, 1)
            else:
                slope_sum = slope_sum * fade + tl.sum(w * column_0, 1)
        weighted = weighted * fade[:, None] + tl.dot(w, y_tile, input_precision="tf32x3")
    at = part * n + row
    stride = tl.num_programs(1) * n
    tl.store(m_out + at, m, mask=in_rows)
    tl.store(sums_out + at, e_sum, mask=in_rows)
    tl.store(sums_out + stride + at, weight_sum, mask=in_rows)
    tl.store(sums_out + 2 * stride + at, slope_sum, mask=in_rows)
    tl.store(sums_out + 3 * stride + at, clear, mask=in_rows)
    tl.store(
        weighted_out + at[:, None] * d + feature[None, :],
        weighted,
        mask=in_rows[:, None] & in_width[None, :],
    )


@triton.jit  # type: ignore[untyped-decorator]
def _squares(  # type: ignore[no-untyped-def]  # noqa: PLR0917
    y, out, k, d, y_stride, negatives: tl.constexpr, width: tl.constexpr
):
    """|y|² of rows in float64, without a float64 copy of y."""
    row = tl.program_id(0) * negatives + tl.arange(0, negatives)
    feature = tl.arange(0, width)
    tile = tl.load(
        y + row[:, None] * y_stride + feature[None, :],
        mask=(row < k)[:, None] & (feature < d)[None, :],
        other=0.0,
    ).to(tl.float64)
    tl.store(out + row, tl.sum(tile * tile, 1), mask=row < k)


def accumulate(geometry: Differentiable, x: Tensor, queue: Tensor) -> Total:
    """As :func:`pretrain.losses.streaming.accumulate`, float32 only, without the wide sums."""
    n, d = x.shape
    k = len(queue)
    kind = KINDS[geometry.sweep]
    x = x.contiguous()
    if queue.stride(1) != 1:
        queue = queue.contiguous()
    width = max(16, triton.next_power_of_2(d))
    blocks = triton.cdiv(n, QUERIES)
    tiles = triton.cdiv(k, NEGATIVES)
    # Every share gets at least one tile, and every processor about two programs.
    share = NEGATIVES * triton.cdiv(tiles, min(tiles, triton.cdiv(2 * _processors(x), blocks)))
    shares = triton.cdiv(k, share)
    m = x.new_empty(shares, n)
    sums = x.new_empty(4, shares, n)
    weighted = x.new_empty(shares, n, d)
    _share[(blocks, shares)](
        x,
        queue,
        _rows(geometry, n),
        _columns(geometry, queue, kind),
        m,
        sums,
        weighted,
        n,
        k,
        d,
        x.stride(0),
        queue.stride(0),
        share=share,
        kind=kind,
        near=LORENTZ_NEAR if kind == HYPERBOLOID else NEAR,
        queries=QUERIES,
        negatives=NEGATIVES,
        width=width,
        num_warps=4,
        num_stages=2,
    )
    total = _join(x, m, sums, weighted)
    near = (sums[3].amin(0) <= 0).nonzero()[:, 0]
    if len(near) > 0:
        _again(total, near, geometry, x, queue)
    return total


def _processors(x: Tensor) -> int:
    if x.device.type != "cuda":
        return 2  # Triton's interpreter: two shares, so that joining is exercised
    return torch.cuda.get_device_properties(x.device).multi_processor_count


def _rows(geometry: Differentiable, n: int) -> Tensor:
    """The row factors as (3, N), the unused ones 1."""
    rows: Any = geometry.rows
    factors = [factor[:, 0] for factor in rows]
    filler = torch.ones_like(factors[0])
    return torch.stack((factors + [filler] * 3)[:3]).reshape(3, n).contiguous()


def _columns(geometry: Differentiable, queue: Tensor, kind: int) -> Tensor:
    """The column factors as (2, K); for the cosine a dummy that is never read."""
    if kind == COSINE:
        return queue
    k, d = queue.shape
    square = queue.new_empty(k, dtype=torch.float64)
    grid = (triton.cdiv(k, NEGATIVES),)
    width = triton.next_power_of_2(d)
    _squares[grid](queue, square, k, d, queue.stride(0), negatives=NEGATIVES, width=width)
    factors = chunk_math.ball_factors if kind == BALL else chunk_math.hyperboloid_factors
    columns = factors(square, geometry.curvature, queue.dtype)
    return torch.stack((*columns, columns[0])[:2])


def _join(x: Tensor, m: Tensor, sums: Tensor, weighted: Tensor) -> Total:
    """Add the shares, relative to the largest of their references."""
    total = Total(x, m.amax(0)[:, None])
    fade = (m - total.m[:, 0]).exp()
    e, weight, slope = (sums[:3] * fade).sum(1)
    zero = torch.zeros_like(e)
    total.sums = Sums(e, weight, slope, zero, zero)
    total.weighted = (weighted * fade[:, :, None]).sum(0)
    return total


def _again(total: Total, rows: Tensor, geometry: Differentiable, x: Tensor, queue: Tensor) -> None:
    """Replace rows of the total by what the streaming path gives for them."""
    some, x = streaming.subset(geometry, x, rows), x[rows]
    width = streaming.tile_width(len(x), len(queue), x.device.type)
    exact = Total(x, streaming.first_peak(some, x, queue[: streaming.PEEK]))
    for y in torch.split(queue, width):
        columns = some.prepare(y, some.curvature) if some.prepare else None
        streaming.carefully(some, x, ((y, columns),), exact)
    total.put(rows, exact)
