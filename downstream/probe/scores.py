"""What a classifier is worth."""

from __future__ import annotations

import torch
from torch import Tensor


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


def average_precision(scores: Tensor, targets: Tensor) -> float:
    """Area under the precision-recall curve, not interpolated; equal scores are one threshold.

    Args:
        scores: (N,).
        targets: bool (N,), at least one of them true.
    """
    order = scores.argsort(descending=True)
    scores, targets = scores[order], targets[order].double()
    last = torch.ones(len(scores), dtype=torch.bool)
    last[:-1] = scores[1:] != scores[:-1]
    found = targets.cumsum(0)[last]
    precision = found / (torch.nonzero(last)[:, 0] + 1)
    recall_steps = torch.diff(found, prepend=found.new_zeros(1)) / targets.sum()
    return float((precision * recall_steps).sum())


def mean_average_precision(scores: Tensor, targets: Tensor) -> float:
    """Mean of :func:`average_precision` over the classes that occur in ``targets`` (N, C)."""
    occurring = torch.nonzero(targets.any(dim=0))[:, 0].tolist()
    values = [average_precision(scores[:, c], targets[:, c]) for c in occurring]
    return sum(values) / len(values) if values else 0.0
