"""BYOL (Grill et al. 2020, arXiv 2006.07733): regress the other view's embedding, no negatives.

The online network predicts what its own moving average, the target network, makes of the other
view. Batch norm over the global batch stands in for negatives: without it the outputs collapse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pretrain import distributed
from pretrain.data.plan import Region
from pretrain.errors import InputError
from pretrain.geometry.precision import as_float
from pretrain.losses import cosine_regression
from pretrain.methods.base import (
    Context,
    Losses,
    MethodSettings,
    Metrics,
    TwoViewMethod,
    register,
)
from pretrain.models import (
    Encoder,
    build_head,
    momentum_copy,
    synchronise_batch_norm,
    update_momentum,
)


class ByolSettings(MethodSettings):
    """Settings of BYOL; the defaults are those of ORL's first stage on COCO.

    Attributes:
        momentum: of the target network at the first step; it grows to 1 along half a cosine.
        predictor_hidden: width of the predictor's hidden layer.
        synchronise: batch norm over the global batch; otherwise over each process' share.
        crops: what the two views are cut from.
    """

    momentum: Annotated[float, Field(ge=0, le=1)] = 0.99
    predictor_hidden: Annotated[int, Field(ge=1)] = 4096
    synchronise: bool = True
    crops: Region = "image"


@register("byol")
class Byol(TwoViewMethod):
    """Bootstrap your own latent."""

    settings_class = ByolSettings

    def __init__(self, settings: ByolSettings, context: Context) -> None:
        super().__init__()
        if context.encoder.head != "mlp_bn":
            raise InputError(
                "model.head: BYOL collapses without batch norm in its projector; set "
                "model.head=mlp_bn (and, as published, model.hidden=4096 model.dim=256)"
            )
        self.settings, self.context, self.region = settings, context, settings.crops
        self.encoder_q = Encoder(context.encoder)
        dim = context.encoder.dim
        self.predictor = build_head("mlp_bn", dim, settings.predictor_hidden, dim)
        if settings.synchronise:
            synchronise_batch_norm(self.encoder_q)
            synchronise_batch_norm(self.predictor)
        self.encoder_k = momentum_copy(self.encoder_q)
        self._momentum = settings.momentum

    def begin_step(self, step: int, total_steps: int) -> None:
        """The momentum of this step: 1 - (1 - m₀)(cos(πt) + 1)/2 at t = step/total."""
        swing = (math.cos(math.pi * step / max(total_steps, 1)) + 1) / 2
        self._momentum = 1 - (1 - self.settings.momentum) * swing

    def end_step(self) -> None:
        """Move the target towards the online network, after its optimiser's step."""
        update_momentum(self.encoder_k, self.encoder_q, self._momentum)

    def forward(self, views: Mapping[str, Tensor]) -> tuple[Losses, Metrics]:
        """Sum of both directions, each 2 - 2 cos (0 to 8 in all)."""
        first, second = views["view_1"], views["view_2"]
        predictions = [as_float(self.predictor(self.encoder_q(view))) for view in (first, second)]
        with torch.no_grad():
            targets = [as_float(self.encoder_k(view)) for view in (second, first)]
        losses = [
            cosine_regression(prediction, target)
            for prediction, target in zip(predictions, targets, strict=True)
        ]
        with torch.no_grad():
            agreement = torch.stack(
                [
                    F.cosine_similarity(prediction, target).mean()
                    for prediction, target in zip(predictions, targets, strict=True)
                ]
            ).mean()
            # 1/√dim for directions spread evenly, 0 for collapsed ones.
            spread = F.normalize(targets[0], dim=1).std(0).mean()
        metrics = {"agreement": agreement, "spread": spread}
        return {"regression": torch.stack(losses).sum()}, metrics

    def encode_query(self, images: Tensor) -> Tensor:
        """Projections of the online network, before the predictor."""
        return as_float(self.encoder_q(images))

    @torch.no_grad()
    def encode_key(self, images: Tensor, view: int) -> Tensor:
        """Projections of the target network; batch norm over all needs no shuffling."""
        return distributed.all_gather(as_float(self.encoder_k(images)))
