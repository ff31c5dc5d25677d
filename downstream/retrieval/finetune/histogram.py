"""Color histograms: what a network has to be better than."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

BINS = 4
"""Of each channel."""


def histograms(batches: Iterable[Tensor]) -> Tensor:
    """Colors of images, uint8 (n, 3, H, W) each batch, as float32 unit vectors (N, 64).

    The root of the share of pixels in each bin of red, green and blue together, so that the inner
    product of two is the Bhattacharyya coefficient of their distributions.
    """
    found = []
    for batch in batches:
        red, green, blue = (batch.long() * BINS // 256).unbind(1)
        cells = ((red * BINS + green) * BINS + blue).flatten(1)
        shares = torch.zeros(len(batch), BINS**3)
        shares.scatter_add_(1, cells, torch.full(cells.shape, 1 / cells.shape[1]))
        found.append(shares.sqrt())
    return torch.cat(found)
