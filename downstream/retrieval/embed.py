"""From crops to embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from downstream.retrieval.objects import Cut, Objects, cut_all
from pretrain.geometry import poincare
from pretrain.pretrained import PretrainedEncoder


@dataclass(frozen=True)
class Embeddings:
    """What the encoder makes of the objects, on the CPU.

    Attributes:
        backbone: float32 (N, F), features of the objects.
        head: float32 (N, D), projections of the objects.
        scenes: float32 (M, D), projections of whole images with several objects.
        quality: float64 (N, 3), what of an object's view may change its norm besides what it
            shows: see :data:`QUALITY`.
        scene_quality: float64 (M, 3), the same of whole images.
    """

    backbone: Tensor
    head: Tensor
    scenes: Tensor
    quality: Tensor
    scene_quality: Tensor


QUALITY = ("size", "contrast", "sharpness")
"""Side of the shown part of the image, px; standard deviation of the view's brightness, in 0..255;
and of its Laplacian, which blur and enlargement lower."""


@torch.inference_mode()
def embed(
    pretrained: PretrainedEncoder,
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
    features, projections, quality, is_scene = [], [], [], []
    # Full precision and fixed algorithms: the same numbers every time on the same machine.
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        for cuts in _batches(cut_all(objects, size, context), batch):
            views = torch.stack([cut.view for cut in cuts])
            images = views.to(device)
            feature = encoder.backbone((images.float() / 255 - mean) / std)
            features.append(feature.float().cpu())
            projections.append(encoder.head(feature).float().cpu())
            sides = torch.tensor([cut.side for cut in cuts], dtype=torch.float64)
            quality.append(torch.cat([sides[:, None], contrast_and_sharpness(views)], dim=1))
            is_scene += [cut.is_scene for cut in cuts]
    scene = torch.tensor(is_scene)
    head, measured = torch.cat(projections), torch.cat(quality)
    return Embeddings(
        torch.cat(features)[~scene], head[~scene], head[scene], measured[~scene], measured[scene]
    )


def contrast_and_sharpness(views: Tensor) -> Tensor:
    """Standard deviations of the brightness and of its Laplacian, float64 (N, 2).

    Args:
        views: uint8 (N, 3, S, S).
    """
    brightness = views.double().mean(dim=1)
    inner = brightness[:, 1:-1, 1:-1]
    laplacian = (
        brightness[:, :-2, 1:-1]
        + brightness[:, 2:, 1:-1]
        + brightness[:, 1:-1, :-2]
        + brightness[:, 1:-1, 2:]
        - 4 * inner
    )
    return torch.stack([brightness.flatten(1).std(dim=1), laplacian.flatten(1).std(dim=1)], dim=1)


def to_ball(head: Tensor, c: float, clip_radius: float | None) -> Tensor:
    """Projections (N, D) to points of the ball as in pretraining, but in float64."""
    return poincare.to_ball(head.double(), c, clip=clip_radius)


def _batches(cuts: Iterable[Cut], size: int) -> Iterator[list[Cut]]:
    rest = iter(cuts)
    while batch := list(islice(rest, size)):
        yield batch
