"""The HCL branch (Ge et al., arXiv 2212.00653): scene and object in the Poincaré ball.

It joins any method with a momentum encoder: the scene crop asks, the object crop inside it
answers, past objects are the negatives, and distance replaces the cosine. The projection head is
shared with the method; its raw output is mapped into the ball.

The curvature may be learned. Its parameter is log c: c is positive whatever the optimiser does,
and a step changes c by a factor, so that one learning rate serves 0.05 and 5 alike (the slope of
a softplus would shrink with c). After every step log c is put back between
``HCLSettings.curvature_bounds``, and no farther than ``HCLSettings.curvature_step`` from where it
was: at the rim all distances go like 1/√c, so that the slope of the loss in log c is as large as
the loss, and one plain step of a large rate can cross the whole range. It is
float64, since at usual rates its steps are smaller than float32 can tell apart, and takes no
weight decay, which would pull c towards 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from pretrain import distributed
from pretrain.data.plan import Crop, ViewPlan
from pretrain.geometry import poincare
from pretrain.geometry.precision import Curvature, as_float
from pretrain.losses import hyperbolic_info_nce
from pretrain.losses.paths import Path as LossPath
from pretrain.losses.stats import ball_stats, logit_stats
from pretrain.losses.tangent import hyperbolic_info_nce_of_tangents, moving_point
from pretrain.methods.base import Context, KeyedMethod, Losses, Method, Metrics, local_rows
from pretrain.models import Encoder, Queue
from pretrain.settings import Settings

# The method's own key views count from 0; the branch's shuffle must differ from theirs.
KEY_VIEW = 15

SAMPLE = 1024
"""Rows of the queue that the statistics look at: always the same places of the ring."""


class HCLSettings(Settings):
    """Settings of the branch; the defaults are those of the official recipe.

    Attributes:
        weight: λ of ``L_euc + λ L_hyp``; 0 leaves out the branch and its forwards.
        curvature: c > 0 of the ball of radius 1/√c; where it is learned, its start.
        learn_curvature: make c a parameter.
        curvature_bounds: what a learned c may be. Below 1e-3 the ball is flat to a percent or so
            for features of norm 5, so that c no longer changes anything; above 10 features of
            norm 1.2 already stand at the rim.
        curvature_step: largest change of log c in a step; 0.01 is a percent of c.
        temperature: divides the distance.
        queue: number of negatives K.
        queue_start: ``random`` ball points, or ``empty``.
        query: which crop asks and takes the gradient; the other answers and is queued.
        riemannian_gradient: scale the gradient at the ball point by (1 - c|x|²)²/4.
        clip_radius: limit on the raw norm before the exponential map; None: no limit.
        loss_path: which implementation of the loss, see ``pretrain.losses``. Where c is learned,
            ``plain`` or any other but ``triton``: see ``pretrain.losses.tangent``.
        statistics: log where scenes and objects lie in the ball and how hard the negatives are.
    """

    weight: float = 0.1
    curvature: float = 0.05
    learn_curvature: bool = False
    curvature_bounds: tuple[float, float] = Field((1e-3, 10.0), validate_default=True)
    curvature_step: float = 0.01
    temperature: float = 0.2
    queue: int = 65536
    queue_start: Literal["random", "empty"] = "random"
    query: Literal["scene", "object"] = "scene"
    riemannian_gradient: bool = True
    clip_radius: float | None = None
    loss_path: LossPath = "auto"
    statistics: bool = True

    @field_validator("curvature", "curvature_step")
    @classmethod
    def _positive(cls, value: float) -> float:
        if not 0 < value < math.inf:
            raise ValueError("must be positive and finite")
        return value

    @field_validator("curvature_bounds")
    @classmethod
    def _around_the_start(
        cls, value: tuple[float, float], info: ValidationInfo
    ) -> tuple[float, float]:
        low, high = value
        if not 0 < low < high < math.inf:
            raise ValueError("must be two finite numbers, 0 < lowest < highest")
        start = info.data.get("curvature")
        if info.data.get("learn_curvature") and start is not None and not low <= start <= high:
            raise ValueError(f"must hold the start, hcl.curvature = {start}")
        return value

    @field_validator("loss_path")
    @classmethod
    def _gives_gradient(cls, value: LossPath, info: ValidationInfo) -> LossPath:
        if value == "triton" and info.data.get("learn_curvature"):
            raise ValueError("gives no gradient to hcl.curvature, which is learned; use auto")
        return value


class HCL(Method):
    """A method with the branch added.

    The queue holds ball points if c is fixed. If c is learned it holds the tangent vectors at
    the origin that the key encoder gave, and they are mapped with the c of the step that uses
    them. So they are inside the ball whatever c has become (one that grows shrinks the ball, and
    stored points would be left outside), and each is the point that its features have today: its
    distance to the origin, 2|u|, is kept, and it was mapped by the same function as the query.
    Points stored as shares of the radius would stay inside too, but drift away from fresh keys
    of the same features.
    """

    def __init__(self, base: KeyedMethod, settings: HCLSettings, context: Context) -> None:
        super().__init__()
        self.base, self.settings = base, settings
        c = torch.tensor(settings.curvature, dtype=torch.float64)
        self.log_curvature = nn.Parameter(c.log()) if settings.learn_curvature else None
        # Unit tangent vectors land at tanh(√c)/√c: valid points, whatever the curvature.
        length = 1.0 if settings.learn_curvature else float(torch.tanh(c.sqrt()) / c.sqrt())
        self.queue = Queue(
            settings.queue,
            context.encoder.dim,
            start=settings.queue_start,
            length=length,
            generator=torch.Generator().manual_seed(context.seed + 1),
        )
        self._fresh: Tensor | None = None
        self._seen: tuple[Tensor, Tensor] | None = None
        self._before: Tensor | None = None

    @property
    def curvature(self) -> float:
        """c, as it is now; where it is learned, this waits for the device."""
        c = self._c()
        return c.item() if isinstance(c, Tensor) else c

    def _c(self) -> Curvature:
        """c; a tensor that leads gradients to the parameter where it is learned."""
        return self.settings.curvature if self.log_curvature is None else self.log_curvature.exp()

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

    def undecayed(self) -> list[nn.Parameter]:
        """The method's own, and log c."""
        own = [] if self.log_curvature is None else [self.log_curvature]
        return [*self.base.undecayed(), *own]

    def begin_step(self, step: int, total_steps: int) -> None:
        """The method's own."""
        self.base.begin_step(step, total_steps)

    def end_step(self) -> None:
        """The method's own; keep c within its bounds, and enqueue the answering crops."""
        self.base.end_step()
        if self.log_curvature is not None and self._before is not None:
            low, high = self.settings.curvature_bounds
            step = self.settings.curvature_step
            with torch.no_grad():
                self.log_curvature.clamp_(self._before - step, self._before + step)
                self.log_curvature.clamp_(math.log(low), math.log(high))
        if self._fresh is not None:
            self.queue.enqueue(self._fresh)
            self._fresh = None

    def forward(self, views: Mapping[str, Tensor]) -> tuple[Losses, Metrics]:
        """The method's losses and λ times the hyperbolic InfoNCE."""
        losses, metrics = self.base(views)
        asking, answering = self._roles()
        raw = as_float(self.base.encode_query(views[asking]))
        with torch.no_grad():
            raw_keys = as_float(self.base.encode_key(views[answering], view=KEY_VIEW))
        rank, _ = distributed.rank_and_size()
        if self.log_curvature is None:
            loss, query, keys = self._fixed(raw, raw_keys, rank)
        else:
            loss, query, keys = self._learned(raw, raw_keys, rank)
        self._fresh = raw_keys if self.settings.learn_curvature else keys
        with torch.no_grad():
            c = self._c()
            self._seen = (query.detach(), local_rows(keys, len(query), rank))
            norms = {
                name: poincare.distance_to_origin(points, c).mean()
                for name, points in zip((asking, answering), self._seen, strict=True)
            }
            metrics = {
                **metrics,
                "norm/scene": norms["scene"],
                "norm/object": norms["object"],
                "curvature": query.new_ones(()) * c,
            }
        return {**losses, "hyperbolic": self.settings.weight * loss}, metrics

    @torch.no_grad()
    def statistics(self) -> Metrics:
        """Of the last forward, before the optimiser's step: see ``pretrain.losses.stats``.

        ``ball/scene/...`` and ``ball/object/...`` say where this rank's points lie,
        ``hyperbolic/...`` how its queries' logits are spread, over the first rows of the queue
        only: N x K logits are never held.
        """
        metrics = self.base.statistics()
        if self._seen is None or not self.settings.statistics:
            return metrics
        c = self._c()
        for name, points in zip(self._roles(), self._seen, strict=True):
            stats = ball_stats(points, c)
            metrics.update({f"ball/{name}/{key}": value for key, value in stats.items()})
        query, key = self._seen
        looked_at = self.queue.keys()[:SAMPLE]
        negatives = looked_at if self.log_curvature is None else self.to_ball(looked_at)
        stats = logit_stats(
            query, key, negatives, temperature=self.settings.temperature, c=c, sample=SAMPLE
        )
        # That saw SAMPLE rows at most: scale to the whole queue.
        share = len(self.queue.keys()) / max(len(looked_at), 1)
        stats["negatives/effective"] = stats["negatives/effective"] * share
        metrics.update({f"hyperbolic/{key}": value for key, value in stats.items()})
        return metrics

    def _roles(self) -> tuple[str, str]:
        """Which crop asks, and which answers."""
        return ("scene", "object") if self.settings.query == "scene" else ("object", "scene")

    def _fixed(self, raw: Tensor, raw_keys: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, query points (B, D) and keys (world * B, D) in a ball of fixed curvature."""
        settings = self.settings
        query, keys = self.to_ball(raw), self.to_ball(raw_keys)
        loss = hyperbolic_info_nce(
            query,
            local_rows(keys, len(query), rank),
            self.queue.keys(),
            c=settings.curvature,
            temperature=settings.temperature,
            path=settings.loss_path,
        )
        return loss, query, keys

    def _learned(self, raw: Tensor, raw_keys: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
        """The same, with gradient to the curvature."""
        assert self.log_curvature is not None
        self._before = self.log_curvature.detach().clone()
        settings, c = self.settings, self.log_curvature.exp()
        query = moving_point(
            raw, c, clip=settings.clip_radius, riemannian=settings.riemannian_gradient
        )
        loss = hyperbolic_info_nce_of_tangents(
            query,
            local_rows(raw_keys, len(query), rank),
            self.queue.keys(),
            c=c,
            temperature=settings.temperature,
            clip=settings.clip_radius,
            path=settings.loss_path,
        )
        return loss, query, self.to_ball(raw_keys)

    def to_ball(self, raw: Tensor) -> Tensor:
        """Raw projections (B, D) to ball points, in float32."""
        c = self._c()
        settings = self.settings
        return poincare.to_ball(
            raw,
            c.detach() if isinstance(c, Tensor) else c,
            clip=settings.clip_radius,
            riemannian=settings.riemannian_gradient,
        )
