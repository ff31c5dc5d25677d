"""Pairwise cross-entropy of Hyp-ViT (Ermolov et al. 2022, arXiv 2203.10833, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from pretrain.geometry import official, poincare
from pretrain.geometry.precision import Curvature, as_float, exact_matmul
from pretrain.losses.contrast import Numerics


def pairwise_losses(scores: Tensor) -> Tensor:
    """Loss of every ordered pair of sample slots, (S, S); the diagonal is 0.

    Entry (i, j): slot i gives the anchors and slot j the positives. The negatives of class b's
    anchor are the other classes' samples of slots i and j, 2(B - 1) in all; samples of class b in
    further slots do not take part.

    Args:
        scores: logits (B, S, B, S) of S samples of each of B classes.

    Raises:
        ValueError: fewer than two classes or samples, or another shape.
    """
    if scores.ndim != 4 or scores.shape[:2] != scores.shape[2:] or min(scores.shape) < 2:
        raise ValueError(f"scores must be (B, S, B, S) with B, S >= 2, got {tuple(scores.shape)}")
    classes, slots = scores.shape[:2]
    blocks = scores.permute(1, 3, 0, 2)
    positive = blocks.diagonal(dim1=2, dim2=3)
    own = torch.eye(classes, dtype=torch.bool, device=scores.device)
    others = blocks.masked_fill(own, -torch.inf).logsumexp(3)
    same_slot = others.diagonal().mT[:, None]
    losses = torch.nn.functional.softplus(
        torch.logaddexp(others, same_slot) - positive, threshold=40
    ).mean(2)
    return losses.masked_fill(torch.eye(slots, dtype=torch.bool, device=scores.device), 0)


def pairwise_cross_entropy(scores: Tensor) -> Tensor:
    """Sum of :func:`pairwise_losses` over the S(S - 1) ordered pairs, as the reference trains."""
    return pairwise_losses(scores).sum()


def spherical_scores(z: Tensor, *, temperature: float) -> Tensor:
    """Logits <x, y>/T of unit vectors z (B, S, D), (B, S, B, S)."""
    z = as_float(z)
    flat = z.flatten(0, 1)
    scores: Tensor = exact_matmul(flat, flat) / temperature
    return scores.reshape(*z.shape[:2], *z.shape[:2])


def hyperbolic_scores(
    z: Tensor, *, c: Curvature, temperature: float, numerics: Numerics = "exact"
) -> Tensor:
    """Logits -d(x, y)/T of ball points z (B, S, D), (B, S, B, S)."""
    ball = official if numerics == "official" else poincare
    flat = as_float(z).flatten(0, 1)
    scores: Tensor = -ball.pairwise_distance(flat, flat, c) / temperature
    return scores.reshape(*z.shape[:2], *z.shape[:2])
