"""k-NN classification by weighted votes (Wu et al. 2018, arXiv 1805.01978, section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 512
"""Queries at a time: their similarities to the whole bank are in memory."""


def classify(
    queries: Tensor, bank: Tensor, labels: Tensor, *, k: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """The label with most votes, and the label of the nearest: both int64 (Q,), on the CPU.

    Each of the k neighbors votes for its own label with exp(cos/τ).

    Args:
        queries: (Q, F), unit rows.
        bank: (N, F), unit rows.
        labels: int64 (N,), from 0.
        k: neighbors; all N where there are fewer.
        temperature: τ.
    """
    labels = labels.cpu()
    classes = int(labels.max()) + 1
    voted = torch.empty(len(queries), dtype=torch.int64)
    nearest = torch.empty(len(queries), dtype=torch.int64)
    for start in range(0, len(queries), CHUNK):
        part = slice(start, start + CHUNK)
        cosines, places = (queries[part] @ bank.T).topk(min(k, len(bank)), dim=1)
        # Votes are added on the CPU, in one order: on CUDA the order of such sums varies.
        neighbors = labels[places.cpu()]
        # The greatest cosine subtracted: the same winner, and no overflow for a small τ.
        weights = ((cosines - cosines[:, :1]).double() / temperature).exp().cpu()
        votes = torch.zeros(len(neighbors), classes, dtype=torch.float64)
        voted[part] = votes.scatter_add_(1, neighbors, weights).argmax(1)
        nearest[part] = neighbors[:, 0]
    return voted, nearest
