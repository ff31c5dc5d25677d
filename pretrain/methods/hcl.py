"""The HCL branch (Ge et al., arXiv 2212.00653): scene and object in the Poincaré ball.

It joins any method with a momentum encoder: the scene crop asks, the object crop inside it
answers, past objects are the negatives, and distance replaces the cosine. The projection head is
shared with the method; its raw output is mapped into the ball.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from pretrain import distributed
from pretrain.data.plan import Crop, ViewPlan
from pretrain.errors import InputError
from pretrain.geometry import poincare
from pretrain.losses import hyperbolic_info_nce
from pretrain.losses.paths import Path as LossPath
from pretrain.methods.base import Context, KeyedMethod, Losses, Method, Metrics, local_rows
from pretrain.models import Encoder, Queue
from pretrain.settings import Settings

# The method's own key views count from 0; the branch's shuffle must differ from theirs.
KEY_VIEW = 15


class HCLSettings(Settings):
    """Settings of the branch; the defaults are those of the official recipe.

    Attributes:
        weight: λ of ``L_euc + λ L_hyp``; 0 leaves out the branch and its forwards.
        curvature: c > 0 of the ball of radius 1/√c.
        temperature: divides the distance.
        queue: number of negatives K.
        queue_start: ``random`` ball points, or ``empty``.
        query: which crop asks and takes the gradient; the other answers and is queued.
        riemannian_gradient: scale the gradient at the ball point by (1 - c|x|²)²/4.
        clip_radius: limit on the raw norm before the exponential map; None: no limit.
        loss_path: which implementation of the loss, see ``pretrain.losses``.
    """

    weight: float = 0.1
    curvature: float = 0.05
    temperature: float = 0.2
    queue: int = 65536
    queue_start: Literal["random", "empty"] = "random"
    query: Literal["scene", "object"] = "scene"
    riemannian_gradient: bool = True
    clip_radius: float | None = None
    loss_path: LossPath = "auto"


class HCL(Method):
    """A method with the branch added."""

    def __init__(self, base: KeyedMethod, settings: HCLSettings, context: Context) -> None:
        super().__init__()
        if settings.curvature <= 0:
            raise InputError(f"hcl.curvature: must be positive, got {settings.curvature}")
        self.base, self.settings = base, settings
        # Unit tangent vectors land at tanh(√c)/√c: valid points, whatever the curvature.
        c = torch.tensor(settings.curvature, dtype=torch.float64)
        length = float(torch.tanh(c.sqrt()) / c.sqrt())
        self.queue = Queue(
            settings.queue,
            context.encoder.dim,
            start=settings.queue_start,
            length=length,
            generator=torch.Generator().manual_seed(context.seed + 1),
        )
        self._fresh: Tensor | None = None

    @property
    def view_plan(self) -> ViewPlan:
        """The method's crops, the exact object box and the scene."""
        return self.base.view_plan.extended(
            Crop("object", "object", False), Crop("scene", "scene", False)
        )

    @property
    def encoder(self) -> Encoder:
        """The method's query encoder."""
        return self.base.encoder

    @property
    def encoder_prefix(self) -> str:
        """Its place in the state."""
        return "base." + self.base.encoder_prefix

    def begin_step(self, step: int, total_steps: int) -> None:
        """The method's own."""
        self.base.begin_step(step, total_steps)

    def end_step(self) -> None:
        """The method's own, and enqueue the answering crops."""
        self.base.end_step()
        if self._fresh is not None:
            self.queue.enqueue(self._fresh)
            self._fresh = None

    def forward(self, views: Mapping[str, Tensor]) -> tuple[Losses, Metrics]:
        """The method's losses and λ times the hyperbolic InfoNCE."""
        losses, metrics = self.base(views)
        settings = self.settings
        asking, answering = (
            ("scene", "object") if settings.query == "scene" else ("object", "scene")
        )
        query = self.to_ball(self.base.encode_query(views[asking]))
        with torch.no_grad():
            keys = self.to_ball(self.base.encode_key(views[answering], view=KEY_VIEW))
        rank, _ = distributed.rank_and_size()
        key = local_rows(keys, len(query), rank)
        loss = hyperbolic_info_nce(
            query,
            key,
            self.queue.keys(),
            c=settings.curvature,
            temperature=settings.temperature,
            path=settings.loss_path,
        )
        self._fresh = keys
        with torch.no_grad():
            norms = {
                asking: poincare.distance_to_origin(query, settings.curvature).mean(),
                answering: poincare.distance_to_origin(key, settings.curvature).mean(),
            }
        metrics = {**metrics, "norm/scene": norms["scene"], "norm/object": norms["object"]}
        return {**losses, "hyperbolic": settings.weight * loss}, metrics

    def to_ball(self, raw: Tensor) -> Tensor:
        """Raw projections (B, D) to ball points, in float32."""
        settings = self.settings
        return poincare.to_ball(
            raw,
            settings.curvature,
            clip=settings.clip_radius,
            riemannian=settings.riemannian_gradient,
        )
