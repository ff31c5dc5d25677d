"""Shuffled keys: a key must not share its batch-norm statistics with its own query.

Otherwise the network tells positives by their statistics (MoCo, arXiv 1911.05722, section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pretrain import distributed
from pretrain.geometry.precision import as_float

Encode = Callable[[Tensor], tuple[Tensor, ...]]
"""Images (B, 3, S, S) to tensors (B, ...)."""


@torch.no_grad()
def encode(
    encoder: Encode, images: Tensor, permutation: Callable[[int], Tensor] | None
) -> tuple[Tensor, ...]:
    """Encode the images of all ranks in another order; all results, in the original order.

    Args:
        encoder: applied to as many images as this rank has.
        images: this rank's (B, 3, S, S); as many on every rank.
        permutation: of the global batch's (world * B,) rows, the same on every rank; None: no
            shuffling, and no images travel.

    Returns:
        Per output of the encoder (world * B, ...), float32, the same on every rank.
    """
    if permutation is None:
        return tuple(distributed.all_gather(as_float(part)) for part in encoder(images))
    rank, _ = distributed.rank_and_size()
    gathered = distributed.all_gather(images)
    order = permutation(len(gathered)).to(images.device)
    mine = order[rank * len(images) : (rank + 1) * len(images)]
    shuffled = gathered[mine].contiguous(memory_format=_memory_format(images))
    results = []
    for part in encoder(shuffled):
        found = distributed.all_gather(as_float(part))
        results.append(torch.empty_like(found).index_copy_(0, order, found))
    return tuple(results)


def _memory_format(images: Tensor) -> torch.memory_format:
    channels_last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format
