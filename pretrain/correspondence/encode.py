"""From image files to features."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pretrain.core.errors import InputError
from pretrain.data.decode import ImageError, read_image
from pretrain.data.index import Index
from pretrain.data.views import blank_views, resize, whole_pixels
from pretrain.mixed_precision import Precision, autocast
from pretrain.pretrained import PretrainedEncoder

Part = Literal["backbone", "head"]
Cut = Callable[[Tensor, int], Tensor]
"""The views of a decoded image uint8 (3, H, W) of a row: uint8 (n, 3, S, S)."""

RESIZE = 256 / 224
"""The image's shorter side before the center is cut out, in sides of a view."""


class FeatureEncoder:
    """A pretrained encoder in evaluation mode, fed with full batches.

    Args:
        pretrained: the encoder, with the mean and standard deviation it expects.
        device: where it runs.
        precision: of its forwards; features are float32 whatever this is.
        batch_size: views in one forward.
    """

    def __init__(
        self,
        pretrained: PretrainedEncoder,
        device: torch.device,
        precision: Precision,
        batch_size: int,
    ) -> None:
        self.size = pretrained.description.size
        self.width = int(pretrained.backbone.num_features)  # type: ignore[arg-type]
        self.dim = pretrained.description.encoder.dim
        self._encoder = pretrained.encoder.to(device).eval()
        self._mean = torch.tensor(pretrained.description.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(pretrained.description.std, device=device).view(3, 1, 1)
        self._device = device
        self._precision = precision
        self._batch_size = batch_size

    @torch.inference_mode()
    def features(self, views: Iterable[Tensor], part: Part) -> NDArray[np.float32]:
        """Features of norm 1.

        Args:
            views: uint8 (n, 3, S, S), of any n.
            part: ``backbone``: its pooled features; ``head``: their projection.

        Returns:
            float32 (N, D).

        Raises:
            InputError: a feature is not finite.
        """
        width = self.width if part == "backbone" else self.dim
        found = [torch.empty(0, width)]
        # Fixed algorithms: the same numbers every time on the same machine.
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            for batch in _batches(views, self._batch_size):
                images = (batch.to(self._device).float() / 255 - self._mean) / self._std
                with autocast(self._precision, self._device):
                    output = self._encoder.backbone(images)
                    if part == "head":
                        output = self._encoder.head(output)
                found.append(F.normalize(output.float(), dim=1).cpu())
        features: NDArray[np.float32] = torch.cat(found).numpy()
        if not np.isfinite(features).all():
            raise InputError(
                "the encoder's features are not finite; try --precision fp32 or bf16, or an "
                "earlier checkpoint of the run"
            )
        return features


def read_views(
    index: Index, rows: range, cut: Cut, workers: int, bad: dict[int, str]
) -> Iterator[Tensor]:
    """The views of each row, in order; each image is decoded once, by one of several threads.

    Args:
        index: of the images.
        rows: to read.
        cut: the views of a decoded image; of a blank one where the file cannot be read.
        workers: threads.
        bad: gets the rows that cannot be read, with the reason.
    """

    def read(row: int) -> Tensor:
        try:
            image = read_image(index.path(row), index.size(row))
        except ImageError as error:
            bad[row] = str(error)
            width, height = index.size(row)
            image = torch.zeros(3, height, width, dtype=torch.uint8)
        return cut(image, row)

    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[Tensor]] = deque()
        for row in rows:
            ahead.append(pool.submit(read, row))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def center_view(image: Tensor, size: int) -> Tensor:
    """The center of the resized image, as ImageNet models are evaluated: uint8 (1, 3, S, S).

    The shorter side is resized to 256/224 of the view's side, so to 256 px for views of 224 px
    (bilinear, antialiased); then the center is cut out.

    Args:
        image: uint8 (3, H, W).
        size: side of the view, px.
    """
    height, width = image.shape[1:]
    short = round(size * RESIZE)
    new = (
        (short, int(short * width / height))
        if height <= width
        else (
            int(short * height / width),
            short,
        )
    )
    part = image[None].contiguous(memory_format=torch.channels_last)
    resized = F.interpolate(part, new, mode="bilinear", antialias=True)
    top, left = round((new[0] - size) / 2), round((new[1] - size) / 2)
    return resized[:, :, top : top + size, left : left + size]


def region_views(image: Tensor, boxes: NDArray[np.float32], size: int) -> Tensor:
    """Each box, in whole pixels, resized to a view: uint8 (n, 3, S, S).

    Args:
        image: uint8 (3, H, W).
        boxes: float32 (n, 4), x1 y1 x2 y2 in px.
        size: side of a view, px.
    """
    views = blank_views(len(boxes), size)
    windows = whole_pixels(boxes, (image.shape[2], image.shape[1])).tolist()
    for view, (x1, y1, x2, y2) in zip(views, windows, strict=True):
        resize(image, (x1, y1, x2, y2), size, out=view)
    return views


def _batches(views: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Put together and cut up anew, so that every batch but the last is full."""
    waiting: list[Tensor] = []
    count = 0
    for some in views:
        waiting.append(some)
        count += len(some)
        if count >= size:
            together = torch.cat(waiting)
            for start in range(0, count - size + 1, size):
                yield together[start : start + size]
            waiting = [together[count - count % size :]]
            count %= size
    if count:
        yield torch.cat(waiting)
