"""An encoder that also projects every cell of the backbone's last feature map."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pretrain.models.encoder import Encoder, EncoderSettings
from pretrain.models.feature_map import find_feature_map


class DenseOutput(NamedTuple):
    """Of one batch of images, nothing normalized.

    Attributes:
        projection: (N, dim) of the pooled features.
        grid: (N, dim, G, G), a projection of every cell.
        features: (N, C, G, G), the backbone's own cells.
    """

    projection: Tensor
    grid: Tensor
    features: Tensor


class DenseEncoder(Encoder):
    """DenseCL's two heads (arXiv 2011.09157, section 3.2): the global one, and one for cells.

    Linear layers start as in the official code, He-normal without bias; its convolutions as
    PyTorch's own.

    Args:
        settings: of the network.
        grid: cells a side; None: those of the feature map (7 for views of 224 px). Features and
            projections are pooled alike (the official code pools only the latter, and breaks).
        size: side of the views, pixels.

    Attributes:
        feature_map: how the backbone's cells are read; ``side`` of it counts them.

    Raises:
        InputError: the backbone has no feature map.
    """

    def __init__(
        self, settings: EncoderSettings, grid: int | None = None, *, size: int = 224
    ) -> None:
        super().__init__(settings)
        self.feature_map = find_feature_map(settings.backbone, self.backbone, size)
        width = self.feature_map.channels
        hidden = settings.hidden or width
        self.dense_head = nn.Sequential(
            nn.Conv2d(width, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, settings.dim, 1)
        )
        self.pool = nn.Identity() if grid is None else nn.AdaptiveAvgPool2d(grid)
        for layer in self.head:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def dense(self, images: Tensor) -> DenseOutput:
        """Project images (N, 3, H, W) as wholes and cell by cell."""
        pooled, features = self.feature_map.read(self.backbone, images)
        cells = self.pool(features)
        return DenseOutput(self.head(pooled), self.dense_head(cells), torch.detach(cells))

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile ``dense`` as well as ``forward``."""
        super().compile(*args, **kwargs)
        self.dense = torch.compile(self.dense, *args, **kwargs)  # type: ignore[method-assign]
