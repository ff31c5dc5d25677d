"""HypMix: spherical and hyperbolic geometry in one loss (Yue et al. 2024, arXiv 2404.15523)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from pretrain.geometry import official, poincare
from pretrain.geometry.precision import Curvature, as_float
from pretrain.losses.contrast import Numerics
from pretrain.losses.pairwise import (
    hyperbolic_scores,
    pairwise_cross_entropy,
    spherical_scores,
)

Combine = Literal["logits", "losses"]
BallInput = Literal["unit", "raw"]


def hypmix(
    features: Tensor,
    *,
    c: Curvature,
    weight: float,
    temperature_spherical: float,
    temperature_hyperbolic: float,
    clip: float | None = None,
    combine: Combine = "logits",
    ball_input: BallInput = "unit",
    numerics: Numerics = "exact",
) -> Tensor:
    """Pairwise cross-entropy over both geometries of features (B, S, D), summed over slot pairs.

    Args:
        features: output of the head, not normalized, with gradient.
        c: curvature of the ball is -c.
        weight: of the hyperbolic part.
        temperature_spherical: of the cosine.
        temperature_hyperbolic: of the distance.
        clip: norm to which the ball's input is clipped.
        combine: "logits", one softmax over the sum cos/T_s - weight·d/T_h as in the released
            code; "losses", the sum of two losses as the paper's abstract reads.
        ball_input: "unit", the ball point of the normalized feature as released (its distance is
            then a function of the cosine alone); "raw", that of the feature itself.
        numerics: "official" for the reference's epsilons.

    Raises:
        ValueError: features of another shape, fewer than two classes or samples.
    """
    if features.ndim != 3:
        raise ValueError(f"features must be (B, S, D), got {tuple(features.shape)}")
    features = as_float(features)
    unit = F.normalize(features, dim=-1)
    ball = official if numerics == "official" else poincare
    point = ball.to_ball(unit if ball_input == "unit" else features, c, clip=clip)
    spherical = spherical_scores(unit, temperature=temperature_spherical)
    hyperbolic = hyperbolic_scores(
        point, c=c, temperature=temperature_hyperbolic, numerics=numerics
    )
    if combine == "logits":
        return pairwise_cross_entropy(spherical + weight * hyperbolic)
    return pairwise_cross_entropy(spherical) + weight * pairwise_cross_entropy(hyperbolic)
