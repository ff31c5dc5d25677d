"""What BYOL and ORL share: pairs of views that predict each other, without negatives.

The online network, followed by a predictor, regresses what its own moving average, the target
network, makes of the other view. Batch norm over the global batch stands in for negatives:
without it the outputs collapse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pretrain import distributed
from pretrain.core.errors import InputError
from pretrain.data.plan import Crop, ViewPlan
from pretrain.geometry.precision import as_float
from pretrain.losses import cosine_regression
from pretrain.methods.base import Context, KeyedMethod, Losses, MethodSettings, Metrics
from pretrain.models import (
    Encoder,
    build_head,
    momentum_copy,
    synchronize_batch_norm,
    update_momentum,
)


@dataclass(frozen=True)
class Pair:
    """Two views that predict each other.

    Attributes:
        first: one of them.
        second: the other.
        weight: of their loss.
    """

    first: Crop
    second: Crop
    weight: float = 1.0


class BootstrapSettings(MethodSettings):
    """Settings of both methods; the defaults are those of ORL on COCO, in all its stages.

    Attributes:
        momentum: of the target network at the first step; it grows to 1 along half a cosine.
        predictor_hidden: width of a predictor's hidden layer.
        synchronize: batch norm over the global batch; otherwise over each process' share.
    """

    momentum: Annotated[float, Field(ge=0, le=1)] = 0.99
    predictor_hidden: Annotated[int, Field(ge=1)] = 4096
    synchronize: bool = True


class Bootstrap(KeyedMethod):
    """One online and one target network, and per pair of views a predictor and a loss term.

    The online network without predictors is the query encoder, the target network the key encoder.

    Each view is encoded on its own, so that each has its own batch-norm statistics.

    Args:
        settings: of the method.
        context: of the run.
        pairs: by the name of their loss term.

    Raises:
        InputError: the projector has no batch norm.
    """

    def __init__(
        self, settings: BootstrapSettings, context: Context, pairs: Mapping[str, Pair]
    ) -> None:
        super().__init__()
        if context.encoder.head != "mlp_bn":
            raise InputError(
                f"model.head: {settings.name.upper()} collapses without batch norm in its "
                "projector; set model.head=mlp_bn (and, as published, model.hidden=4096 "
                "model.dim=256)"
            )
        self.context, self.pairs = context, dict(pairs)
        self.encoder_q = Encoder(context.encoder)
        dim, hidden = context.encoder.dim, settings.predictor_hidden
        self.predictors = nn.ModuleDict(
            {name: build_head("mlp_bn", dim, hidden, dim) for name in pairs}
        )
        if settings.synchronize:
            synchronize_batch_norm(self.encoder_q)
            synchronize_batch_norm(self.predictors)
        self.encoder_k = momentum_copy(self.encoder_q)
        self._start = self._momentum = settings.momentum

    @property
    def view_plan(self) -> ViewPlan:
        """The crops of all pairs."""
        crops = [crop for pair in self.pairs.values() for crop in (pair.first, pair.second)]
        return ViewPlan(self.context.size, tuple(crops))

    def begin_step(self, step: int, total_steps: int) -> None:
        """The momentum of this step: 1 - (1 - m₀)(cos(πt) + 1)/2 at t = step/total."""
        swing = (math.cos(math.pi * step / max(total_steps, 1)) + 1) / 2
        self._momentum = 1 - (1 - self._start) * swing

    def end_step(self) -> None:
        """Move the target toward the online network, after its optimizer's step."""
        update_momentum(self.encoder_k, self.encoder_q, self._momentum)

    def forward(self, views: Mapping[str, Tensor]) -> tuple[Losses, Metrics]:
        """Per pair the sum of both directions, each 2 - 2 cos (0 to 8 in all), weighted."""
        losses: Losses = {}
        agreements = []
        for name, pair in self.pairs.items():
            loss, agreement = self._regress(
                self.predictors[name], views[pair.first.name], views[pair.second.name]
            )
            losses[name] = pair.weight * loss
            agreements.append(agreement)
        metrics = {"agreement": torch.stack(agreements).mean()}
        if len(self.pairs) > 1:
            for name, agreement in zip(self.pairs, agreements, strict=True):
                metrics[f"agreement/{name}"] = agreement
        return losses, metrics

    def _regress(
        self, predictor: nn.Module, first: Tensor, second: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both directions' loss, and their mean cosine."""
        predictions = [as_float(predictor(self.encoder_q(view))) for view in (first, second)]
        with torch.no_grad():
            targets = [as_float(self.encoder_k(view)) for view in (second, first)]
        directions = list(zip(predictions, targets, strict=True))
        loss = torch.stack([cosine_regression(p, t) for p, t in directions]).sum()
        with torch.no_grad():
            cosines = torch.stack([F.cosine_similarity(p, t).mean() for p, t in directions])
        return loss, cosines.mean()

    @torch.no_grad()
    def encode_key(self, images: Tensor, view: int) -> Tensor:
        """Projections of the target network; batch norm over all needs no shuffling."""
        return distributed.all_gather(as_float(self.encoder_k(images)))
