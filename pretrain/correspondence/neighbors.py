"""The images most like each image: exact search by inner products."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

MARGIN = 16
"""More candidates than asked for, among which float64 decides."""

BLOCK = 1 << 18
"""Features compared at a time without FAISS."""

Engine = Literal["auto", "faiss", "torch"]


class Search:
    """All features, ready to be asked.

    An image is left out of its own neighbors by its row, so its duplicates stay: the published
    code drops the first hit instead, which is a duplicate as often as the image itself.

    Args:
        features: float32 (N, D), of norm 1; a row of zeros is an image that could not be read.
        device: for the search, where its engine can use it.
        engine: ``auto`` takes FAISS where it is installed, else torch. Both are exact.
    """

    def __init__(
        self, features: NDArray[np.float32], device: torch.device, engine: Engine = "auto"
    ) -> None:
        self.features = features
        self.rows = np.flatnonzero(np.any(features != 0, axis=1))
        self.bank = np.ascontiguousarray(features[self.rows])
        if engine == "auto":
            engine = "faiss" if importlib.util.find_spec("faiss") is not None else "torch"
        self.engine = engine
        self._device = device
        self._index = self._faiss() if engine == "faiss" and len(self.bank) else None

    def nearest(self, rows: range, k: int) -> NDArray[np.int64]:
        """The ``k`` nearest other images of each of these, nearest first, equal ones by row.

        Returns:
            int64 (len(rows), k), rows; -1 where there are no more, or the image is unreadable.
        """
        found = np.full((len(rows), k), -1, np.int64)
        queries = np.array([row for row in rows if np.any(self.features[row])], np.int64)
        length = min(len(self.rows), k + 1 + MARGIN)
        if not len(queries):
            return found
        candidates = np.sort(self.rows[self._candidates(self.features[queries], length)], axis=1)
        # In float64 and with a fixed order of summation, whatever the engine.
        values = np.stack(
            [
                (self.features[some].astype(np.float64) * self.features[query]).sum(1)
                for query, some in zip(queries, candidates, strict=True)
            ]
        )
        values[candidates == queries[:, None]] = -np.inf
        order = np.argsort(-values, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(candidates, order, 1)
        best[best == queries[:, None]] = -1
        found[queries - rows.start, : best.shape[1]] = best
        return found

    def _candidates(self, queries: NDArray[np.float32], length: int) -> NDArray[np.int64]:
        """Places in the bank, (len(queries), length)."""
        if self._index is not None:
            places: NDArray[np.int64] = self._index.search(np.ascontiguousarray(queries), length)[1]
            return places
        asked = torch.from_numpy(queries).to(self._device)
        values, places_found = [], []
        for start in range(0, len(self.bank), BLOCK):
            part = torch.from_numpy(self.bank[start : start + BLOCK]).to(self._device)
            top = torch.topk(asked @ part.T, min(length, len(part)), dim=1)
            values.append(top.values)
            places_found.append(top.indices + start)
        best = torch.topk(torch.cat(values, 1), length, dim=1).indices
        return torch.cat(places_found, 1).gather(1, best).cpu().numpy()

    def _faiss(self) -> Any:
        import faiss

        index: Any = faiss.IndexFlatIP(self.bank.shape[1])
        if self._device.type == "cuda" and hasattr(faiss, "StandardGpuResources"):
            number = self._device.index or 0
            index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), number, index)
        index.add(self.bank)
        return index
