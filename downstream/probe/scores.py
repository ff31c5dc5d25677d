"""What a classifier is worth."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from downstream.results.resampling import Array

CHUNK = 100
"""Draws at a time."""


def top(logits: Tensor, labels: Tensor, k: int) -> float:
    """Share of samples whose label is among the ``k`` highest logits (see ``named``)."""
    return float(named(logits, labels, k).double().mean())


def named(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether a sample's label is among its ``k`` highest logits: bool (N,).

    Classes of equal logits count against the sample, and so do logits that are not numbers; a
    label of -1 is never right.

    Args:
        logits: (N, C).
        labels: int64 (N,).
        k: how many may be named.
    """
    own = logits.gather(1, labels.clamp(min=0)[:, None])
    before = (~(logits < own)).sum(dim=1) - 1
    return (before < k) & (labels >= 0)


def per_class(predicted: Tensor, labels: Tensor) -> float:
    """Mean over the classes of ``labels`` (N,) of the share of theirs that is predicted right."""
    right = (predicted == labels).double()
    shares = [right[labels == label].mean() for label in torch.unique(labels[labels >= 0])]
    return float(torch.stack(shares).mean()) if shares else 0.0


def mean_average_precision(scores: Tensor, targets: Tensor) -> float:
    """:func:`sampled_map` of all samples once: scores (N, C), targets bool (N, C); 0 if none is."""
    if not targets.any():
        return 0.0
    once = np.ones((1, len(scores)), np.int32)
    return float(sampled_map(scores.numpy(), targets.numpy(), once)[0])


def sampled_map(
    scores: npt.NDArray[np.floating],
    targets: npt.NDArray[np.bool_],
    weights: npt.NDArray[np.int32],
) -> Array:
    """Mean average precision (B,) where samples count as often as each row of ``weights`` says.

    Average precision is the area under the precision-recall curve, not interpolated; equal scores
    are one threshold. The mean is over the categories that occur; NaN where none does.

    Args:
        scores: (N, C).
        targets: (N, C).
        weights: (B, N).
    """
    total = np.zeros(len(weights))
    occurring = np.zeros(len(weights))
    for category in np.flatnonzero(targets.any(axis=0)):
        order = np.argsort(-scores[:, category], kind="stable")
        sorted_scores, wanted = scores[order, category], targets[order, category]
        # Equal scores are one threshold: its end is the last of them.
        ends = np.flatnonzero(np.append(sorted_scores[1:] != sorted_scores[:-1], True))
        for start in range(0, len(weights), CHUNK):
            rows = slice(start, start + CHUNK)
            drawn = weights[rows][:, order]
            seen = np.cumsum(drawn, axis=1)[:, ends]
            found = np.cumsum(drawn * wanted, axis=1)[:, ends]
            steps = np.diff(found, axis=1, prepend=0)
            positives = found[:, -1]
            area = (steps * found / np.maximum(seen, 1)).sum(axis=1) / np.maximum(positives, 1)
            total[rows] += area
            occurring[rows] += positives > 0
    return np.where(occurring > 0, total / np.maximum(occurring, 1), np.nan)
