"""Going through a queue of negatives tile by tile: nothing of size N x K ever exists.

Each tile of the queue costs two matrix products, one for the dot products and one for the
gradient, and one elementwise pass (:mod:`pretrain.losses.chunk_math`). The gradient is taken on
the way and kept, (N, D). Sums are relative to a reference m near the largest logit of the row,
set by the first few negatives and raised when a later one exceeds it by far.

Tiles in which a dot product is too coarse for some pair (near points) are done again with the
distances of such pairs by differences, in value and gradient.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pretrain.losses import chunk_math
from pretrain.losses.chunk_math import Sums, Tile

TILE = {"cpu": 2**18, "cuda": 2**22}
"""Logits of a tile: on a CPU, those that stay in the second-level cache (1 MiB of float32)."""

PEEK = 256
"""Negatives that set the first reference."""

COMPILE_FROM = 2**22
"""From so many logits a call (tens of milliseconds) a compiled elementwise pass is worth the
quarter of a minute that compiling takes once per shape. HCL_COMPILE=never or always overrides."""

Body = Callable[..., Any]
"""One of the functions of chunk_math, perhaps compiled."""

_log = logging.getLogger(__name__)
_compiled: dict[Body, Body] = {}
_broken: set[Body] = set()


class Geometry(Protocol):
    """One kind of logit, for one block of queries.

    Attributes:
        body: of chunk_math, dot products to weights and sums.
        prepare: of chunk_math, negatives and curvature to column factors, if there are any.
        from_squares: of chunk_math, the same from known |y|².
        rows: row factors.
        stretch: what the dot products are to be multiplied by; a power of two.
        wide: whether all sums are wanted.
        curvature: c in float64.
    """

    body: Body
    prepare: Body | None
    from_squares: Body | None
    rows: Any
    stretch: float
    wide: bool
    curvature: Tensor

    def peak(self, dots: Tensor, columns: Any) -> Tensor:
        """Largest logit of each row, (N, 1)."""

    def careful(self, y: Tensor, dots: Tensor, columns: Any, total: Total) -> Tile:
        """Do a tile with near pairs by differences and a reference high enough.

        Both change the total: ``total.near`` gets the gradient of near pairs, whose weights are 0.
        """


class Negatives(NamedTuple):
    """What is constant: points (K, D) and, where the caller keeps them, their float64 |y|² (K,)."""

    points: Tensor
    squares: Tensor | None = None


class Total:
    """What the tiles add up to for one block of queries, relative to ``m``.

    Attributes:
        m: (N, 1).
        sums: row sums.
        weighted: W y, (N, D).
        near: what near pairs add to the gradient (N, D), in the unit in which W y does.
    """

    def __init__(self, x: Tensor, m: Tensor) -> None:
        self.m = m
        zero = torch.zeros_like(m[:, 0])
        self.sums = Sums(zero, zero, zero, zero, zero)
        self.weighted = torch.zeros_like(x)
        self.near = torch.zeros_like(x)

    def raise_to(self, m: Tensor) -> None:
        """Express everything relative to a reference that is at least m."""
        m = torch.maximum(self.m, m)
        factor = (self.m - m).exp()
        self.m = m
        self.weighted *= factor
        self.near *= factor
        self.sums = Sums(*(part * factor[:, 0] for part in self.sums))

    def logsumexp(self) -> Tensor:
        """Over all negatives, (N,)."""
        return self.m[:, 0] + self.sums.e.log()


def accumulate(geometry: Geometry, x: Tensor, negatives: Negatives) -> Total:
    """Go through K > 0 negatives once for the queries x (N, D)."""
    points, squares = negatives
    total = Total(x, first_peak(geometry, x, points[:PEEK]))
    width = tile_width(len(x), len(points), x.device.type)
    body = compiled(geometry.body, len(x) * len(points))
    prepare = geometry.prepare and compiled(geometry.prepare, len(x) * len(points))
    known = None
    if squares is not None and geometry.from_squares:
        known = geometry.from_squares(squares, geometry.curvature, x.dtype)
    left = x if geometry.stretch == 1 else x * geometry.stretch
    buffer = x.new_empty(len(x), width)
    for start in range(0, len(points), width):
        y = points[start : start + width]
        if known is not None:
            columns = type(known)(*(factor[start : start + width] for factor in known))
        else:
            columns = prepare(y, geometry.curvature) if prepare else None
        dots = buffer if len(y) == width else x.new_empty(len(x), len(y))
        torch.mm(left, y.mT, out=dots)
        tile = body(dots, (geometry.rows, columns), total.m, geometry.wide)
        if bool((tile.clear.amin() <= 0) | (tile.sums.e.amax() > chunk_math.CEILING)):
            tile = geometry.careful(y, dots, columns, total)
        total.sums = Sums(*map(torch.add, total.sums, tile.sums))
        total.weighted.addmm_(tile.weights, y)
    return total


def first_peak(geometry: Geometry, x: Tensor, y: Tensor) -> Tensor:
    """Largest logit of each row against these few negatives, (N, 1): the first reference."""
    columns = geometry.prepare(y, geometry.curvature) if geometry.prepare else None
    return geometry.peak(x @ y.mT * geometry.stretch, columns)


def tile_width(rows: int, columns: int, device: str) -> int:
    """Columns of a tile: a power of two, so that it divides the usual queue lengths."""
    logits = TILE.get(device, TILE["cuda"])
    width: int = 2 ** max(8, (logits // rows).bit_length() - 1)
    return min(width, 2**12 if device == "cpu" else 2**16, columns)


def compiled(eager: Body, logits: int) -> Body:
    """The function compiled, where that pays for so many logits and works."""
    wish = os.environ.get("HCL_COMPILE", "auto")
    if wish == "never" or (wish != "always" and logits < COMPILE_FROM):
        return eager
    if eager not in _compiled:
        _compiled[eager] = torch.compile(eager, dynamic=False)

    def attempt(*arguments: Any) -> Any:
        # The tail of a queue is a shape of its own: not worth a compilation.
        if eager in _broken or arguments[0].shape[-1].bit_count() != 1:
            return eager(*arguments)
        try:
            return _compiled[eager](*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            _broken.add(eager)
            _log.warning("torch.compile does not work here, going on without: %s", error)
            return eager(*arguments)

    return attempt
