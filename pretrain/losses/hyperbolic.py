"""InfoNCE with hyperbolic distances (HCL: Ge et al. 2023, arXiv 2212.00653, equation 4)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from pretrain.geometry import gram, poincare
from pretrain.geometry.precision import Curvature
from pretrain.losses.contrast import (
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

    Raises:
        ValueError: shapes that do not fit, c or temperature not positive.
    """
    query, key, queue = check_rows(query, key, queue)
    temperature = check_temperature(temperature, query)
    pairwise = poincare.pairwise_distance if path == "plain" else gram.pairwise_distance
    positive = over(-poincare.distance(query, key, c), temperature)
    return contrast(positive, logsumexp(over(-pairwise(query, queue, c), temperature)))
