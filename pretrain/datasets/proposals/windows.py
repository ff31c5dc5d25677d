"""Proposals that ask nothing of the pixels: cells of grids, sliding windows, random rectangles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.datasets.proposals.proposer import Proposals

GRIDS = (2, 3, 4)
"""Cells per side of the grids."""

SHARES = (1 / 2, 1 / 3, 1 / 4)
"""Sides of sliding windows, as shares of the image's shorter side; geometric mean of both."""

ASPECTS = (1.0, 1 / 2, 2.0)
"""Width to height of sliding windows."""

RANDOM = 300
"""Random rectangles drawn per image."""

RANDOM_AREA = (1 / 50, 1 / 2)
"""Least and greatest area of a random rectangle, as a share of the image's (log-uniform)."""

RANDOM_ASPECT = (1 / 2, 2.0)
"""Least and greatest width to height of a random rectangle (log-uniform)."""


@dataclass(frozen=True)
class Grid:
    """The cells of grids of 2 x 2, 3 x 3 and 4 x 4, large cells first, row by row."""

    needs_image = False

    def identity(self) -> dict[str, Any]:
        """See ``Proposer.identity``."""
        return {"method": "grid", "cells": list(GRIDS)}

    def propose(
        self, row: int, size: tuple[int, int], image: NDArray[np.uint8] | None
    ) -> Proposals:
        """See ``Proposer.propose``."""
        cells = [
            (x * size[0] / n, y * size[1] / n, (x + 1) * size[0] / n, (y + 1) * size[1] / n)
            for n in GRIDS
            for y in range(n)
            for x in range(n)
        ]
        return Proposals(np.array(cells, np.float32))


@dataclass(frozen=True)
class MultiScale:
    """Windows of three areas and three aspects that slide by at most half their side.

    The outermost windows touch the border. Their order is a random one per image, for a filter
    that stops at a number of boxes would otherwise never see the lower right.
    """

    seed: int = 0
    needs_image = False

    def identity(self) -> dict[str, Any]:
        """See ``Proposer.identity``."""
        return {
            "method": "multiscale",
            "seed": self.seed,
            "shares": list(SHARES),
            "aspects": list(ASPECTS),
        }

    def propose(
        self, row: int, size: tuple[int, int], image: NDArray[np.uint8] | None
    ) -> Proposals:
        """See ``Proposer.propose``."""
        windows = []
        for share in SHARES:
            for aspect in ASPECTS:
                side = share * min(size)
                width = min(side * math.sqrt(aspect), size[0])
                height = min(side / math.sqrt(aspect), size[1])
                windows += [
                    (x, y, x + width, y + height)
                    for y in _steps(size[1], height)
                    for x in _steps(size[0], width)
                ]
        boxes = np.array(windows, np.float32)
        order = np.random.default_rng([self.seed, row]).permutation(len(boxes))
        return Proposals(_inside(boxes[order], size))


@dataclass(frozen=True)
class Random:
    """Rectangles of random area, aspect and place."""

    seed: int = 0
    needs_image = False

    def identity(self) -> dict[str, Any]:
        """See ``Proposer.identity``."""
        return {
            "method": "random",
            "seed": self.seed,
            "count": RANDOM,
            "area": list(RANDOM_AREA),
            "aspect": list(RANDOM_ASPECT),
        }

    def propose(
        self, row: int, size: tuple[int, int], image: NDArray[np.uint8] | None
    ) -> Proposals:
        """See ``Proposer.propose``."""
        rng = np.random.default_rng([self.seed, row])
        area = _log_uniform(rng, *RANDOM_AREA) * size[0] * size[1]
        aspect = _log_uniform(rng, *RANDOM_ASPECT)
        sides = np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], 1)
        sides = np.minimum(sides, size)
        start = rng.uniform(0, 1, (RANDOM, 2)) * (np.array(size) - sides)
        return Proposals(_inside(np.concatenate([start, start + sides], 1), size))


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> NDArray[np.float64]:
    return np.exp(rng.uniform(math.log(low), math.log(high), RANDOM))


def _steps(length: int, side: float) -> NDArray[np.float64]:
    """Where windows of a side start, evenly spaced from border to border."""
    return np.linspace(0, length - side, 1 + math.ceil(2 * (length - side) / side))


def _inside(boxes: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """The boxes without what rounding put over the border."""
    clipped: NDArray[np.float32] = np.clip(boxes, 0, [*size, *size]).astype(np.float32)
    return clipped
