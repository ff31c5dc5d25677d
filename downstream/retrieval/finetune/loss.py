"""From projections to the loss, and to the points that are ranked."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from downstream.retrieval.finetune.settings import LossSettings
from pretrain import distributed
from pretrain.geometry import official, poincare
from pretrain.geometry.precision import as_float
from pretrain.losses import (
    hyperbolic_scores,
    hypmix,
    pairwise_cross_entropy,
    spherical_scores,
)


def metric_loss(projections: Tensor, settings: LossSettings) -> Tensor:
    """Pairwise cross-entropy of projections (B, S, D), summed over the S(S - 1) slot pairs."""
    if settings.geometry == "sphere":
        unit = F.normalize(as_float(projections), dim=-1)
        return pairwise_cross_entropy(
            spherical_scores(unit, temperature=settings.temperature_spherical)
        )
    if settings.geometry == "ball":
        scores = hyperbolic_scores(
            ball_points(projections, settings),
            c=settings.curvature,
            temperature=settings.temperature_hyperbolic,
            numerics=settings.numerics,
        )
        return pairwise_cross_entropy(scores)
    return hypmix(
        projections,
        c=settings.curvature,
        weight=settings.weight,
        temperature_spherical=settings.temperature_spherical,
        temperature_hyperbolic=settings.temperature_hyperbolic,
        clip=settings.clip_radius,
        combine=settings.combine,
        ball_input=settings.ball_input,
        numerics=settings.numerics,
    )


def ball_points(projections: Tensor, settings: LossSettings) -> Tensor:
    """Points of the ball (..., D) that the loss measures distances of."""
    inputs = as_float(projections)
    if settings.ball_input == "unit" and settings.geometry == "mixed":
        inputs = F.normalize(inputs, dim=-1)
    ball = official if settings.numerics == "official" else poincare
    points: Tensor = ball.to_ball(inputs, settings.curvature, clip=settings.clip_radius)
    return points


def gather(projections: Tensor) -> Tensor:
    """Projections of all processes in rank order, (n, D) -> (world n, D).

    The own ones keep their gradient. Every process then computes the loss of the whole step, and
    the gradients of all, *summed*, are those of one process: each sample's share arises once, where
    the sample is.
    """
    rank, size = distributed.rank_and_size()
    if size == 1:
        return projections
    parts = list(distributed.all_gather(projections.detach()).chunk(size))
    parts[rank] = projections
    return torch.cat(parts)
