"""Is the search exact? Against float64 brute force written anew, for benchmarks/retrieval.py.

Some queries are compared with all differences to all points; all of them with a wide shortlist
(300) by float64 products, ranked by differences.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from retrieval_data import hard
from torch import Tensor

from downstream.retrieval import neighbors
from downstream.retrieval.neighbors import search
from downstream.retrieval.spaces import ball, fused

C, DIMENSION, WIDE = 1.0, 128, 300
T_SPHERE, T_BALL, WEIGHT = 0.05, 0.2, 3.0


class Oracle:
    """Ranking values by the formulas, in float64."""

    def __init__(self, embeddings: np.ndarray, points: np.ndarray, *, fused: bool) -> None:
        self.unit = embeddings / np.linalg.norm(embeddings, axis=1)[:, None]
        self.points = points
        self.margin = 1 - C * np.square(points).sum(1)
        self.fused = fused

    def value(self, row: int, columns: np.ndarray) -> np.ndarray:
        """Of one query and some points, by differences."""
        squares = np.square(self.points[columns] - self.points[row]).sum(1)
        gap = squares / (self.margin[columns] * self.margin[row])
        if not self.fused:
            return gap
        distance = 2 / C**0.5 * np.arcsinh(np.sqrt(C * gap))
        chord = np.square(self.unit[columns] - self.unit[row]).sum(1)
        return chord / 2 / T_SPHERE + WEIGHT * distance / T_BALL

    def ranked(self, row: int, columns: np.ndarray, k: int) -> np.ndarray:
        columns = np.sort(columns[columns != row])
        return columns[np.argsort(self.value(row, columns), kind="stable")[:k]]

    def approximate(self, rows: Tensor) -> Tensor:
        """Of some queries and all points, by products."""
        points, margin = torch.from_numpy(self.points), torch.from_numpy(self.margin)
        products = points[rows] @ points.T
        squares = (1 - margin)[rows, None] / C + (1 - margin) / C - 2 * products
        gap = (squares / (margin[rows, None] * margin)).clamp_(min=0)
        if not self.fused:
            return gap
        unit = torch.from_numpy(self.unit)
        distance = torch.acosh(gap.mul_(2 * C).add_(1)).div_(C**0.5)
        return distance.mul_(WEIGHT / T_BALL).sub_((unit[rows] @ unit.T).div_(T_SPHERE))


def check(count: int, k: int, queries: int | None, exhaustive: int) -> dict[str, object]:
    """Search ``count`` points for some of them (None: all), and compare.

    Args:
        count: points.
        k: neighbors.
        queries: compared with wide lists.
        exhaustive: of these, compared with all differences.
    """
    embeddings, points = hard(np.random.default_rng(0), count, DIMENSION)
    asked = np.random.default_rng(1).permutation(len(points))[:queries]
    norms = np.linalg.norm(points, axis=1)
    found: dict[str, object] = {
        "points": len(points),
        "dimension": DIMENSION,
        "k": k,
        "norms": [float(norms.min()), float(norms.max())],
        "data": " ".join((hard.__doc__ or "").split()),
    }
    rankings = {
        "hyperbolic": ball(points, C),
        "fused": fused(
            embeddings,
            points,
            C,
            temperature_spherical=T_SPHERE,
            temperature_hyperbolic=T_BALL,
            weight=WEIGHT,
        ),
    }
    for name, ranking in rankings.items():
        stages = Stages()
        started = time.perf_counter()
        rows = search(ranking, k, queries=asked).rows
        seconds = time.perf_counter() - started
        stages.restore()
        oracle = Oracle(embeddings, points, fused=name == "fused")
        found[name] = {
            "seconds": seconds,
            "queries tried by list": stages.tried,
            "against all differences": against_differences(oracle, asked[:exhaustive], rows),
            "against wide lists": against_wide_lists(oracle, asked, rows),
        }
        print(name, found[name], flush=True)
    return found


class Stages:
    """Counts the queries that each stage of the search is asked."""

    def __init__(self) -> None:
        self.tried: dict[str, int] = {}
        self._originals = neighbors._fill, neighbors._by_differences
        fill, exact = self._originals

        def counted_fill(ranking, shortlist, queries, places, found):  # type: ignore[no-untyped-def]
            left = fill(ranking, shortlist, queries, places, found)
            self._add(f"list {self._number(shortlist)}", len(places))
            return left

        def counted_exact(*arguments):  # type: ignore[no-untyped-def]
            self._add("every difference", 1)
            return exact(*arguments)

        self._lists: list[object] = []
        neighbors._fill, neighbors._by_differences = counted_fill, counted_exact

    def _number(self, shortlist: object) -> int:
        if shortlist not in self._lists:
            self._lists.append(shortlist)
        return self._lists.index(shortlist) + 1

    def _add(self, name: str, count: int) -> None:
        self.tried[name] = self.tried.get(name, 0) + count

    def restore(self) -> None:
        neighbors._fill, neighbors._by_differences = self._originals


def against_differences(oracle: Oracle, asked: np.ndarray, rows: np.ndarray) -> dict[str, object]:
    everything = np.arange(len(oracle.points))
    expected = np.stack([oracle.ranked(row, everything, rows.shape[1]) for row in asked])
    return compared(oracle, asked, rows[: len(asked)], expected)


def against_wide_lists(oracle: Oracle, asked: np.ndarray, rows: np.ndarray) -> dict[str, object]:
    expected = []
    for part in torch.from_numpy(asked).split(64):
        lists = oracle.approximate(part).topk(WIDE, largest=False, sorted=False).indices.numpy()
        expected += [
            oracle.ranked(row, columns, rows.shape[1])
            for row, columns in zip(part.tolist(), lists, strict=True)
        ]
    return compared(oracle, asked, rows, np.stack(expected))


def compared(
    oracle: Oracle, queries: np.ndarray, found: np.ndarray, expected: np.ndarray
) -> dict[str, object]:
    """Queries whose answers differ; by how much a differing place's value does, relatively."""
    wrong = np.flatnonzero((found != expected).any(axis=1))
    apart = 0.0
    for place in wrong:
        ours, theirs = (oracle.value(queries[place], a[place]) for a in (found, expected))
        apart = max(apart, float(np.max(np.abs(ours - theirs) / np.maximum(theirs, 1e-300))))
    return {"queries": len(queries), "differ": len(wrong), "largest relative difference": apart}
