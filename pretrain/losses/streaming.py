"""Going through a queue of negatives tile by tile: nothing of size N x K ever exists.

Each tile of the queue costs two matrix products, one for the dot products and one for the
gradient, and one elementwise pass (:mod:`pretrain.losses.chunk_math`). The gradient is taken on
the way and kept, (N, D). Sums are relative to a reference m near the largest logit of the row,
set by the first few negatives and raised when a later one exceeds it by far.

Several tiles make a span, which is compiled as a whole: between tiles Python and the compiler's
guards would otherwise cost as much as the arithmetic. Rows for which a dot product is too coarse
somewhere in a span (near points), or whose reference is too low, go through the span once more,
with the distances of near pairs by differences, in value and gradient.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from pretrain.losses import chunk_math
from pretrain.losses.chunk_math import Span, SpanConstants, Sums, Tile, Tiles

TILE = {"cpu": 2**18, "cuda": 2**22}
"""Logits of a tile: on a CPU, those that stay in the second-level cache (1 MiB of float32)."""

SPAN = 8
"""Tiles of a span. More would save little and take longer to compile."""

PEEK = 256
"""Negatives that set the first reference."""

COMPILE_FROM = 2**22
"""From so many logits a call (tens of milliseconds) a compiled span is worth the half minute that
compiling takes once per shape. HCL_COMPILE=never or always overrides."""

Compilable = Callable[..., Any]
"""One of the functions of chunk_math."""

_log = logging.getLogger(__name__)
_compiled: dict[Compilable, Compilable] = {}
_broken: set[Compilable] = set()


class Geometry(Protocol):
    """One kind of logit, for one block of queries.

    Attributes:
        sweep: of chunk_math.
        prepare: of chunk_math, negatives and curvature to column factors, if there are any.
        factors: row factors (N, 1), as given.
        rows: what follows from them, for chunk_math.
        stretch: what the dot products are to be multiplied by; a power of two.
        wide: whether all sums are wanted.
        curvature: c in float64.
    """

    sweep: Callable[[Tensor, Tiles, SpanConstants], Span]
    prepare: Callable[[Tensor, Tensor], Any] | None
    factors: tuple[Tensor, ...]
    rows: Any
    stretch: float
    wide: bool
    curvature: Tensor

    def __init__(self, x: Tensor, factors: tuple[Tensor, ...], wide: bool) -> None: ...

    def peak(self, dots: Tensor, columns: Any) -> Tensor:
        """Largest logit of each row, (N, 1)."""

    def careful(self, y: Tensor, dots: Tensor, columns: Any, total: Total) -> Tile:
        """Do a tile with near pairs by differences and a reference high enough.

        Both change the total: ``total.near`` gets the gradient of near pairs, whose weights are 0.
        """


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

    def add(self, weighted: Tensor, sums: Sums) -> None:
        """Add tiles relative to the same reference."""
        self.weighted += weighted
        self.sums = Sums(*map(torch.add, self.sums, sums))

    def put(self, rows: Tensor, other: Total) -> None:
        """Replace rows (n,) by all of another total."""
        self.m, self.weighted, self.near, *sums = (
            old.index_copy(0, rows, new)
            for old, new in zip(self._parts(), other._parts(), strict=True)
        )
        self.sums = Sums(*sums)

    def of(self, rows: Tensor) -> Total:
        """These rows (n,) alone."""
        found = Total(self.weighted[rows], self.m[rows])
        _, found.weighted, found.near, *sums = (part[rows] for part in self._parts())
        found.sums = Sums(*sums)
        return found

    def logsumexp(self) -> Tensor:
        """Over all negatives, (N,)."""
        return self.m[:, 0] + self.sums.e.log()

    def _parts(self) -> tuple[Tensor, ...]:
        return self.m, self.weighted, self.near, *self.sums


def accumulate(geometry: Geometry, x: Tensor, queue: Tensor) -> Total:
    """Go through K > 0 negatives (K, D) once for the queries x (N, D)."""
    total = Total(x, first_peak(geometry, x, queue[:PEEK]))
    left = x * geometry.stretch
    width = tile_width(len(x), len(queue), x.device.type)
    for negatives in spans(queue, width):
        # The tail of a queue is a shape of its own: not worth a compilation.
        logits = len(x) * len(queue) if len(negatives) % width == 0 else 0
        columns = None
        if geometry.prepare:
            columns = compiled(geometry.prepare, logits)(negatives, geometry.curvature)
        tiles = split(negatives, columns, width)
        given = SpanConstants(geometry.rows, total.m, geometry.wide)
        span = compiled(geometry.sweep, logits)(left, tiles, given)
        sums, clear = span.total(), torch.stack(span.clear).amin(0)
        good = (clear > 0) & (sums.e <= chunk_math.CEILING)
        if bool(good.all()):
            total.add(span.weighted, sums)
            continue
        rows = (~good).nonzero()[:, 0]
        part = total.of(rows)
        carefully(subset(geometry, x, rows), x[rows], tiles, part)
        total.add(span.weighted, sums)
        total.put(rows, part)
    return total


def carefully(geometry: Geometry, x: Tensor, tiles: Tiles, total: Total) -> None:
    """Add tiles with the distances of near pairs by differences, raising the reference to fit."""
    for y, columns in tiles:
        tile = geometry.careful(y, x * geometry.stretch @ y.mT, columns, total)
        total.add(tile.weights @ y, tile.sums)


def subset(geometry: Geometry, x: Tensor, rows: Tensor) -> Geometry:
    """The same geometry for some of the queries."""
    return type(geometry)(x[rows], tuple(part[rows] for part in geometry.factors), geometry.wide)


def first_peak(geometry: Geometry, x: Tensor, y: Tensor) -> Tensor:
    """Largest logit of each row against these few negatives, (N, 1): the first reference."""
    columns = geometry.prepare(y, geometry.curvature) if geometry.prepare else None
    return geometry.peak(x @ y.mT * geometry.stretch, columns)


def spans(queue: Tensor, width: int) -> Iterator[Tensor]:
    """The queue in parts of SPAN tiles, the rest in tiles.

    So there are three shapes at most, however long the queue is: it may grow with every step.
    """
    together = len(queue) // (width * SPAN) * width * SPAN
    yield from torch.split(queue[:together], width * SPAN) if together else ()
    yield from torch.split(queue[together:], width) if together < len(queue) else ()


def split(negatives: Tensor, columns: Any, width: int) -> Tiles:
    """Tiles of so many negatives."""
    parts = torch.split(negatives, width)
    if columns is None:
        return tuple((part, None) for part in parts)
    factors = zip(*(torch.split(factor, width) for factor in columns), strict=True)
    return tuple((y, type(columns)(*some)) for y, some in zip(parts, factors, strict=True))


def tile_width(rows: int, columns: int, device: str) -> int:
    """Columns of a tile: a power of two, so that it divides the usual queue lengths."""
    logits = TILE.get(device, TILE["cuda"])
    width: int = 2 ** max(8, (logits // rows).bit_length() - 1)
    return min(width, 2**12 if device == "cpu" else 2**16, columns)


def compiled(eager: Compilable, logits: int) -> Compilable:
    """The function compiled, where that pays for so many logits and works."""
    wish = os.environ.get("HCL_COMPILE", "auto")
    if wish == "never" or logits == 0 or (wish != "always" and logits < COMPILE_FROM):
        return eager
    if eager not in _compiled:
        _compiled[eager] = torch.compile(eager, dynamic=False)

    def attempt(*arguments: Any) -> Any:
        if eager in _broken:
            return eager(*arguments)
        try:
            return _compiled[eager](*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            _broken.add(eager)
            _log.warning("torch.compile does not work here, going on without: %s", error)
            return eager(*arguments)

    return attempt
