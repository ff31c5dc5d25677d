"""InfoNCE against a queue of negatives (van den Oord et al. 2018; He et al. 2020, equation 1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.geometry.precision import exact_matmul
from pretrain.losses import negatives
from pretrain.losses.contrast import (
    Temperature,
    check_rows,
    check_temperature,
    contrast,
    logsumexp,
    over,
    wants_gradient,
)
from pretrain.losses.paths import Path, choose


def info_nce(
    query: Tensor, key: Tensor, queue: Tensor, *, temperature: Temperature, path: Path = "auto"
) -> Tensor:
    """Mean over i of -log( e^(q_i·k_i/T) / (e^(q_i·k_i/T) + Σ_j e^(q_i·n_j/T)) ).

    Args:
        query: (N, D), with gradient; rows of norm 1 as a rule.
        key: (N, D), the positive of each query; constant.
        queue: (K, D), the negatives n; constant. With K = 0 the loss is 0 with zero gradient.
        temperature: T; gradients reach a tensor.
        path: how the negatives are summed, see :mod:`pretrain.losses.paths`.

    Raises:
        ValueError: shapes that do not fit, a temperature that is not positive, a path that
            cannot run here.
    """
    query, key, queue = check_rows(query, key, queue)
    temperature = check_temperature(temperature, query)
    path = choose(path, "info_nce", query, queue, learnable=wants_gradient(temperature))
    positive = over((query * key).sum(1), temperature)
    if len(queue) == 0 or path == "matrix":
        return contrast(positive, logsumexp(over(exact_matmul(query, queue), temperature)))
    if path == "plain":
        logits = torch.cat([positive[:, None], over(exact_matmul(query, queue), temperature)], 1)
        labels = torch.zeros(len(query), dtype=torch.long, device=query.device)
        return F.cross_entropy(logits, labels)
    return contrast(positive, negatives.cosine(query, queue, temperature, fused=path == "triton"))
