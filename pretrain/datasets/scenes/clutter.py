"""Things in a scene that are no object of any category."""

from __future__ import annotations

import math

import numpy as np

from pretrain.datasets.scenes.drawing import Drawing, Part, Sprite, Style, pose, render
from pretrain.datasets.scenes.outlines import limb, lumps, polygon, smooth
from pretrain.datasets.scenes.scene_source import Light, Source


def stray(rng: np.random.Generator, size: int, light: Light) -> Sprite:
    """A lump, a shard, or a bundle of strokes, textured as objects are."""
    pixels = max(4, round(size * math.exp(rng.uniform(math.log(0.03), math.log(0.25)))))
    kind = rng.integers(3)
    drawing: Drawing
    if kind == 0:
        count = int(rng.integers(4, 9))
        drawing = [Part("a", [lumps(rng, 0, 0, 0.5, rng.uniform(0.2, 0.5), n=count)])]
    elif kind == 1:
        angle = np.sort(rng.uniform(0, 2 * math.pi, int(rng.integers(3, 6))))
        corners = zip(np.cos(angle), np.sin(angle), strict=True)
        drawing = [Part("b", [polygon(*corners)])]
    else:
        drawing = []
        for _ in range(int(rng.integers(1, 5))):
            path = smooth(rng.uniform(-0.5, 0.5, (4, 2)), closed=False, steps=5)
            drawing.append(Part("c", limb(path, rng.uniform(0.02, 0.08))))
    transform = pose(rng, rng.uniform(0, 360), flip=False)
    return render(drawing, Style.draw(rng), transform, pixels, light.toward, rng=rng)


def fragment(source: Source, rng: np.random.Generator, size: int, light: Light) -> Sprite:
    """A corner of some object: too little of it to be called one."""
    categories = source.world.categories
    category = categories[int(rng.integers(len(categories)))]
    pixels = max(8, round(size * rng.uniform(0.1, 0.3)))
    sprite = source.draw_object(category, pixels, light, rng).sprite
    height, width = sprite.shape[:2]
    h, w = max(2, round(height * 0.4)), max(2, round(width * 0.4))
    y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return sprite[y : y + h, x : x + w]
