"""What every contrastive loss against a queue shares: inputs, and the last step."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.geometry.precision import as_float

Numerics = Literal["exact", "official"]
"""exact: right everywhere. official: the reference codes' epsilons, for parity tests only."""

Temperature = float | Tensor
"""T > 0: a number, or a tensor of one element or of N elements, one a query."""


def check_rows(query: Tensor, key: Tensor, queue: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three as float tensors of one dtype; key and queue without gradient.

    Raises:
        ValueError: shapes other than (N, D), (N, D), (K, D).
    """
    if query.ndim != 2 or query.shape != key.shape or queue.ndim != 2:
        raise ValueError(
            "query and key must be (N, D) and queue (K, D), got "
            f"{tuple(query.shape)}, {tuple(key.shape)}, {tuple(queue.shape)}"
        )
    if queue.shape[1] != query.shape[1]:
        raise ValueError(f"queue has {queue.shape[1]} columns, query has {query.shape[1]}")
    query = as_float(query)
    return query, key.detach().to(query.dtype), queue.detach().to(query.dtype)


def check_temperature(temperature: Temperature, like: Tensor) -> Temperature:
    """The temperature as a number, or as a tensor (N,) in the dtype of ``like`` (N, ...).

    Raises:
        ValueError: not positive, or a tensor of another size.
    """
    if isinstance(temperature, Tensor):
        if temperature.numel() not in (1, len(like)):
            raise ValueError(
                f"temperature must have 1 or {len(like)} elements, got {temperature.numel()}"
            )
        return temperature.reshape(-1).to(device=like.device, dtype=like.dtype).expand(len(like))
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    return float(temperature)


def wants_gradient(*values: float | Tensor) -> bool:
    """Whether any of them is a tensor that requires a gradient."""
    return any(isinstance(value, Tensor) and value.requires_grad for value in values)


def over(scores: Tensor, temperature: Temperature) -> Tensor:
    """Scores (N, ...) divided by the temperature of their row."""
    if isinstance(temperature, Tensor):
        return scores / temperature.reshape(-1, *[1] * (scores.ndim - 1))
    return scores / temperature


def contrast(positive: Tensor, negatives: Tensor) -> Tensor:
    """Mean cross-entropy of the positive logits (N,) against log-sum-exps of negatives (N,).

    softplus(negatives - positive): at small losses the subtraction inside a cross-entropy would
    leave only rounding (half of a loss of 1e-8). Without negatives (-inf) the loss is 0, and so
    is its gradient.
    """
    # torch takes softplus(x) = x above its threshold; 40 makes that exact in float64.
    return F.softplus(negatives - positive, threshold=40).mean()


def logsumexp(logits: Tensor) -> Tensor:
    """Over the columns of (N, K); -inf where there are none."""
    if logits.shape[1] == 0:
        return torch.full_like(logits.sum(1), -math.inf)
    return logits.logsumexp(1)
