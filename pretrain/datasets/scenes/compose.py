"""From objects and a background to one scene, with the exact visible mask of each object."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pretrain.datasets.scenes.contexts import Category
from pretrain.datasets.scenes.layers import Layer, paint, visible
from pretrain.datasets.scenes.scene_source import Light, Source
from pretrain.datasets.scenes.textures import noise

OBJECTS = (2, 8)
"""Fewest and most objects of a scene."""
SIDE = (0.10, 0.55)
"""Shortest and longest object, as a share of the image's side (log-uniform)."""
MAX_LAYOUTS = 500


@dataclass(frozen=True)
class SceneObject:
    """One object as it is seen.

    Attributes:
        category: what it is.
        mask: its visible pixels, bool (size, size).
        foreign: it is out of its context.
        name: which individual it is, where those are given ones.
    """

    category: Category
    mask: NDArray[np.bool_]
    foreign: bool
    name: str | None


@dataclass(frozen=True)
class Scene:
    """An image, uint8 (size, size, 3), and what is in it, back to front.

    ``background`` says which one it is, where those are given ones.
    """

    image: NDArray[np.uint8]
    context: str
    objects: list[SceneObject]
    background: str | None


def compose(source: Source, size: int, out_of_context: float, rng: np.random.Generator) -> Scene:
    """Compose one scene.

    Args:
        source: gives objects and background.
        size: side of the image in pixels.
        out_of_context: probability that the scene holds exactly one foreign object.
        rng: every random choice is drawn from it.
    """
    contexts = source.world.contexts
    weights = np.array([len(members) for members in contexts.values()], dtype=np.float64)
    context = list(contexts)[int(rng.choice(len(contexts), p=weights / weights.sum()))]
    with_foreign = bool(rng.random() < out_of_context)
    light = _draw_light(rng)
    background = source.draw_background(context, size, rng)
    clutter = _draw_clutter(source, size, light, rng)
    for _ in range(MAX_LAYOUTS):
        # A layout can bury too many of its objects; the scene then gets another one, so that
        # neither the number of objects nor the share of foreign ones is off.
        layers = _layout(
            source,
            context,
            with_foreign,
            size=size,
            horizon=background.horizon,
            light=light,
            rng=rng,
        )
        kept, masks = visible(sorted(layers + clutter, key=lambda layer: layer.depth), size)
        objects = [
            SceneObject(layer.category, mask, layer.foreign, layer.name)
            for layer, mask in zip(kept, masks, strict=True)
            if layer.category is not None
        ]
        if len(objects) >= OBJECTS[0] and any(o.foreign for o in objects) == with_foreign:
            break
    else:
        raise RuntimeError(f"source '{source.name}' gives objects of which too little can be seen")
    picture = background.image.copy()
    for layer in kept:
        paint(picture, layer, background, light)
    return Scene(_develop(picture, light, rng), context, objects, background.name)


def _draw_light(rng: np.random.Generator) -> Light:
    angle = rng.uniform(math.radians(200), math.radians(340))
    warmth = rng.normal(0, 0.06)
    gain = rng.uniform(0.75, 1.15) * np.array([1 + warmth, 1.0, 1 - warmth])
    return Light((math.cos(angle), math.sin(angle)), gain.astype(np.float32))


def _draw_clutter(source: Source, size: int, light: Light, rng: np.random.Generator) -> list[Layer]:
    layers = []
    for _ in range(int(rng.integers(1, 6))):
        sprite = source.draw_clutter(size, light, rng)
        x, y = (round(v) for v in rng.uniform(-0.1, 1.0, 2) * size)
        # Most lie behind everything; some are in between and occlude.
        depth = -1.0 if rng.random() < 0.6 else rng.uniform(0, 1)
        layers.append(Layer(sprite, x, y, depth, None, shadow=source.clutter_shadows))
    return layers


def _layout(
    source: Source,
    context: str,
    with_foreign: bool,
    *,
    size: int,
    horizon: float | None,
    light: Light,
    rng: np.random.Generator,
) -> list[Layer]:
    """Random objects at random places that do not cover each other much."""
    count = int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))
    own, others = source.world.contexts[context], source.world.foreign[context]
    layers: list[Layer] = []
    taken: list[tuple[float, float, float, float]] = []
    for i in range(count):
        foreign = with_foreign and i == 0
        choices = others if foreign else own
        category = choices[int(rng.integers(len(choices)))]
        share = math.exp(rng.uniform(math.log(SIDE[0]), math.log(SIDE[1])))
        drawn = source.draw_object(category, max(8, round(share * size)), light, rng)
        height, width = drawn.sprite.shape[:2]
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
        layers.append(
            Layer(
                drawn.sprite,
                round(x),
                round(y),
                depth,
                category,
                foreign=foreign,
                standing=standing,
                shadow=True,
                name=drawn.name,
            )
        )
    return layers


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection of two boxes over the smaller one's area."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return wide * high / smaller


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
