"""Color histograms: what a network has to be better than."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

BINS = 4
"""Of each channel."""


def histograms(batches: Iterable[Tensor]) -> Tensor:
    """Colors of images, uint8 (n, 3, H, W) each batch, as float32 unit vectors (N, 64).

    The root of the share of pixels in each bin of red, green and blue together, so that the inner
    product of two is the Bhattacharyya coefficient of their distributions.
    """
    return torch.cat([_histogram(batch) for batch in batches])


class ColorHistogram(nn.Module):
    """The same in the place of a backbone: images (N, 3, H, W) in [0, 1] to features (N, 64)."""

    num_features = BINS**3

    def forward(self, images: Tensor) -> Tensor:
        """Features of a batch; images that were whole numbers of 255ths count as those."""
        return _histogram((images * 255).round().clamp(0, 255))


def _histogram(images: Tensor) -> Tensor:
    red, green, blue = (images.long() * BINS // 256).unbind(1)
    cells = ((red * BINS + green) * BINS + blue).flatten(1)
    shares = torch.zeros(len(images), BINS**3, device=images.device)
    share = torch.full(cells.shape, 1 / cells.shape[1], device=images.device)
    return shares.scatter_add_(1, cells, share).sqrt()
