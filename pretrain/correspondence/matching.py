"""Which regions of an image and of its neighbors are alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from pretrain.correspondence.regions import Regions
from pretrain.data.index import offsets
from pretrain.data.pairs import PairTable, top_pairs

MATCH = np.dtype([("query", np.int64), ("key", np.int64), ("similarity", np.float32)])
"""One pair: rows of ``Regions.boxes`` and the cosine of their features."""


def pairs_per_neighbor(regions: Regions, share: float) -> NDArray[np.int64]:
    """How many pairs an image has with each neighbor, int64 (N,): see ``top_pairs``."""
    return np.maximum(1, (share * regions.counts).astype(np.int64))


def match(
    rows: range,
    neighbours: NDArray[np.int64],
    regions: Regions,
    features_of: Callable[[int], NDArray[np.float16]],
    *,
    share: float,
    device: torch.device,
) -> NDArray[np.void]:
    """The pairs of some images, row by row, neighbor by neighbor, most similar first.

    Args:
        rows: of the images.
        neighbours: int64 (N, K), -1 where there is none.
        regions: of all images.
        features_of: features (n, D) of a row's regions, of norm 1.
        share: pairs per neighbor, as a share of the image's own regions.
        device: for the products, which are float32.

    Returns:
        Of dtype ``MATCH``.
    """
    found = [np.empty(0, MATCH)]
    # With several threads the order of summation, so the last bit, would be another.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for row in rows:
            others = [int(other) for other in neighbours[row] if other >= 0]
            if not others:
                continue
            query = _on(features_of(row), device)
            keys = _on(np.concatenate([features_of(other) for other in others]), device)
            similarity = (query @ keys.T).cpu().numpy()
            ends = np.cumsum([regions.counts[other] for other in others])
            for other, part in zip(others, np.split(similarity, ends[:-1], axis=1), strict=True):
                mine, theirs = top_pairs(part, share)
                matches = np.empty(len(mine), MATCH)
                matches["query"] = regions.offsets[row] + mine
                matches["key"] = regions.offsets[other] + theirs
                matches["similarity"] = part[mine, theirs]
                found.append(matches)
    finally:
        torch.set_num_threads(threads)
    return np.concatenate(found)


def to_table(
    fingerprint: str,
    matches: NDArray[np.void],
    neighbours: NDArray[np.int64],
    regions: Regions,
    share: float,
) -> PairTable:
    """The table that training reads, of the matches of all images."""
    there = neighbours >= 0
    lengths = np.repeat(pairs_per_neighbor(regions, share), there.sum(1))
    return PairTable(
        fingerprint,
        offsets(there.sum(1)),
        neighbours[there].astype(np.int64),
        offsets(lengths),
        regions.boxes[matches["query"]].astype(np.float32),
        regions.boxes[matches["key"]].astype(np.float32),
    )


def _on(features: NDArray[np.float16], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(features.astype(np.float32)).to(device)
