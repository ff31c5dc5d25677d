"""Logistic regression on frozen features, to convergence.

The problem (``logistic``) is convex, so its answer does not depend on an optimizer's rate or
schedule. It is solved by Newton's method: each step is found by preconditioned conjugate
gradients, only as exactly as the step is worth (Dembo, Eisenstat & Steihaug 1982), and shortened
until the objective falls enough.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from downstream.probe.logistic import Problem, centered

log = logging.getLogger(__name__)

PENALTIES = (1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Tried in this order, each from the solution before."""

PATIENCE = 2
"""After so many penalties in a row that judge worse than the best, weaker ones are not tried."""

ROWS = 8192
"""Samples of which the logits are in memory at a time."""

TOLERANCE = 1e-7
"""A fit ends when no entry of the gradient is greater."""

JUDGED = 1e-6
"""A fit that is only judged ends with a step that lowers the objective by no greater share."""

CONVERGED = 1e-5
"""A fit whose gradient has a greater entry is warned of."""

PRODUCTS = 400
"""Products with the Hessian in one step at most."""

HALVINGS = 40
"""Of a step's length at most."""


@dataclass(frozen=True)
class Linear:
    """A classifier with the standardization of its features.

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
            torch.addmm(
                self.weights[-1],
                (part.to(self.mean.device).double() - self.mean) * self.scale,
                self.weights[:-1],
            ).cpu()
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
    iterations: int = 100,
    device: torch.device | None = None,
) -> Linear:
    """Fit; says so if it has not converged.

    Args:
        features: (N, F).
        targets: int64 (N,), one label each, or bool (N, C), several.
        penalty: on the weights, not the bias.
        classes: C.
        start: a solution to begin from.
        iterations: steps at most.
        device: that computes; None: the features' own.
    """
    return _solve(Problem(features, targets, classes, device), penalty, start, iterations)


def choose(
    features: Tensor,
    targets: Tensor,
    held_out: Tensor,
    score: Callable[[Tensor, Tensor], float],
    *,
    classes: int,
    device: torch.device | None = None,
) -> tuple[Linear, dict[float, float]]:
    """Choose the penalty on held-out samples, then fit with all of them.

    Args:
        features: (N, F).
        targets: as ``fit``.
        held_out: bool (N,), the samples that judge.
        score: logits and targets of those -> the higher the better; of equals the first wins.
        classes: C.
        device: as ``fit``.

    Returns:
        The classifier, and the score by penalty.
    """
    tried: dict[float, float] = {}
    last: Linear | None = None
    best: Linear | None = None
    worse = 0
    judging, judged = features[held_out], targets[held_out].cpu()
    problem = Problem(features[~held_out], targets[~held_out], classes, device)
    for penalty in PENALTIES:
        begun = time.monotonic()
        last = _solve(problem, penalty, last, enough=JUDGED)
        tried[penalty] = score(last.logits(judging), judged)
        log.info(
            "penalty %g: held-out score %.4f, fitted in %.1f s",
            penalty,
            tried[penalty],
            time.monotonic() - begun,
        )
        if best is None or tried[penalty] > tried[best.penalty]:
            best = last
        worse = worse + 1 if tried[penalty] < tried[best.penalty] else 0
        if worse == PATIENCE:
            break
    assert best is not None
    del problem, judging
    return fit(features, targets, best.penalty, classes=classes, start=best, device=device), tried


def _solve(
    problem: Problem,
    penalty: float,
    start: Linear | None = None,
    iterations: int = 100,
    enough: float = 0.0,
) -> Linear:
    """Newton's method from ``start``, or from zero.

    It ends when the gradient is within ``TOLERANCE``, or after a full step that was expected to
    lower the objective by no more than ``enough`` times its value.
    """
    at = torch.zeros(
        problem.coordinates, problem.classes, dtype=torch.float64, device=problem.mean.device
    )
    if start is not None:
        at = problem.to_basis(start.weights.to(at.device))
        if not problem.several:
            at = centered(at)
    value, slopes, greatest = problem.evaluate(at, penalty)
    damping = torch.zeros_like(value)
    for _ in range(iterations):
        if greatest <= TOLERANCE:
            break
        precision = min(0.1, greatest**0.25)
        step, expected = _newton_step(problem, penalty, slopes, damping, precision)
        gain = _inner(problem, slopes, step)
        length = torch.ones_like(gain)
        for _ in range(HALVINGS):
            candidate = at + length * step
            reached, new_slopes, new_greatest = problem.evaluate(candidate, penalty)
            # What rounding may add to a sum is allowed for, or the last steps would be refused.
            short = reached > value + 1e-4 * length * gain + 1e-13 * value.abs()
            if not short.any():
                break
            length = torch.where(short, length / 2, length)
        else:
            break
        damping = _damped(damping, length, (value - reached) / expected.clamp(min=1e-300))
        at, value, slopes, greatest = candidate, reached, new_slopes, new_greatest
        if bool((-gain / 2 <= enough * value).all()):
            break
    if not enough and not greatest <= CONVERGED:
        log.warning(
            "the linear classifier of penalty %g has not converged: gradient %.1e",
            penalty,
            greatest,
        )
    return Linear(problem.mean, problem.scale, problem.from_basis(at), penalty, greatest)


def _damped(damping: Tensor, length: Tensor, ratio: Tensor) -> Tensor:
    """How much the next step is damped, after one of ``length`` (Levenberg and Marquardt's way).

    Far from the minimum the curvature is too small for samples that are far on the wrong side, and
    whole steps go too far; damping is cheaper than steps that must be shortened.

    Args:
        damping: of the step done.
        length: of it, 1 if it was not shortened.
        ratio: of the fall of the objective to the expected one.
    """
    after = torch.where(ratio > 0.7, damping / 4, damping)
    after = torch.where(ratio < 0.25, (2 * damping).clamp(min=0.05), after)
    after = torch.where(length < 1, (4 * damping).clamp(min=0.1), after)
    return torch.where(after < 1e-3, 0.0, after)


def _newton_step(
    problem: Problem, penalty: float, slopes: Tensor, damping: Tensor, precision: float
) -> tuple[Tensor, Tensor]:
    """The Hessian's inverse times the negative slopes (R + 1, C), by conjugate gradients.

    Where classes are independent, each has conjugate gradients of its own, side by side.

    Args:
        problem: evaluated where the step begins.
        penalty: of the objective.
        slopes: there.
        damping: so many times the preconditioner is added to the Hessian.
        precision: share of the residual, in the preconditioner's norm, that may be left.

    Returns:
        The step, and the fall of the objective that the quadratic model expects of it.
    """
    metric = problem.preconditioner(penalty)
    step = torch.zeros_like(slopes)
    residual = -slopes
    scaled = metric.solve(residual) / (1 + damping)
    direction = scaled
    size = _inner(problem, residual, scaled)
    enough = precision**2 * size
    for _ in range(PRODUCTS):
        bent = problem.product(direction, penalty)
        if bool(damping.any()):
            bent += damping * metric.times(direction)
        length = _over(size, _inner(problem, direction, bent))
        step += length * direction
        residual -= length * bent
        scaled = metric.solve(residual) / (1 + damping)
        before, size = size, _inner(problem, residual, scaled)
        if bool((size <= enough).all()):
            break
        direction = scaled + _over(size, before) * direction
    # H step = -slopes - residual - damping * metric step
    bent = -slopes - residual - damping * metric.times(step)
    return step, -_inner(problem, slopes, step) - _inner(problem, step, bent) / 2


def _inner(problem: Problem, first: Tensor, second: Tensor) -> Tensor:
    """Inner product: of all, or by class where classes are independent."""
    products = (first * second).sum(dim=0)
    return products if problem.several else products.sum()


def _over(above: Tensor, below: Tensor) -> Tensor:
    """Quotient, 0 where there is nothing left to divide."""
    return torch.where(below > 0, above / below.clamp(min=1e-300), 0.0)
