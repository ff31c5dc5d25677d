"""Scores of all keys for a block of queries, by matrix products: the larger, the nearer.

A score is an *upper bound*: round-off is never to a key's disadvantage, so what has a low score is
certainly far. The bound on the round-off of an inner product of L terms in any order is
``(L + 2) u |a| |b|`` (Higham, Accuracy and Stability of Numerical Algorithms, §3.1), conversion of
a and b included. As the norms of the ball's lift differ by orders of magnitude, it is taken key by
key, and at no cost: ``|a|`` and ``κ |b|`` are one more coordinate of query and key.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from downstream.retrieval.spaces import Floats, FusedRanking, Rows, Space

UNIT: dict[torch.dtype, float] = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}

# Bytes of a block of scores; more than 256 rows make products no faster.
_BUDGET = 2**24
_ROWS = 256

# Keys that are converted at a time, so that temporaries stay small.
_PART = 4096


@contextmanager
def full_precision() -> Iterator[None]:
    """Products of float32 in float32, whatever precision the program has allowed.

    With ``torch.set_float32_matmul_precision("medium")`` some CPUs multiply in bfloat16, whose
    round-off the bounds here do not cover.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class InnerProducts:
    """Scores of one space: upper bounds of the inner products.

    Attributes:
        keys: (N, L + 1), of ``dtype``.
    """

    def __init__(self, space: Space, keys: Rows, dtype: torch.dtype) -> None:
        self._space = space
        self._dtype = dtype
        self.keys = torch.empty(len(keys), space.lifted.shape[1] + 1, dtype=dtype)
        roundoff = _roundoff(space, dtype)
        for start in range(0, len(keys), _PART):
            part = slice(start, start + _PART)
            self.keys[part] = self._extended(space.lifted[keys[part]], roundoff)
        self._room = torch.empty(_block(len(keys), dtype), len(keys), dtype=dtype)

    @property
    def block(self) -> int:
        """Most queries at a time."""
        return len(self._room)

    def queries(self, rows: Rows) -> Tensor:
        """The left factors, (B, L + 1)."""
        return self._extended(self._space.lifted[rows] * self._space.signature, 1.0)

    def of(self, rows: Rows, sign: float = 1.0) -> Tensor:
        """Queries (B,) -> scores (B, N) times ``sign``, overwritten by the next call."""
        return torch.mm(self.queries(rows) * sign, self.keys.T, out=self._room[: len(rows)])

    def floor(self, scores: Floats) -> Floats:
        """Ranking value that a key with this score, or a lower one, has at least."""
        return self._space.gap_of(scores)

    def _extended(self, lifted: Floats, factor: float) -> Tensor:
        extended = torch.empty(len(lifted), lifted.shape[1] + 1, dtype=self._dtype)
        extended[:, :-1] = torch.from_numpy(lifted)
        extended[:, -1] = torch.from_numpy(factor * np.linalg.norm(lifted, axis=1))
        return extended


class FusedScores:
    """Scores of both spaces together: upper bounds of ``cos/T_s - weight d/T_h``."""

    def __init__(self, ranking: FusedRanking, keys: Rows, dtype: torch.dtype) -> None:
        self._ranking = ranking
        self._cosines = InnerProducts(ranking.sphere, keys, dtype)
        self._products = InnerProducts(ranking.ball, keys, dtype)
        self._room = torch.empty(self._products.block, len(keys), dtype=dtype)
        self._unit = UNIT[dtype]
        # Of arcosh(-inner), which is sqrt(c) d.
        self._factor = ranking.hyperbolic / ranking.c**0.5

    @property
    def block(self) -> int:
        """Most queries at a time."""
        return self._products.block

    def of(self, rows: Rows) -> Tensor:
        """Queries (B,) -> scores (B, N), overwritten by the next call."""
        # Squares of more than 1e18 leave float32; a smaller distance only raises the score.
        cosh = self._products.of(rows, sign=-1.0).clamp_(1.0, 1e18)
        scores = torch.addcmul(cosh.new_tensor(-1.0), cosh, cosh, out=self._room[: len(rows)])
        scores.sqrt_().add_(cosh).log_()  # arcosh
        queries = self._cosines.queries(rows)
        return scores.addmm_(
            queries, self._cosines.keys.T, beta=-self._factor, alpha=self._ranking.spherical
        )

    def floor(self, scores: Floats) -> Floats:
        """Ranking value that a key with this score, or a lower one, has at least.

        The products' bounds leave room for the round-off of a cosh in what follows. The logarithm
        and the sum are off by a few units of their terms, which are at most the score and the two
        factors together.
        """
        spherical, factor = self._ranking.spherical, self._factor
        room = 32 * self._unit * (np.abs(scores) + spherical + factor)
        return np.asarray(np.maximum(spherical - scores - room, 0.0))


def _roundoff(space: Space, dtype: torch.dtype) -> float:
    """κ: bound on the error of an inner product, by the norms of its factors.

    A tenth more for second order, the extra coordinate and what is made of the product; in float64
    the lift itself and the differences that a floor is compared with are off by as much again.
    """
    width = int(space.lifted.shape[1]) + 16
    return 1.1 * width * UNIT[dtype] + 2 * width * UNIT[torch.float64]


def _block(keys: int, dtype: torch.dtype) -> int:
    return max(1, min(_ROWS, _BUDGET // (keys * dtype.itemsize)))
