"""InfoNCE whose negatives are the other keys of the batch (SimCLR style, one direction)."""

from __future__ import annotations

import torch
from torch import Tensor

from pretrain.geometry import poincare
from pretrain.geometry.precision import Curvature, as_float, exact_matmul, pairwise_euclidean
from pretrain.losses.contrast import (
    Temperature,
    check_temperature,
    contrast,
    logsumexp,
    over,
)


def info_nce_in_batch(
    query: Tensor, keys: Tensor, *, temperature: Temperature, offset: int = 0
) -> Tensor:
    """Mean InfoNCE of query (N, D) with logits q·k/T; query i belongs to keys[offset + i].

    Gradients reach ``keys`` (M, D) too. Over several processes, ``keys`` are all processes' keys
    and ``offset`` is where this process's begin. With one key the loss is 0.

    Raises:
        ValueError: fewer keys than offset + N.
    """
    query, keys = as_float(query), as_float(keys)
    return _cross_entropy(exact_matmul(query, keys), offset, temperature)


def hyperbolic_info_nce_in_batch(
    query: Tensor, keys: Tensor, *, c: Curvature, temperature: Temperature, offset: int = 0
) -> Tensor:
    """:func:`info_nce_in_batch` of ball points with logits -d/T."""
    return _cross_entropy(-poincare.pairwise_distance(query, keys, c), offset, temperature)


def euclidean_info_nce_in_batch(
    query: Tensor, keys: Tensor, *, temperature: Temperature, offset: int = 0
) -> Tensor:
    """:func:`info_nce_in_batch` with logits -|x - y|/T."""
    scores = -pairwise_euclidean(as_float(query), as_float(keys))
    return _cross_entropy(scores, offset, temperature)


def _cross_entropy(scores: Tensor, offset: int, temperature: Temperature) -> Tensor:
    rows, columns = scores.shape
    if not 0 <= offset <= columns - rows:
        raise ValueError(f"{rows} queries from key {offset} on need more than {columns} keys")
    logits = over(scores, check_temperature(temperature, scores))
    own = torch.zeros_like(logits, dtype=torch.bool)
    own.diagonal(offset).fill_(True)
    if columns == 1:
        return contrast(logits[:, 0], logsumexp(logits[:, 1:]))
    return contrast(logits.diagonal(offset), logsumexp(logits.masked_fill(own, -torch.inf)))
