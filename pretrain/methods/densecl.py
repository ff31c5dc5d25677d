"""DenseCL (Wang et al. 2021, arXiv 2011.09157): MoCo-v2 and the same contrast for every cell.

Each cell of the query's feature map is paired with the key's cell of largest cosine between
backbone features, and contrasted with a second queue, which holds one pooled dense key an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pretrain import distributed
from pretrain.core.errors import InputError
from pretrain.data.plan import Region
from pretrain.geometry.precision import as_float
from pretrain.losses import dense_info_nce, info_nce, match
from pretrain.methods.base import Context, Losses, Metrics, register
from pretrain.methods.moco import Moco, MocoSettings
from pretrain.models import DenseEncoder, DenseOutput, Encoder, Queue


class DenseCLSettings(MocoSettings):
    """Settings of DenseCL; the defaults are the official COCO recipe's.

    Attributes:
        dense_weight: λ_d of (1 - λ_d)·global + λ_d·dense.
        dense_from: steps before the dense loss counts; until then λ_d is 0. The official recipes
            have none, its authors advise 10,000 where training is unstable.
        grid: cells a side for the dense loss; None: those of the feature map.
    """

    symmetric: bool = False
    crops: Region = "image"
    dense_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    dense_from: Annotated[int, Field(ge=0)] = 0
    grid: Annotated[int, Field(ge=1)] | None = None


@register("densecl")
class DenseCL(Moco):
    """Momentum contrast of images and of their cells."""

    settings_class = DenseCLSettings
    settings: DenseCLSettings
    encoder_q: DenseEncoder
    encoder_k: DenseEncoder

    def __init__(self, settings: DenseCLSettings, context: Context) -> None:
        super().__init__(settings, context)
        generator = torch.Generator().manual_seed(context.seed + 2)
        kwargs: dict[str, Any] = {"start": settings.queue_start, "generator": generator}
        dim = context.encoder.dim
        self.dense_queue_2 = Queue(settings.queue, dim, **kwargs)
        self.dense_queue_1 = Queue(settings.queue, dim, **kwargs) if settings.symmetric else None

    def build_encoder(self) -> Encoder:
        """The network with both heads."""
        grid = self.settings.grid
        encoder = DenseEncoder(self.context.encoder, grid, size=self.context.size)
        side = encoder.feature_map.side
        if grid is not None and grid > side:
            raise InputError(
                f"method.grid: {grid} cells a side, but views of {self.context.size} px have a "
                f"feature map of {side}x{side}; use {side} or less"
            )
        return encoder

    def forward(self, views: Mapping[str, Tensor]) -> tuple[Losses, Metrics]:
        """Both InfoNCE terms, weighted, over one or both directions."""
        self._forwards += 1
        directions = [("view_1", "view_2", self.queue_2, self.dense_queue_2)]
        if self.queue_1 is not None:
            assert self.dense_queue_1 is not None
            directions.append(("view_2", "view_1", self.queue_1, self.dense_queue_1))
        terms, agreements = [], []
        for number, (query_view, key_view, queue, dense_queue) in enumerate(directions):
            query = self.encoder_q.dense(views[query_view])
            key = DenseOutput(*self.encode_keys(self.encoder_k.dense, views[key_view], number))
            terms.append(self._contrast(query, key, queue, dense_queue))
            with torch.no_grad():
                projected = as_float(query.projection)
                agreements.append(F.cosine_similarity(projected, key.projection).mean())
        single, dense = (torch.stack(part).mean() for part in zip(*terms, strict=True))
        weight = self.settings.dense_weight if self._step >= self.settings.dense_from else 0.0
        # With weight 0 the dense head still takes part, as data-parallel training requires.
        losses = {"euclidean": (1 - weight) * single, "dense": weight * dense}
        return losses, {"agreement": torch.stack(agreements).mean()}

    def _contrast(
        self, query: DenseOutput, key: DenseOutput, queue: Queue, dense_queue: Queue
    ) -> tuple[Tensor, Tensor]:
        """Global and dense loss of this rank's queries; remembers what to enqueue.

        Args:
            query: of this rank's views.
            key: of its other views.
            queue: of global keys.
            dense_queue: of pooled dense keys.
        """
        settings = self.settings
        projected = F.normalize(key.projection, dim=1)
        single = info_nce(
            F.normalize(as_float(query.projection), dim=1),
            projected,
            queue.keys(),
            temperature=settings.temperature,
            path=settings.loss_path,
        )
        dense = dense_info_nce(
            query.grid,
            key.grid,
            match(query.features, key.features),
            dense_queue.keys(),
            temperature=settings.temperature,
            path=settings.loss_path,
        )
        pooled = F.normalize(key.grid.flatten(2).mean(2), dim=1)
        # The queues take the keys of all processes; cells are needed where they are.
        for which, rows in ((queue, projected), (dense_queue, pooled)):
            self._fresh.append((which, distributed.all_gather(rows)))
        return single, dense
