"""From picture files to sprites: posed, tinted, and with edges of several kinds."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pretrain.core.errors import InputError
from pretrain.datasets.scenes.drawing import Sprite, tight

CUTOUT_SIDE = 512
"""Longest side of a cut-out that is kept in memory, px."""
PHOTO_SIDE = 1024
"""Shortest side of a background that is kept in memory, px."""
MAX_ENLARGEMENT = 1.6
EDGES = {"as it is": 0.35, "crisp": 0.2, "feathered": 0.25, "blurred": 0.2}
"""Kinds of edges, and how often."""


@functools.cache
def load_cutout(path: Path) -> Image.Image:
    """A cut-out as red, green, blue and alpha, the colors multiplied with alpha.

    So no color of transparent pixels comes in when it is resized and turned.
    """
    with _opened(path) as image:
        cutout = image.convert("RGBA").convert("RGBa")
    cutout = cutout.crop(cutout.getchannel("a").getbbox())
    factor = CUTOUT_SIDE / max(cutout.size)
    return cutout if factor >= 1 else _scaled(cutout, factor)


@functools.cache
def load_photo(path: Path) -> Image.Image:
    """A background as red, green and blue."""
    with _opened(path) as image:
        factor = PHOTO_SIDE / min(image.size)
        if factor < 1:
            # JPEG files are decoded at the next size above at a fraction of the cost.
            image.draft("RGB", (round(image.width * factor), round(image.height * factor)))
        photo = image.convert("RGB")
    factor = PHOTO_SIDE / min(photo.size)
    return photo if factor >= 1 else _scaled(photo, factor)


def posed(cutout: Image.Image, transform: NDArray[np.float64], pixels: int) -> Sprite:
    """A cut-out under a (2, 2) map, its longest side ``pixels``, or less if it is too small."""
    corners = np.array([[x, y] for x in (0, cutout.width) for y in (0, cutout.height)], float)
    moved = corners @ transform.T
    extent = moved.max(axis=0) - moved.min(axis=0)
    factor = min(pixels / extent.max(), MAX_ENLARGEMENT)
    scaled = _scaled(cutout, factor)  # antialiased, which an affine map is not
    width, height = (max(3, math.ceil(side * factor)) for side in extent)
    # Bilinear, for what overshoots would leave a bright rim that marks everything pasted.
    # Pillow maps places of the result to places of the source; both centers stay.
    a, b, c, d = np.linalg.inv(transform).ravel()
    x, y = width / 2, height / 2
    data = (
        a, b, scaled.width / 2 - a * x - b * y,
        c, d, scaled.height / 2 - c * x - d * y,
    )  # fmt: skip
    turned = scaled.transform(
        (width, height), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR
    )
    return tight(_straight(np.asarray(turned, np.float32) / 255))


def tinted(image: NDArray[np.floating[Any]], rng: np.random.Generator) -> NDArray[np.float32]:
    """The image (h, w, 3) with other brightness, contrast and color temperature."""
    gain = rng.uniform(0.7, 1.1) * np.exp(rng.normal(0, 0.06, 3))
    gamma = math.exp(rng.normal(0, 0.15))
    result: NDArray[np.float32] = np.clip(image**gamma * gain, 0, 1).astype(np.float32)
    return result


def edged(sprite: Sprite, rng: np.random.Generator) -> Sprite:
    """The sprite with an edge of a random kind.

    crisp: alpha made steep. feathered: it fades inwards over some pixels. blurred: alpha and
    colors together out of focus.
    """
    kind = pick(EDGES, rng)
    strength = rng.uniform()
    small = max(sprite.shape[:2]) < 12
    if kind == "as it is" or small:
        return sprite
    if kind == "crisp":
        alpha = np.clip((sprite[..., 3:] - 0.5) * 4 + 0.5, 0, 1)
        return np.concatenate([sprite[..., :3], alpha], axis=2)
    radius = 0.5 + strength * 0.015 * max(sprite.shape[:2])
    pad = math.ceil(2 * radius) + 1
    wide = np.pad(sprite, ((pad, pad), (pad, pad), (0, 0)))
    if kind == "feathered":
        soft = _blurred(wide[..., 3], radius)
        wide[..., 3] = np.minimum(wide[..., 3], np.clip(2 * soft - 1, 0, 1))
        inner = wide[pad:-pad, pad:-pad]
        # What is all edge would fade away.
        return inner if (inner[..., 3] >= 0.5).any() else sprite
    wide[..., :3] *= wide[..., 3:]
    channels = [_blurred(wide[..., channel], radius) for channel in range(4)]
    return tight(_straight(np.stack(channels, axis=2)))


def pick(choices: Mapping[str, float], rng: np.random.Generator) -> str:
    """One of the choices, by their shares."""
    return list(choices)[int(rng.choice(len(choices), p=list(choices.values())))]


def _straight(premultiplied: NDArray[Any]) -> Sprite:
    alpha = np.clip(premultiplied[..., 3:], 0, 1)
    colors = np.clip(premultiplied[..., :3] / np.maximum(alpha, 1 / 512), 0, 1)
    return np.concatenate([colors, alpha], axis=2).astype(np.float32)


def _blurred(field: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    image = Image.fromarray((field * 255).astype(np.uint8))
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32)
    return soft * np.float32(1 / 255)


def _scaled(image: Image.Image, factor: float) -> Image.Image:
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); unpack its package again") from None
