"""InfoNCE against a queue of negatives (van den Oord et al. 2018; He et al. 2020, equation 1)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.geometry.precision import exact_matmul
from pretrain.losses.contrast import (
    Temperature,
    check_rows,
    check_temperature,
    contrast,
    logsumexp,
    over,
)

Path = Literal["auto", "plain", "matrix"]


def info_nce(
    query: Tensor, key: Tensor, queue: Tensor, *, temperature: Temperature, path: Path = "auto"
) -> Tensor:
    """Mean over i of -log( e^(q_i·k_i/T) / (e^(q_i·k_i/T) + Σ_j e^(q_i·n_j/T)) ).

    Args:
        query: (N, D), with gradient; rows of norm 1 as a rule.
        key: (N, D), the positive of each query; constant.
        queue: (K, D), the negatives n; constant. With K = 0 the loss is 0 with zero gradient.
        temperature: T.
        path: how the negatives are summed.

    Raises:
        ValueError: shapes that do not fit, a temperature that is not positive.
    """
    query, key, queue = check_rows(query, key, queue)
    temperature = check_temperature(temperature, query)
    positive = over((query * key).sum(1), temperature)
    negatives = over(exact_matmul(query, queue), temperature)
    if path == "plain":
        logits = torch.cat([positive[:, None], negatives], dim=1)
        return F.cross_entropy(
            logits, torch.zeros(len(query), dtype=torch.long, device=query.device)
        )
    return contrast(positive, logsumexp(negatives))
