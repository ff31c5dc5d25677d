"""Logistic regression on frozen features, to convergence.

The problem is convex, so its answer does not depend on an optimiser's rate or schedule::

    min over W, b of   mean over n of loss(x_n W + b, y_n) + penalty / 2 |W|^2

with x standardised, and softmax cross-entropy for one label a sample, or binary cross-entropy
summed over classes where a sample has several.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger(__name__)

PENALTIES = (1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Tried in this order, each from the solution before."""

ROWS = 8192
"""Samples of which the logits are in memory at a time."""

CONVERGED = 1e-5
"""A fit whose gradient has a greater entry is warned of."""


@dataclass(frozen=True)
class Linear:
    """A classifier with the standardisation of its features.

    Attributes:
        mean: float64 (F,).
        scale: float64 (F,), one over the standard deviation; 0 where a feature never varies.
        weights: float64 (F + 1, C), the bias in the last row.
        penalty: it was fitted with.
        gradient: the greatest entry of the objective's gradient, which is 0 at the minimum.
    """

    mean: Tensor
    scale: Tensor
    weights: Tensor
    penalty: float
    gradient: float

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
    iterations: int = 3000,
) -> Linear:
    """Fit by L-BFGS in float64, on the features' device; says so if it has not converged.

    Args:
        features: (N, F).
        targets: int64 (N,), one label each, or bool (N, C), several.
        penalty: on the weights, not the bias.
        classes: C.
        start: a solution to begin from.
        iterations: of L-BFGS at most.
    """
    mean, scale = _standardisation(features)
    weights = torch.zeros(
        features.shape[1] + 1, classes, dtype=torch.float64, device=features.device
    )
    if start is not None:
        weights.copy_(start.weights)
    weights.requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weights],
        max_iter=iterations,
        max_eval=2 * iterations,  # torch's own limit, 1.25 a step, ends hard fits too early
        tolerance_grad=1e-7,
        tolerance_change=1e-16,
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
    closure()
    assert weights.grad is not None
    gradient = float(weights.grad.abs().max())
    if not gradient <= CONVERGED:
        log.warning(
            "the linear classifier of penalty %g has not converged: gradient %.1e",
            penalty,
            gradient,
        )
    return Linear(mean, scale, weights.detach(), penalty, gradient)


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
    tried: dict[float, float] = {}
    last: Linear | None = None
    best: Linear | None = None
    learning, judging = features[~held_out], features[held_out]
    for penalty in penalties:
        last = fit(learning, targets[~held_out], penalty, classes=classes, start=last)
        tried[penalty] = score(last.logits(judging), targets[held_out].cpu())
        if best is None or tried[penalty] > tried[best.penalty]:
            best = last
    assert best is not None, "no penalties"
    del learning, judging
    return fit(features, targets, best.penalty, classes=classes, start=best), tried


def _standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and one over the deviation, float64 (F,), without a float64 copy of all features."""
    parts = torch.split(features, ROWS)
    mean = torch.stack([part.double().sum(dim=0) for part in parts]).sum(dim=0) / len(features)
    squares = torch.stack([(part.double() - mean).square().sum(dim=0) for part in parts])
    deviation = (squares.sum(dim=0) / len(features)).sqrt()
    return mean, torch.where(deviation > 1e-12, 1 / deviation.clamp(min=1e-12), 0.0)


def _standard(features: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return (features.double() - mean) * scale


def _logits(features: Tensor, weights: Tensor) -> Tensor:
    return features @ weights[:-1] + weights[-1]


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets, reduction="sum")
    return F.binary_cross_entropy_with_logits(logits, targets.double(), reduction="sum")
