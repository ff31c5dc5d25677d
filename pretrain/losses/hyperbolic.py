"""InfoNCE with hyperbolic distances (HCL: Ge et al. 2023, arXiv 2212.00653, equation 4)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.geometry import gram, official, poincare
from pretrain.geometry.precision import Curvature
from pretrain.losses.contrast import (
    Numerics,
    Temperature,
    check_rows,
    check_temperature,
    contrast,
    logsumexp,
    over,
)

Path = Literal["auto", "plain", "matrix"]


def hyperbolic_info_nce(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    c: Curvature,
    temperature: Temperature,
    path: Path = "auto",
    numerics: Numerics = "exact",
) -> Tensor:
    """InfoNCE with logits -d(x, y)/T of ball points, averaged over the queries.

    Args:
        query: (N, D) ball points, with gradient.
        key: (N, D) ball points, the positive of each query; constant.
        queue: (K, D) ball points, the negatives; constant. With K = 0 the loss is 0 with zero
            gradient.
        c: the curvature is -c.
        temperature: T.
        path: how the negatives are summed.
        numerics: "official" reproduces the reference code, with its plain cross-entropy; the
            path must then be "auto" or "plain".

    Raises:
        ValueError: shapes that do not fit, c or temperature not positive, a path that the
            official numerics lack.
    """
    query, key, queue = check_rows(query, key, queue)
    temperature = check_temperature(temperature, query)
    if numerics == "official":
        if path not in ("auto", "plain"):
            raise ValueError(f"official numerics have no {path!r} path; use 'plain'")
        return _official(query, key, queue, c, temperature)
    pairwise = poincare.pairwise_distance if path == "plain" else gram.pairwise_distance
    positive = over(-poincare.distance(query, key, c), temperature)
    return contrast(positive, logsumexp(over(-pairwise(query, queue, c), temperature)))


def _official(
    query: Tensor, key: Tensor, queue: Tensor, c: Curvature, temperature: Temperature
) -> Tensor:
    positive = official.distance(query, key, c)[:, None]
    distances = torch.cat([positive, official.pairwise_distance(query, queue, c)], dim=1)
    labels = torch.zeros(len(query), dtype=torch.long, device=query.device)
    return F.cross_entropy(over(-distances, temperature), labels)
