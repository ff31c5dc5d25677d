"""From objects and a background to one scene, with the exact visible mask of each object."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pretrain.data.scenes.clutter import fragment, stray
from pretrain.data.scenes.contexts import CONTEXTS, FOREIGN, Category
from pretrain.data.scenes.drawing import Sprite
from pretrain.data.scenes.source import Background, Light, Source
from pretrain.data.scenes.textures import noise

OBJECTS = (2, 8)
"""Fewest and most objects of a scene."""
SIDE = (0.10, 0.55)
"""Shortest and longest object, as a share of the image's side (log-uniform)."""
MIN_VISIBLE = 0.35
MIN_PIXELS = 40


@dataclass(frozen=True)
class SceneObject:
    """One object as it is seen.

    Attributes:
        category: what it is.
        mask: its visible pixels, bool (size, size).
        foreign: it is out of its context.
    """

    category: Category
    mask: NDArray[np.bool_]
    foreign: bool


@dataclass(frozen=True)
class Scene:
    """An image, uint8 (size, size, 3), and what is in it, back to front."""

    image: NDArray[np.uint8]
    context: str
    objects: list[SceneObject]


@dataclass(frozen=True)
class _Item:
    """A sprite at a place; clutter has no category. Larger ``depth`` is nearer."""

    sprite: Sprite
    x: int
    y: int
    depth: float
    category: Category | None
    foreign: bool = False
    standing: bool = False

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


def compose(
    source: Source, size: int, out_of_context: float, rng: np.random.Generator
) -> Scene:
    """Compose one scene.

    Args:
        source: gives objects and background.
        size: side of the image in pixels.
        out_of_context: probability that the scene holds exactly one foreign object.
        rng: every random choice is drawn from it.
    """
    context = list(CONTEXTS)[int(rng.integers(len(CONTEXTS)))]
    with_foreign = bool(rng.random() < out_of_context)
    light = _draw_light(rng)
    background = source.draw_background(context, size, rng)
    litter = _draw_clutter(source, size, light, rng)
    while True:
        # A layout can bury too many of its objects; the scene then gets another one, so that
        # neither the number of objects nor the share of foreign ones is off.
        items = _layout(source, context, with_foreign, size, background.horizon, light, rng)
        kept, masks = _visible(sorted(items + litter, key=lambda item: item.depth), size)
        objects = [
            SceneObject(item.category, mask, item.foreign)
            for item, mask in zip(kept, masks, strict=True)
            if item.category is not None
        ]
        if len(objects) >= OBJECTS[0] and any(o.foreign for o in objects) == with_foreign:
            break
    picture = background.image.copy()
    for item in kept:
        _paint(picture, item, background, light)
    return Scene(_develop(picture, light, rng), context, objects)


def _draw_light(rng: np.random.Generator) -> Light:
    angle = rng.uniform(math.radians(200), math.radians(340))
    warmth = rng.normal(0, 0.06)
    gain = rng.uniform(0.75, 1.15) * np.array([1 + warmth, 1.0, 1 - warmth])
    return Light((math.cos(angle), math.sin(angle)), gain.astype(np.float32))


def _draw_clutter(
    source: Source, size: int, light: Light, rng: np.random.Generator
) -> list[_Item]:
    items = []
    for _ in range(int(rng.integers(1, 6))):
        sprite = fragment(source, rng, size, light) if rng.random() < 0.4 else stray(rng, size, light)
        x, y = (round(v) for v in rng.uniform(-0.1, 1.0, 2) * size)
        # Most lie behind everything; some are in between and occlude.
        depth = -1.0 if rng.random() < 0.6 else rng.uniform(0, 1)
        items.append(_Item(sprite, x, y, depth, None))
    return items


