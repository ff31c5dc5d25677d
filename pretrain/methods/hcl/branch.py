"""The HCL branch (Ge et al., arXiv 2212.00653): scene and object in the Poincaré ball.

It joins any method with a momentum encoder: the scene crop is the query, the object crop
inside it the key, past objects are the negatives, and distance replaces the cosine. The projection
head is shared with the method; its raw output is mapped into the ball. What else the settings
allow is for ablations: ``settings.py`` lists it, ``distances.py`` has the distances.

The curvature may be learned. Its parameter is log c: c is positive whatever the optimizer does,
and a step changes c by a factor, so that one learning rate serves 0.05 and 5 alike (the slope of
a softplus would shrink with c). After every step log c is put back between
``HCLSettings.curvature_bounds``, and no farther than ``HCLSettings.curvature_step`` from where it
was: at the rim all distances go like 1/√c, so that the slope of the loss in log c is as large as
the loss, and one plain step of a large rate can cross the whole range. It is
float64, since at usual rates its steps are smaller than float32 can tell apart, and takes no
weight decay, which would pull c toward 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain import distributed
from pretrain.data.plan import Crop, ViewPlan
from pretrain.geometry.precision import as_float, norm
from pretrain.losses.stats import logit_stats
from pretrain.methods.base import Context, KeyedMethod, Losses, Method, Metrics, local_rows
from pretrain.methods.hcl.distances import build_space
from pretrain.methods.hcl.settings import HCLSettings
from pretrain.models import Encoder, Queue
from pretrain.models.evaluation import evaluating

__all__ = ["HCL", "HCLSettings"]

# The method's own key views count from 0; the branch's shuffles must differ from theirs.
KEY_VIEW, SCENE_KEY_VIEW = 15, 14

SAMPLE = 1024
"""Rows of the queue that the statistics look at: always the same places of the ring."""


class HCL(Method):
    """A method with the branch added.

    Attributes:
        base: the method.
        settings: of the branch.
        log_curvature: log c, float64, where c is learned.
        space: the distance, and what a queue holds for it.
        queue: of key crops; None where the negatives are those of the batch.
        scene_queue: of query crops encoded as keys, where they are negatives too.
    """

    def __init__(self, base: KeyedMethod, settings: HCLSettings, context: Context) -> None:
        super().__init__()
        self.base, self.settings = base, settings
        log_c = torch.tensor(settings.curvature, dtype=torch.float64).log()
        self.log_curvature = nn.Parameter(log_c) if settings.learn_curvature else None
        self.space = build_space(settings, self.log_curvature)
        self.queue = self._build_queue(context, 1) if settings.negatives == "queue" else None
        self.scene_queue = self._build_queue(context, 3) if settings.scenes_as_negatives else None
        self._fresh: list[tuple[Queue, Tensor]] = []
        self._seen: tuple[Tensor, Tensor] | None = None
        self._crops: dict[str, Tensor] = {}
        self._before: Tensor | None = None

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any, **named: Any
    ) -> None:
        """Read checkpoints in which ``scene_queue`` has its earlier name, ``asking_queue``."""
        old = f"{prefix}asking_queue."
        for name in [name for name in state_dict if name.startswith(old)]:
            state_dict[f"{prefix}scene_queue.{name.removeprefix(old)}"] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *rest, **named)

    def _build_queue(self, context: Context, stream: int) -> Queue:
        """A queue whose random start is a function of the seed and ``stream``."""
        return Queue(
            self.settings.queue,
            context.encoder.dim,
            start=self.settings.queue_start,
            length=self.space.start,
            generator=torch.Generator().manual_seed(context.seed + stream),
        )

    @property
    def curvature(self) -> float | None:
        """c, as it is now; where it is learned, this waits for the device. None: no ball."""
        c = self.space.curvature()
        return c.item() if isinstance(c, Tensor) else c

    @property
    def view_plan(self) -> ViewPlan:
        """The method's crops, the exact object box and the scene."""
        scene = Crop("scene", "scene" if self.settings.scene == "boxes" else "image", False)
        return self.base.view_plan.extended(Crop("object", "object", False), scene)

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
        self._fresh.clear()
        self.base.begin_step(step, total_steps)

    def rewind(self) -> None:
        """The method's own; forget the keys of the forwards since ``begin_step``."""
        self._fresh.clear()
        self.base.rewind()

    def end_step(self) -> None:
        """The method's own; keep c within its bounds, and enqueue the keys of the step."""
        self.base.end_step()
        if self.log_curvature is not None and self._before is not None:
            low, high = self.settings.curvature_bounds
            step = self.settings.curvature_step
            with torch.no_grad():
                self.log_curvature.clamp_(self._before - step, self._before + step)
                self.log_curvature.clamp_(math.log(low), math.log(high))
        for queue, keys in self._fresh:
            queue.enqueue(keys)
        self._fresh.clear()

    def forward(self, views: Mapping[str, Tensor]) -> tuple[Losses, Metrics]:
        """The method's losses and λ times the branch's InfoNCE.

        That term is called ``hyperbolic`` whatever the distance: ablations share a name.
        """
        losses, metrics = self.base(views)
        crops = ("scene", "object")
        query_crop, key_crop = crops if self.settings.query == "scene" else crops[::-1]
        raw = decoupled(as_float(self.base.encode_query(views[query_crop])), self.settings.decouple)
        query = self.space.point(raw)
        with torch.no_grad():
            raw_keys = as_float(self.base.encode_key(views[key_crop], view=KEY_VIEW))
            keys = self.space.key(raw_keys)
        rank, _ = distributed.rank_and_size()
        if self.queue is None:
            loss = self.space.loss_in_batch(query, keys, rank * len(query))
        else:
            loss = self.space.loss(query, local_rows(keys, len(query), rank), self.negatives())
            self._fresh.append((self.queue, keys))
        if self.scene_queue is not None:
            with torch.no_grad():
                scene_keys = as_float(self.base.encode_key(views[query_crop], view=SCENE_KEY_VIEW))
                self._fresh.append((self.scene_queue, self.space.key(scene_keys)))
        if self.log_curvature is not None:
            self._before = self.log_curvature.detach().clone()
        self._seen = (raw.detach(), raw_keys)
        self._crops = {name: views[name] for name in ("object", "scene")}
        with torch.no_grad():
            if (c := self.space.curvature()) is not None:
                metrics = {**metrics, "curvature": raw.new_ones(()) * c}
        return {**losses, "hyperbolic": self.settings.weight * loss}, metrics

    def negatives(self, most: int | None = None) -> Tensor:
        """Past keys, constant: (K, D), or (2K, D) with the query crops; so many of each queue."""
        keys = [queue.keys()[:most] for queue in self._queues()]
        return keys[0] if len(keys) == 1 else torch.cat(keys)

    def _queues(self) -> list[Queue]:
        return [queue for queue in (self.queue, self.scene_queue) if queue is not None]

    @torch.no_grad()
    def statistics(self) -> Metrics:
        """Of the last forward, before the optimizer's step: see ``pretrain.losses.stats``.

        ``norm/object``, ``norm/scene`` (mean distance to the origin) and ``ball/object/...``,
        ``ball/scene/...`` compare the two crops of this rank's rows. Both are encoded once more
        for that, by the query encoder in evaluation mode: the loss sees each crop through another
        encoder, one of which lags behind, and with batch statistics of its own.

        ``hyperbolic/...`` is what the loss sees: where queries and keys lie
        (``hyperbolic/query/distance`` to the origin, ``hyperbolic/query/projected`` and so on),
        and how the queries' logits are spread, over the first rows of the queue only: N x K
        logits are never held. Of negatives in the batch, all are looked at.
        ``hyperbolic/accuracy_in_batch`` has the keys of this rank's rows in place of the queue's:
        they all come from the same momentum encoder, so that the age of a key does not tell it.
        """
        metrics = self.base.statistics()
        if self._seen is None or not self.settings.statistics:
            return metrics
        metrics.update(self._compare_crops())
        rank, _ = distributed.rank_and_size()
        raw, raw_keys = self._seen
        own_keys = local_rows(raw_keys, len(raw), rank)
        points, positives = self.space.point(raw), self.space.to_points(self.space.key(own_keys))
        for role, some in (("query", raw), ("key", own_keys)):
            metrics[f"hyperbolic/{role}/distance"] = self.space.radii(some).mean()
            where = self.space.position_stats(some)
            metrics.update({f"hyperbolic/{role}/{key}": value for key, value in where.items()})
        space, own = self.space, None
        if self.queue is None:
            looked_at, total, own = space.key(raw_keys), len(raw_keys), rank * len(raw)
        else:
            looked_at = self.negatives(SAMPLE)
            total = sum(len(queue.keys()) for queue in self._queues())
        logits = {"temperature": self.settings.temperature, **self.space.logits()}
        stats = logit_stats(
            points, positives, space.to_points(looked_at), own=own, sample=len(looked_at), **logits
        )
        if self.queue is not None:
            same_age = logit_stats(points, positives, positives, own=0, **logits)
            stats["accuracy_in_batch"] = same_age["accuracy"]
        # That saw SAMPLE rows of a queue at most: scale to all of it.
        share = total / max(len(looked_at), 1)
        stats["negatives/effective"] = stats["negatives/effective"] * share
        metrics.update({f"hyperbolic/{key}": value for key, value in stats.items()})
        return metrics

    def _compare_crops(self) -> Metrics:
        """Where the query encoder in evaluation mode places objects and scenes."""
        metrics: Metrics = {}
        with evaluating(self.base):
            for name, crop in self._crops.items():
                raw = as_float(self.base.encode_query(crop))
                metrics[f"norm/{name}"] = self.space.radii(raw).mean()
                where = self.space.position_stats(raw)
                metrics.update({f"ball/{name}/{key}": value for key, value in where.items()})
        return metrics


def decoupled(raw: Tensor, through: str) -> Tensor:
    """Raw projections (N, D) themselves, with gradient through ``norm`` or ``direction`` alone."""
    if through == "none":
        return raw
    length, direction = norm(raw)[:, None], F.normalize(raw, dim=1)
    return direction.detach() * length if through == "norm" else direction * length.detach()
