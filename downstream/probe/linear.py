"""Logistic regression on frozen features, to convergence.

The problem is convex, so its answer does not depend on an optimiser's rate or schedule::

    min over W, b of   mean over n of loss(x_n W + b, y_n) + penalty / 2 |W|^2

with x standardised, and softmax cross-entropy for one label a sample, or binary cross-entropy
summed over classes where a sample has several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PENALTIES = (1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Tried in this order, each from the solution before."""

ROWS = 8192
"""Samples of which the logits are in memory at a time."""


@dataclass(frozen=True)
class Linear:
    """A classifier with the standardisation of its features.

    Attributes:
        mean: float64 (F,).
        scale: float64 (F,), one over the standard deviation; 0 where a feature never varies.
        weights: float64 (F + 1, C), the bias in the last row.
        penalty: it was fitted with.
    """

    mean: Tensor
    scale: Tensor
    weights: Tensor
    penalty: float

    def logits(self, features: Tensor) -> Tensor:
        """Features (N, F) -> float64 (N, C) on the CPU."""
        parts = [
            _logits(_standard(part, self.mean, self.scale), self.weights).cpu()
            for part in torch.split(features, ROWS)
        ]
        return torch.cat(parts)


def fit(
    features: Tensor,
    targets: Tensor,
    penalty: float,
    *,
    classes: int,
    start: Linear | None = None,
    iterations: int = 300,
) -> Linear:
    """Fit by L-BFGS in float64, on the features' device.

    Args:
        features: (N, F).
        targets: int64 (N,), one label each, or bool (N, C), several.
        penalty: on the weights, not the bias.
        classes: C.
        start: a solution to begin from.
        iterations: of L-BFGS at most.
    """
    deviation, mean = torch.std_mean(features.double(), dim=0, correction=0)
    scale = torch.where(deviation > 1e-12, 1 / deviation.clamp(min=1e-12), 0.0)
    weights = torch.zeros(
        features.shape[1] + 1, classes, dtype=torch.float64, device=features.device
    )
    if start is not None:
        weights.copy_(start.weights)
    weights.requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weights],
        max_iter=iterations,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        total = torch.zeros((), dtype=torch.float64, device=features.device)
        for part, wanted in zip(
            torch.split(features, ROWS), torch.split(targets, ROWS), strict=True
        ):
            loss = _loss(_logits(_standard(part, mean, scale), weights), wanted) / len(features)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        decay = penalty / 2 * weights[:-1].square().sum()
        decay.backward()  # type: ignore[no-untyped-call]
        return total + decay.detach()

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return Linear(mean, scale, weights.detach(), penalty)


def choose(
    features: Tensor,
    targets: Tensor,
    held_out: Tensor,
    score: Callable[[Tensor, Tensor], float],
    *,
    classes: int,
    penalties: Sequence[float] = PENALTIES,
) -> tuple[Linear, dict[float, float]]:
    """Choose the penalty on held-out samples, then fit with all of them.

    Args:
        features: (N, F).
        targets: as ``fit``.
        held_out: bool (N,), the samples that judge.
        score: logits and targets of those -> the higher the better; of equals the first wins.
        classes: C.
        penalties: to try.

    Returns:
        The classifier, and the score by penalty.
    """
    found: Linear | None = None
    scores: dict[float, float] = {}
    for penalty in penalties:
        found = fit(features[~held_out], targets[~held_out], penalty, classes=classes, start=found)
        scores[penalty] = score(found.logits(features[held_out]), targets[held_out].cpu())
    best = max(scores, key=lambda penalty: scores[penalty])
    return fit(features, targets, best, classes=classes), scores


def _standard(features: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return (features.double() - mean) * scale


def _logits(features: Tensor, weights: Tensor) -> Tensor:
    return features @ weights[:-1] + weights[-1]


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets, reduction="sum")
    return F.binary_cross_entropy_with_logits(logits, targets.double(), reduction="sum")
