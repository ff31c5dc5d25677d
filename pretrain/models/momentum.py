"""The key encoder: an exponential moving average of the query encoder."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def momentum_copy(query: M) -> M:
    """A copy of ``query`` that takes no gradient."""
    key = copy.deepcopy(query)
    return key.requires_grad_(False)


@torch.no_grad()
def update_momentum(key: nn.Module, query: nn.Module, momentum: float) -> None:
    """``key = momentum * key + (1 - momentum) * query`` over parameters, in float32.

    Buffers are not averaged: the key encoder's batch norm follows its own forwards
    (MoCo, arXiv 1911.05722, eq. 2 and the official code).
    """
    # lerp is exact where key and query agree; the two-product form drifts (golden: drift).
    torch._foreach_lerp_(list(key.parameters()), list(query.parameters()), 1 - momentum)
