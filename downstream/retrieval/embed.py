"""From crops to embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from downstream.retrieval.objects import Objects, cut_all
from pretrain.geometry import poincare
from pretrain.pretrained import Pretrained


@dataclass(frozen=True)
class Embeddings:
    """What the encoder makes of the objects, on the CPU.

    Attributes:
        backbone: float32 (N, F), features of the objects.
        head: float32 (N, D), projections of the objects.
        scenes: float32 (M, D), projections of whole images with several objects.
    """

    backbone: Tensor
    head: Tensor
    scenes: Tensor


@torch.inference_mode()
def embed(
    pretrained: Pretrained,
    objects: Objects,
    *,
    size: int,
    context: float,
    batch: int,
    device: torch.device,
) -> Embeddings:
    """Embed all objects, and the scenes they stand in.

    Args:
        pretrained: the encoder, and the mean and standard deviation it expects.
        objects: N objects.
        size: side of the crops, px.
        context: share of its extent by which a box grows on every side.
        batch: crops in one forward.
        device: where the encoder runs.

    Raises:
        InputError: an image cannot be read.
    """
    encoder = pretrained.encoder.to(device).eval()
    mean = torch.tensor(pretrained.description.mean, device=device).view(3, 1, 1)
    std = torch.tensor(pretrained.description.std, device=device).view(3, 1, 1)
    features, projections, is_scene = [], [], []
    # Full precision and fixed algorithms: the same numbers every time on the same machine.
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        for views in _batches(cut_all(objects, size, context), batch):
            images = torch.stack([view for view, _ in views]).to(device)
            feature = encoder.backbone((images.float() / 255 - mean) / std)
            features.append(feature.float().cpu())
            projections.append(encoder.head(feature).float().cpu())
            is_scene += [scene for _, scene in views]
    scene = torch.tensor(is_scene)
    head = torch.cat(projections)
    return Embeddings(torch.cat(features)[~scene], head[~scene], head[scene])


def to_ball(head: Tensor, c: float, clip_radius: float | None) -> Tensor:
    """Projections (N, D) to points of the ball as in pretraining, but in float64."""
    return poincare.to_ball(head.double(), c, clip=clip_radius)


def _batches(
    views: Iterable[tuple[Tensor, bool]], size: int
) -> Iterator[list[tuple[Tensor, bool]]]:
    rest = iter(views)
    while batch := list(islice(rest, size)):
        yield batch
