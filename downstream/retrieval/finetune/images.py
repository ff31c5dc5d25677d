"""From image files to training crops and test images, uint8."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from downstream.retrieval.datasets import LabeledImages
from downstream.retrieval.finetune.sampler import Draw
from downstream.retrieval.finetune.settings import AugmentSettings
from pretrain.core.errors import InputError
from pretrain.data import random_streams
from pretrain.data.decode import ImageError, decode, read_image

RATIO = (3 / 4, 4 / 3)
TRIES = 10


def read(images: LabeledImages, row: int) -> Tensor:
    """One image, or one object cut out of its image, uint8 (3, H, W); any color mode as RGB.

    Raises:
        InputError: it cannot be read.
    """
    path = images.root / images.paths[row]
    try:
        if images.boxes is None or images.sizes is None:
            return decode(path.read_bytes())
        width, height = images.sizes[row].tolist()
        x1, y1, x2, y2 = images.boxes[row].tolist()
        return read_image(path, (width, height))[:, y1:y2, x1:x2]
    except ImageError as error:
        raise InputError(f"{path}: {error}; replace the file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); replace the file") from None


def resized(image: Tensor, height: int, width: int) -> Tensor:
    """Bicubic with antialiasing, as both papers' codes through Pillow."""
    made: Tensor = F.resize(
        image, [height, width], interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    return made


class TrainImages(Dataset[Tensor | InputError]):
    """Random crops, uint8 (3, size, size); what is drawn depends on seed, epoch, row and slot.

    A file that cannot be read is handed over as the error, which a worker could not raise legibly.
    """

    def __init__(
        self, images: LabeledImages, settings: AugmentSettings, *, size: int, seed: int
    ) -> None:
        self.images, self.settings, self.size, self.seed = images, settings, size, seed

    def __getitem__(self, draw: Draw) -> Tensor | InputError:
        try:
            image = read(self.images, draw.row)
        except InputError as error:
            return error
        rng = random_streams.generator(self.seed, draw.epoch, draw.row, 1 + draw.slot)
        left, top, width, height = random_part(
            rng, image.shape[2], image.shape[1], self.settings.min_scale
        )
        crop = resized(image[:, top : top + height, left : left + width], self.size, self.size)
        return crop.flip(2) if rng.random() < self.settings.flip else crop


class CenteredImages(Dataset[Tensor | InputError]):
    """Central squares, uint8 (3, size, size), of images resized to a shorter side."""

    def __init__(self, images: LabeledImages, *, size: int, resize: int) -> None:
        self.images, self.size, self.resize = images, size, resize

    def __getitem__(self, row: int) -> Tensor | InputError:
        try:
            image = read(self.images, row)
        except InputError as error:
            return error
        height, width = image.shape[1:]
        # torchvision's rule: the longer side is cut off to a whole pixel.
        if height <= width:
            image = resized(image, self.resize, int(self.resize * width / height))
        else:
            image = resized(image, int(self.resize * height / width), self.resize)
        cut: Tensor = F.center_crop(image, [self.size, self.size])
        return cut


def random_part(
    rng: np.random.Generator, width: int, height: int, min_scale: float
) -> tuple[int, int, int, int]:
    """Left, top, width and height of a part of ``min_scale`` to 1 of the area, sides 3:4 to 4:3.

    As torchvision's RandomResizedCrop: ten tries, then the largest central part of such a ratio.
    """
    for _ in range(TRIES):
        area = width * height * rng.uniform(min_scale, 1)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(0, width - w + 1))
            return left, int(rng.integers(0, height - h + 1)), w, h
    ratio = min(max(width / height, RATIO[0]), RATIO[1])
    w = min(width, max(1, round(height * ratio)))
    h = min(height, max(1, round(width / ratio)))
    return (width - w) // 2, (height - h) // 2, w, h


def stack(items: list[Tensor | InputError]) -> Tensor | InputError:
    """A batch, or the first of its errors."""
    tensors = []
    for item in items:
        if isinstance(item, InputError):
            return item
        tensors.append(item)
    return torch.stack(tensors)


def sound(batch: Tensor | InputError) -> Tensor:
    """The batch.

    Raises:
        InputError: an image of it could not be read.
    """
    if isinstance(batch, InputError):
        raise batch
    return batch
