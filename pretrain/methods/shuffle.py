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
    encoder: Encode, images: Tensor, permutation: Callable[[int], Tensor], *, travel: bool
) -> tuple[Tensor, ...]:
    """Encode images in another order; the results of this rank's images, in their own order.

    Args:
        encoder: applied to as many images as this rank has.
        images: this rank's (B, 3, S, S); as many on every rank.
        permutation: of so many rows; the same on every rank.
        travel: permute the images of all ranks, as the MoCo code does: images and results travel
            between processes. Otherwise this rank's images alone, and nothing travels.

    Returns:
        Per output of the encoder (B, ...), float32 or float64.
    """
    rank, _ = distributed.rank_and_size()
    start = rank * len(images) if travel else 0
    own = slice(start, start + len(images))
    pool = distributed.all_gather(images) if travel else images
    order = permutation(len(pool)).to(images.device)
    back = order.argsort()[own]
    shuffled = pool[order[own]].contiguous(memory_format=_memory_format(images))
    parts = (as_float(part) for part in encoder(shuffled))
    return tuple((distributed.all_gather(part) if travel else part)[back] for part in parts)


def _memory_format(images: Tensor) -> torch.memory_format:
    channels_last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format
