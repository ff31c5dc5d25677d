"""From labeled regions to features of the backbone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pretrain.data.decode import ImageError, read_image
from pretrain.data.views import Window, resize, scaled, whole_pixels
from pretrain.models.evaluation import evaluating
from pretrain.probes.items import Items

log = logging.getLogger(__name__)

LOT = 64
"""Images decoded before their crops are used: what waits in memory is no more than that."""


@dataclass(frozen=True)
class Forward:
    """How images reach the backbone: as the run's views do.

    Attributes:
        size: side of a crop, px.
        mean: of the normalization.
        std: of the normalization.
        device: where the backbone is.
        memory_format: of its input.
        autocast: a fresh context with the precision of the run.
        batch: crops at a time.
        threads: that decode; 0: the caller's own.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    memory_format: torch.memory_format
    autocast: Callable[[], AbstractContextManager[Any]]
    batch: int = 256
    threads: int = 0


@torch.no_grad()
def encode(
    backbone: nn.Module,
    items: Items,
    how: Forward,
    *,
    unit: bool = True,
    store: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """Features float32 (N, F) of the items, and bool (N,): the image could be read.

    The backbone is as before afterwards: its batch norm is in evaluation meanwhile, and no
    random number is drawn.

    Args:
        backbone: images (n, 3, H, W) to features (n, ``num_features``).
        items: regions of images.
        how: the way from an image to the backbone.
        unit: scale every row to length 1.
        store: where the features of all items are kept; None: ``how.device``.
    """
    store = how.device if store is None else store
    mean = torch.tensor(how.mean, device=how.device).view(3, 1, 1)
    std = torch.tensor(how.std, device=how.device).view(3, 1, 1)
    width: int = backbone.num_features  # type: ignore[assignment]
    features = torch.zeros(len(items), width, device=store)
    readable = torch.zeros(len(items), dtype=torch.bool, device=store)
    crops = _crops(items, how)
    with evaluating(backbone):
        while batch := list(islice(crops, how.batch)):
            places = torch.tensor([place for place, _ in batch], device=store)
            images = torch.stack([crop for _, crop in batch]).to(how.device)
            images = ((images.float() / 255 - mean) / std).to(memory_format=how.memory_format)
            with how.autocast():
                found = backbone(images)
            found = F.normalize(found.float(), dim=1) if unit else found.float()
            features[places] = found.to(store)
            readable[places] = True
    return features, readable


def _crops(items: Items, how: Forward) -> Iterator[tuple[int, Tensor]]:
    """Places and crops of all items whose image can be read; every image is decoded once."""
    first = np.flatnonzero(np.diff(items.rows, prepend=-1))
    images = iter(np.split(np.arange(len(items)), first[1:]) if len(items) else [])

    def cut(places: NDArray[np.int64]) -> list[Tensor] | ImageError:
        try:
            return cut_image(items, places, how.size)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(max(1, how.threads)) as pool:
        while lot := list(islice(images, LOT)):
            found = pool.map(cut, lot) if how.threads else map(cut, lot)
            for places, crops in zip(lot, found, strict=True):
                if isinstance(crops, ImageError):
                    path = items.index.path(int(items.rows[places[0]]))
                    log.warning("the probe leaves %s out: %s", path, crops)
                else:
                    yield from zip(places.tolist(), crops, strict=True)


def cut_image(items: Items, places: NDArray[np.int64], size: int) -> list[Tensor]:
    """The crops of items of one image, each uint8 (3, size, size).

    Raises:
        ImageError: the image cannot be read.
    """
    row = int(items.rows[places[0]])
    size_of_row = items.index.size(row)
    if items.pack is not None:
        image = items.pack.image(row)
    else:
        image = read_image(items.index.path(row), size_of_row)
    there = (image.shape[2], image.shape[1])
    crops = []
    for x1, y1, x2, y2 in whole_pixels(items.boxes[places], size_of_row).tolist():
        window: Window = (x1, y1, x2, y2)
        crops.append(resize(image, scaled(window, size_of_row, there), size))
    return crops
