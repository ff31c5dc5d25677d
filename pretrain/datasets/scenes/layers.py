"""Layers of a scene: what covers what, and how each is painted with its shadow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pretrain.datasets.scenes.contexts import Category
from pretrain.datasets.scenes.drawing import Sprite
from pretrain.datasets.scenes.scene_source import Background, Light

MIN_VISIBLE = 0.35
"""Share of an object's pixels that must be seen."""
MIN_PIXELS = 40
"""Number of an object's pixels that must be seen."""


@dataclass(frozen=True)
class Layer:
    """A sprite at a place; clutter has no category. Larger ``depth`` is nearer.

    ``foreign``: out of its context. ``standing``: on the ground. ``shadow``: casts one.
    ``name``: which individual it is, where those are given ones.
    """

    sprite: Sprite
    x: int
    y: int
    depth: float
    category: Category | None
    foreign: bool = False
    standing: bool = False
    shadow: bool = False
    name: str | None = None

    def window(self, size: int) -> tuple[slice, slice, slice, slice]:
        """Rows and columns in the image, then in the sprite, of the part inside the image."""
        height, width = self.sprite.shape[:2]
        y0, y1 = max(self.y, 0), min(self.y + height, size)
        x0, x1 = max(self.x, 0), min(self.x + width, size)
        y1, x1 = max(y0, y1), max(x0, x1)
        return (
            slice(y0, y1), slice(x0, x1),
            slice(y0 - self.y, y1 - self.y), slice(x0 - self.x, x1 - self.x),
        )  # fmt: skip


def visible(layers: list[Layer], size: int) -> tuple[list[Layer], list[NDArray[np.bool_]]]:
    """What can be seen of layers sorted back to front.

    Objects of which too little is visible are taken out of the scene. Going from the front to the
    back, all that occludes an object is settled before it is judged.
    """
    covered = np.zeros((size, size), dtype=np.bool_)
    kept: list[Layer] = []
    masks: list[NDArray[np.bool_]] = []
    for layer in reversed(layers):
        solid = layer.sprite[..., 3] >= 0.5
        rows, columns, own_rows, own_columns = layer.window(size)
        mask = np.zeros((size, size), dtype=np.bool_)
        mask[rows, columns] = solid[own_rows, own_columns] & ~covered[rows, columns]
        seen = int(mask.sum())
        if layer.category is not None and seen < max(MIN_PIXELS, MIN_VISIBLE * int(solid.sum())):
            continue
        covered[rows, columns] |= solid[own_rows, own_columns]
        kept.append(layer)
        masks.append(mask)
    return kept[::-1], masks[::-1]


def paint(picture: NDArray[np.float32], layer: Layer, background: Background, light: Light) -> None:
    """Put the layer and its shadow into the picture."""
    size = picture.shape[0]
    if background.shadow > 0 and layer.shadow:
        shadow = _shadow(layer, light)
        rows, columns, own_rows, own_columns = shadow.window(size)
        dark = shadow.sprite[own_rows, own_columns, 3:] * np.float32(0.6 * background.shadow)
        picture[rows, columns] *= 1 - dark
    rows, columns, own_rows, own_columns = layer.window(size)
    part = layer.sprite[own_rows, own_columns]
    area = picture[rows, columns]
    area += (part[..., :3] - area) * part[..., 3:]


def _shadow(layer: Layer, light: Light) -> Layer:
    """A soft shadow: flat at the foot of what stands, displaced from the light for the rest."""
    height, width = layer.sprite.shape[:2]
    solid = Image.fromarray((layer.sprite[..., 3] * 255).astype(np.uint8))
    long = max(height, width)
    pad = 2 + round(0.08 * long)
    x, y = layer.x, layer.y
    if layer.standing:
        flat = max(2, round(0.22 * height))
        solid = solid.resize((width, flat), Image.Resampling.BILINEAR)
        y += height - round(0.7 * flat)
        x -= round(light.toward[0] * 0.1 * width)
    else:
        x -= round(light.toward[0] * 0.06 * long)
        y -= round(light.toward[1] * 0.06 * long)
    field = Image.new("L", (solid.width + 2 * pad, solid.height + 2 * pad))
    field.paste(solid, (pad, pad))
    soft = np.asarray(field.filter(ImageFilter.BoxBlur(pad / 2)), dtype=np.float32) / 255
    sprite = np.zeros((*soft.shape, 4), dtype=np.float32)
    sprite[..., 3] = soft
    return Layer(sprite, x - pad, y - pad, layer.depth, None)
