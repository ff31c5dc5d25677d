"""MoCo-v2 (arXiv 1911.05722, 2003.04297), on object crops or on whole images.

Two forms. ``symmetric: false`` is the official one: view 1 asks, view 2 answers, one queue.
``symmetric: true`` is that of the HCL code: both directions, a queue each.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain import distributed
from pretrain.data.plan import Region
from pretrain.errors import InputError
from pretrain.geometry.precision import as_float
from pretrain.losses import info_nce
from pretrain.losses.paths import Path as LossPath
from pretrain.methods import shuffle
from pretrain.methods.base import (
    Context,
    Losses,
    MethodSettings,
    Metrics,
    TwoViewMethod,
    local_rows,
    register,
)
from pretrain.methods.shuffle import Encode
from pretrain.models import Encoder, Queue, group_batch_norm, momentum_copy, update_momentum


class MocoSettings(MethodSettings):
    """Settings of MoCo-v2; the defaults are the paper's.

    Attributes:
        temperature: divides the cosine.
        momentum: of the key encoder.
        queue: number of negatives K, per direction.
        queue_start: ``random`` as the official code, or ``empty``.
        symmetric: both directions, each with its own queue.
        norm_group: samples that share batch-norm statistics, in queries and in shuffled keys;
            the official recipe has 32 a GPU. None: the whole batch, without shuffling, which
            lets batch norm leak.
        crops: what the two views are cut from.
        loss_path: which implementation of the loss, see ``pretrain.losses``.
    """

    temperature: float = 0.2
    momentum: float = 0.999
    queue: int = 65536
    queue_start: Literal["random", "empty"] = "random"
    symmetric: bool = True
    norm_group: int | None = 32
    crops: Region = "object_context"
    loss_path: LossPath = "auto"


@register("moco")
class Moco(TwoViewMethod):
    """Momentum contrast."""

    settings_class = MocoSettings

    def __init__(self, settings: MocoSettings, context: Context) -> None:
        super().__init__()
        self.settings, self.context, self.region = settings, context, settings.crops
        self.encoder_q = self.build_encoder()
        if settings.norm_group is not None:
            _check_group(settings.norm_group, context)
            group_batch_norm(self.encoder_q, settings.norm_group)
        self.encoder_k = momentum_copy(self.encoder_q)
        generator = torch.Generator().manual_seed(context.seed)
        kwargs: dict[str, Any] = {"start": settings.queue_start, "generator": generator}
        dim = context.encoder.dim
        self.queue_2 = Queue(settings.queue, dim, **kwargs)
        self.queue_1 = Queue(settings.queue, dim, **kwargs) if settings.symmetric else None
        self._step = 0
        self._fresh: list[tuple[Queue, Tensor]] = []

    def build_encoder(self) -> Encoder:
        """The network, with its random initialisation."""
        return Encoder(self.context.encoder)

    def begin_step(self, step: int, total_steps: int) -> None:
        """Momentum update; equal to the official one between query and key forwards."""
        self._step = step
        update_momentum(self.encoder_k, self.encoder_q, self.settings.momentum)

    def end_step(self) -> None:
        """Enqueue: after backward, because the loss keeps the queue, not a copy of it."""
        for queue, keys in self._fresh:
            queue.enqueue(keys)
        self._fresh.clear()

    def forward(self, views: Mapping[str, Tensor]) -> tuple[Losses, Metrics]:
        """InfoNCE of each view's query against the other view's key and a queue."""
        queries = {"view_1": F.normalize(self.encode_query(views["view_1"]), dim=1)}
        pairs = [("view_1", "view_2", self.queue_2)]
        if self.queue_1 is not None:
            queries["view_2"] = F.normalize(self.encode_query(views["view_2"]), dim=1)
            pairs.append(("view_2", "view_1", self.queue_1))
        losses = []
        rank, _ = distributed.rank_and_size()
        for index, (asking, answering, queue) in enumerate(pairs):
            keys = F.normalize(self.encode_key(views[answering], view=index), dim=1)
            key = local_rows(keys, len(views[answering]), rank)
            losses.append(
                info_nce(
                    queries[asking],
                    key,
                    queue.keys(),
                    temperature=self.settings.temperature,
                    path=self.settings.loss_path,
                )
            )
            self._fresh.append((queue, keys))
        loss = torch.stack(losses).mean()
        with torch.no_grad():
            agreement = (queries[asking] * key).sum(1).mean()
        return {"euclidean": loss}, {"agreement": agreement}

    def encode_query(self, images: Tensor) -> Tensor:
        """Raw projections of the query encoder."""
        return as_float(self.encoder_q(images))

    @torch.no_grad()
    def encode_key(self, images: Tensor, view: int) -> Tensor:
        """Raw keys of the global batch, encoded in shuffled groups."""
        (keys,) = self.encode_keys(lambda some: (self.encoder_k(some),), images, view)
        return keys

    def encode_keys(self, encode: Encode, images: Tensor, view: int) -> tuple[Tensor, ...]:
        """What ``encode`` gives for the global batch, in its order, float32.

        Args:
            encode: the key encoder or more of it: images to tensors of as many rows.
            images: this rank's views.
            view: which of the step's key views this is.
        """
        if self.settings.norm_group is None:
            return shuffle.encode(encode, images, None)
        return shuffle.encode(encode, images, partial(self._permutation, view))

    def _permutation(self, view: int, count: int) -> Tensor:
        """A pure function of (seed, step, view): the same on every rank and after a resume."""
        generator = torch.Generator()
        generator.manual_seed((self.context.seed * 1_000_003 + self._step) * 16 + view)
        return torch.randperm(count, generator=generator)


def _check_group(group: int, context: Context) -> None:
    if group < 2 or context.local_batch % group:
        raise InputError(
            f"method.norm_group: {group} must be at least 2 and divide the batch of one process, "
            f"{context.local_batch} (optim.batch_size / processes)"
        )
    if group == context.batch_size:
        raise InputError(
            f"method.norm_group: one group of {group} holds the whole batch, so shuffling does "
            f"nothing and batch norm leaks; use {group // 2} or less"
        )