def _layout(
    source: Source, context: str, with_foreign: bool, size: int, horizon: float | None,
    light: Light, rng: np.random.Generator,
) -> list[_Item]:  # fmt: skip
    """Random objects at random places that do not cover each other much."""
    count = int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))
    home, away = CONTEXTS[context], FOREIGN[context]
    items: list[_Item] = []
    taken: list[tuple[float, float, float, float]] = []
    for i in range(count):
        foreign = with_foreign and i == 0
        choices = away if foreign else home
        category = choices[int(rng.integers(len(choices)))]
        share = math.exp(rng.uniform(*(math.log(s) for s in SIDE)))
        sprite = source.draw_object(category, max(8, round(share * size)), light, rng)
        height, width = sprite.shape[:2]
        standing = category.grounded and horizon is not None
        for _ in range(6):
            x = rng.uniform(0.02, 0.98) * size - width / 2
            if standing and horizon is not None:
                y = rng.uniform(horizon + 0.04, 1.06) * size - height
            else:
                y = rng.uniform(0.02, 0.98) * size - height / 2
            place = (x, y, x + width, y + height)
            if all(_overlap(place, other) < 0.4 for other in taken):
                break
        taken.append(place)
        depth = (y + height) / size if standing else rng.uniform(0, 1)
        items.append(_Item(sprite, round(x), round(y), depth, category, foreign, standing))
    return items


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection of two boxes over the smaller one's area."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return wide * high / smaller


def _visible(items: list[_Item], size: int) -> tuple[list[_Item], list[NDArray[np.bool_]]]:
    """What can be seen of items sorted back to front.

    Objects of which too little is visible are taken out of the scene. Going from the front to the
    back, all that occludes an object is settled before it is judged.
    """
    covered = np.zeros((size, size), dtype=np.bool_)
    kept: list[_Item] = []
    masks: list[NDArray[np.bool_]] = []
    for item in reversed(items):
        solid = item.sprite[..., 3] >= 0.5
        rows, columns, own_rows, own_columns = item.window(size)
        mask = np.zeros((size, size), dtype=np.bool_)
        mask[rows, columns] = solid[own_rows, own_columns] & ~covered[rows, columns]
        seen = int(mask.sum())
        if item.category is not None and seen < max(MIN_PIXELS, MIN_VISIBLE * int(solid.sum())):
            continue
        covered[rows, columns] |= solid[own_rows, own_columns]
        kept.append(item)
        masks.append(mask)
    return kept[::-1], masks[::-1]


def _paint(picture: NDArray[np.float32], item: _Item, background: Background, light: Light) -> None:
    """Put the item and its shadow into the picture."""
    size = picture.shape[0]
    if background.shadow > 0 and item.category is not None:
        shadow = _shadow(item, light)
        rows, columns, own_rows, own_columns = shadow.window(size)
        dark = shadow.sprite[own_rows, own_columns, 3:] * np.float32(0.6 * background.shadow)
        picture[rows, columns] *= 1 - dark
    rows, columns, own_rows, own_columns = item.window(size)
    part = item.sprite[own_rows, own_columns]
    area = picture[rows, columns]
    area += (part[..., :3] - area) * part[..., 3:]


def _shadow(item: _Item, light: Light) -> _Item:
    """A soft shadow: flat at the foot of what stands, displaced from the light for the rest."""
    height, width = item.sprite.shape[:2]
    solid = Image.fromarray((item.sprite[..., 3] * 255).astype(np.uint8))
    long = max(height, width)
    pad = 2 + round(0.08 * long)
    x, y = item.x, item.y
    if item.standing:
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
    return _Item(sprite, x - pad, y - pad, item.depth, None)


def _develop(
    picture: NDArray[np.float32], light: Light, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Illumination that varies over the image, lens blur and sensor noise: uint8 pixels."""
    size = picture.shape[0]
    uneven = noise(rng, size, size, (1.5, 1.5), octaves=1) - 0.5
    brightness = 1 + np.float32(rng.uniform(0.1, 0.7)) * uneven
    lit = picture * (brightness[..., None] * light.gain)
    if rng.random() < 0.35:
        # Eight bits are enough to blur in: the noise that follows is larger than a step.
        sharp = Image.fromarray((np.clip(lit, 0, 1) * 255).astype(np.uint8))
        blurred = sharp.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8) * size / 256))
        lit = np.asarray(blurred, dtype=np.float32) / 255
    grain = rng.standard_normal(lit.shape, dtype=np.float32)
    noisy = lit * 255 + grain * np.float32(rng.uniform(1.0, 5.0))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
