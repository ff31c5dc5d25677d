"""MoCo-v2 (arXiv 1911.05722, 2003.04297), on object crops or on whole images.

Two forms. ``symmetric: false`` is the official one: view 1 is the query, view 2 the
key, and there is one queue.
``symmetric: true`` is that of the HCL code: both directions, a queue each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from pretrain import distributed
from pretrain.core.errors import InputError
from pretrain.data.plan import Crop, Region, ViewPlan
from pretrain.geometry.precision import as_float
from pretrain.losses import info_nce
from pretrain.losses.paths import Path as LossPath
from pretrain.methods.base import (
    Context,
    KeyedMethod,
    Losses,
    MethodSettings,
    Metrics,
    local_rows,
    register,
)
from pretrain.models import (
    Encoder,
    Queue,
    group_batch_norm,
    momentum_copy,
    synchronize_batch_norm,
    update_momentum,
)

Encode = Callable[[Tensor], tuple[Tensor, ...]]
"""Images (B, 3, S, S) to tensors (B, ...)."""


class MocoSettings(MethodSettings):
    """Settings of MoCo-v2; the defaults are the paper's.

    Attributes:
        temperature: divides the cosine.
        momentum: of the key encoder.
        queue: number of negatives K, per direction.
        queue_start: ``random`` as the official code, or ``empty``.
        symmetric: both directions, each with its own queue.
        batch_norm: what keeps batch norm from giving a key away to its own query.
            ``shuffled``: statistics of groups of samples, and keys permuted over the global
            batch, so images travel between processes; one process with two groups computes what
            two with one group each compute. ``local``: the same groups, but keys permuted within
            each process' batch, so no image travels; the sampler deals rows to processes at
            random, so groups mix all the same. ``synchronized``: statistics of the global batch,
            no permutation. ``plain``: those of each process' batch, no permutation; batch norm
            leaks. Networks without batch norm need none of this and get none.
        norm_group: samples that share statistics in ``shuffled`` and ``local``; the official
            recipe has 32 a GPU.
        crops: what the two views are cut from.
        loss_path: which implementation of the loss, see ``pretrain.losses``.
    """

    temperature: float = 0.2
    momentum: float = 0.999
    queue: int = 65536
    queue_start: Literal["random", "empty"] = "random"
    symmetric: bool = True
    batch_norm: Literal["shuffled", "local", "synchronized", "plain"] = "shuffled"
    norm_group: int = 32
    crops: Region = "object_context"
    loss_path: LossPath = "auto"


@register("moco")
class Moco(KeyedMethod):
    """Momentum contrast."""

    settings_class = MocoSettings

    def __init__(self, settings: MocoSettings, context: Context) -> None:
        super().__init__()
        self.settings, self.context = settings, context
        self.encoder_q = self.build_encoder()
        self._keep_batch_norm_from_leaking()
        self.encoder_k = momentum_copy(self.encoder_q)
        generator = torch.Generator().manual_seed(context.seed)
        kwargs: dict[str, Any] = {"start": settings.queue_start, "generator": generator}
        dim = context.encoder.dim
        self.queue_2 = Queue(settings.queue, dim, **kwargs)
        self.queue_1 = Queue(settings.queue, dim, **kwargs) if settings.symmetric else None
        self._step, self._forwards = 0, 0
        self._fresh: list[tuple[Queue, Tensor]] = []

    @property
    def view_plan(self) -> ViewPlan:
        """Two random crops of the same region."""
        region = self.settings.crops
        crops = (Crop("view_1", region, True), Crop("view_2", region, True))
        return ViewPlan(self.context.size, crops)

    def build_encoder(self) -> Encoder:
        """The network, with its random initialization."""
        return Encoder(self.context.encoder)

    def _keep_batch_norm_from_leaking(self) -> None:
        """Prepare the query encoder for ``settings.batch_norm``; the key encoder is its copy."""
        settings, kind = self.settings, self.settings.batch_norm
        if not any(isinstance(layer, _BatchNorm) for layer in self.encoder_q.modules()):
            kind = "plain"
        self._permuted = kind in ("shuffled", "local")
        if self._permuted:
            _check_group(settings.norm_group, self.context, local=kind == "local")
            group_batch_norm(self.encoder_q, settings.norm_group, self.context.local_batch)
        elif kind == "synchronized":
            synchronize_batch_norm(self.encoder_q)

    def begin_step(self, step: int, total_steps: int) -> None:
        """Momentum update; equal to the official one between query and key forwards."""
        self._step = step
        self.rewind()
        update_momentum(self.encoder_k, self.encoder_q, self.settings.momentum)

    def rewind(self) -> None:
        """Forget the keys and the number of the forwards since ``begin_step``."""
        self._forwards = 0
        self._fresh.clear()

    def end_step(self) -> None:
        """Enqueue: after backward, because the loss keeps the queue, not a copy of it."""
        for queue, keys in self._fresh:
            queue.enqueue(keys)
        self._fresh.clear()

    def forward(self, views: Mapping[str, Tensor]) -> tuple[Losses, Metrics]:
        """InfoNCE of each view's query against the other view's key and a queue."""
        self._forwards += 1
        pairs = [("view_1", "view_2", self.queue_2)]
        if self.queue_1 is not None:
            pairs.append(("view_2", "view_1", self.queue_1))
        queries = self._queries({query_view: views[query_view] for query_view, _, _ in pairs})
        losses = []
        rank, _ = distributed.rank_and_size()
        for index, (query_view, key_view, queue) in enumerate(pairs):
            keys = F.normalize(self.encode_key(views[key_view], view=index), dim=1)
            key = local_rows(keys, len(views[key_view]), rank)
            losses.append(
                info_nce(
                    queries[query_view],
                    key,
                    queue.keys(),
                    temperature=self.settings.temperature,
                    path=self.settings.loss_path,
                )
            )
            self._fresh.append((queue, keys))
        loss = torch.stack(losses).mean()
        with torch.no_grad():
            agreement = (queries[query_view] * key).sum(1).mean()
        return {"euclidean": loss}, {"agreement": agreement}

    def _queries(self, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Directions of the views' queries.

        Where batch norm's statistics are those of groups, one forward of all views computes what
        a forward of each does, with half the work on weights and their gradients.
        """
        if self._permuted:
            raw = self.encode_query(torch.cat(list(views.values()))).chunk(len(views))
        else:
            raw = tuple(self.encode_query(view) for view in views.values())
        return {name: F.normalize(some, dim=1) for name, some in zip(views, raw, strict=True)}

    @torch.no_grad()
    def encode_key(self, images: Tensor, view: int) -> Tensor:
        """Raw keys of the global batch."""
        (keys,) = self.encode_keys(lambda some: (self.encoder_k(some),), images, view)
        return distributed.all_gather(keys)

    @torch.no_grad()
    def encode_keys(self, encode: Encode, images: Tensor, view: int) -> tuple[Tensor, ...]:
        """What ``encode`` gives for this rank's images, in their order, float32 or float64.

        With statistics of groups the images are encoded in another order: a key that shares its
        statistics with its own query can be told by them (MoCo, arXiv 1911.05722, section 3.3).
        Where ``shuffled``, they and the results travel between processes, as in the MoCo code.

        Args:
            encode: the key encoder or more of it: images to tensors of as many rows.
            images: this rank's views.
            view: which of the step's key views this is.
        """
        if not self._permuted:
            return tuple(as_float(part) for part in encode(images))
        travel = self.settings.batch_norm == "shuffled"
        rank, _ = distributed.rank_and_size()
        start = rank * len(images) if travel else 0
        own = slice(start, start + len(images))
        pool = distributed.all_gather(images) if travel else images
        order = self._permutation(view, len(pool)).to(images.device)
        back = order.argsort()[own]
        last = images.is_contiguous(memory_format=torch.channels_last)
        memory_format = torch.channels_last if last else torch.contiguous_format
        shuffled = pool[order[own]].contiguous(memory_format=memory_format)
        parts = (as_float(part) for part in encode(shuffled))
        return tuple((distributed.all_gather(part) if travel else part)[back] for part in parts)

    def _permutation(self, view: int, count: int) -> Tensor:
        """A pure function of (seed, step, forward, view): alike on all ranks and after a resume."""
        # The first forward has the run's own seed.
        seed = self.context.seed + max(self._forwards - 1, 0)
        generator = torch.Generator().manual_seed((seed * 1_000_003 + self._step) * 16 + view)
        return torch.randperm(count, generator=generator)


def _check_group(group: int, context: Context, *, local: bool) -> None:
    if group < 2 or context.local_batch % group:
        raise InputError(
            f"method.norm_group: {group} must be at least 2 and divide the batch of one process, "
            f"{context.local_batch} (optim.batch_size / processes / optim.accumulate)"
        )
    if group == context.batch_size:
        raise InputError(
            f"method.norm_group: one group of {group} holds the whole batch, so shuffling does "
            f"nothing and batch norm leaks; use {group // 2} or less"
        )
    if local and group == context.local_batch:
        raise InputError(
            f"method.norm_group: one group of {group} holds the batch of a process, so "
            f"batch_norm=local permutes nothing; use {group // 2} or less, or batch_norm=shuffled"
        )
