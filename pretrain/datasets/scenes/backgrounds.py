"""Backgrounds, one function a context, each with several variants."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from pretrain.datasets.scenes.scene_source import Background
from pretrain.datasets.scenes.surfaces import (
    below,
    floor,
    grain,
    grid,
    masonry,
    mottled,
    open_sky,
    wall,
)
from pretrain.datasets.scenes.textures import color, mix, noise, ramp, wave


def kitchen(size: int, rng: np.random.Generator) -> Background:
    """A tiled wall over a worktop or floor; or a table cloth or worktop from above."""
    if rng.random() < 0.3:
        kind = str(rng.choice(["cloth", "boards", "tiles"]))
        return Background(floor(rng, size, -rng.uniform(0.3, 0.8), kind), 0.0, 0.8)
    horizon = rng.uniform(0.25, 0.6)
    front = wall(rng, size, str(rng.choice(["tiles", "tiles", "plaster"])))
    ground = floor(rng, size, horizon, str(rng.choice(["tiles", "cloth", "boards", "stone"])))
    picture = below(front, ground, horizon)
    if rng.random() < 0.5:
        thick = rng.uniform(0.02, 0.06)
        rim = np.broadcast_to(color(rng, value=(0.2, 0.9), saturation=(0, 0.4)), picture.shape)
        picture = below(below(picture, rim, horizon), ground, horizon + thick)
    return Background(picture, horizon, 0.8)


def office(size: int, rng: np.random.Generator) -> Background:
    """A papered or plastered wall over boards or carpet; some with a window or a shelf."""
    horizon = rng.uniform(0.4, 0.75)
    front = wall(rng, size, str(rng.choice(["plaster", "stripes", "stripes"])))
    x, y = grid(size)
    if rng.random() < 0.6:
        x0, y0 = rng.uniform(0.0, 0.7), rng.uniform(0.02, 0.2)
        x1, y1 = x0 + rng.uniform(0.2, 0.4), y0 + rng.uniform(0.15, 0.3)
        frame = ((x > x0) & (x < x1) & (y > y0) & (y < y1)).astype(np.float32)
        m = rng.uniform(0.012, 0.025)
        pane = ((x > x0 + m) & (x < x1 - m) & (y > y0 + m) & (y < y1 - m)).astype(np.float32)
        bars = wave((x - x0) / (x1 - x0) * 2 + 0.5, 0.08, 0.05) * (rng.random() < 0.6)
        view = mottled(rng, size, (0, 1), (0.05, 0.6), (0.3, 1.0), cells=(6, 6), octaves=3)
        if rng.random() < 0.5:
            view = masonry(
                rng, (x + 0 * y, y + 0 * x), 1 / size, (0.02, 1.0),
                saturation=(0.1, 0.8), value=(0.1, 0.9),
            )  # fmt: skip
        wood = color(rng, (0.0, 0.15), (0.0, 0.6), (0.2, 0.95))
        front = mix(front, wood, frame)
        front = mix(front, view, (pane * (1 - bars)).astype(np.float32))
    ground = floor(rng, size, horizon, str(rng.choice(["boards", "boards", "stone", "cloth"])))
    skirting = color(rng, (0, 1), (0.0, 0.3), (0.3, 1.0))
    front = below(front, np.broadcast_to(skirting, front.shape), horizon - rng.uniform(0.01, 0.04))
    return Background(below(front, ground, horizon), horizon, 0.8)


def street(size: int, rng: np.random.Generator) -> Background:
    """A road before a brick wall or a skyline; kerb and lane marks."""
    horizon = rng.uniform(0.4, 0.7)
    x, y = grid(size)
    if rng.random() < 0.4:
        back = wall(rng, size, "bricks")
    else:
        back = open_sky(rng, size)
        for layer in range(int(rng.integers(1, 4))):
            columns = int(rng.integers(5, 14))
            heights = rng.uniform(0.05, 0.4, columns) * (1 - 0.2 * layer)
            edge = (horizon - np.repeat(heights, -(-size // columns))[:size]).astype(np.float32)
            tone = color(rng, (0, 1), (0.0, 0.35), (0.25, 0.75))
            lit = wave(x * rng.uniform(20, 45), 0.5, 0.3) * wave(y * rng.uniform(20, 45), 0.5, 0.3)
            facade = mix(tone, tone * np.float32(rng.uniform(0.5, 1.6)), lit.astype(np.float32))
            back = below(back, facade, edge[None, :])
    ground = floor(rng, size, horizon, "stone")
    depth = y - np.float32(horizon)
    if rng.random() < 0.6:
        lane = np.abs(x - 0.5 - np.float32(rng.uniform(-0.6, 0.6)) * depth)
        stripe = np.clip((0.05 * depth - lane) * size, 0, 1)
        stripe = stripe * wave(np.float32(rng.uniform(1, 2)) / np.maximum(depth, 0.02), 0.5, 0.1)
        ground = mix(ground, color(rng, (0.1, 0.2), (0, 0.5), (0.8, 1)), stripe.astype(np.float32))
    pavement = floor(rng, size, horizon, str(rng.choice(["tiles", "stone"])))
    picture = below(back, pavement, horizon)
    return Background(below(picture, ground, horizon + rng.uniform(0.02, 0.15)), horizon, 0.7)


def forest(size: int, rng: np.random.Generator) -> Background:
    """Foliage and trunks, or hills under a sky, above grass, leaves or snow."""
    season = (0.16, 0.42) if rng.random() < 0.6 else (0.02, 0.2)
    horizon = rng.uniform(0.3, 0.65)
    x, _ = grid(size)
    if rng.random() < 0.6:
        back = mottled(
            rng, size, season, (0.15, 0.8), (0.05, 0.8), cells=(7, 7), octaves=6, persistence=0.8
        )
        bark = color(rng, (0.0, 0.15), (0.1, 0.6), (0.1, 0.6))
        trunks = np.zeros((1, size), dtype=np.float32)
        for _ in range(int(rng.integers(2, 9))):
            half = rng.uniform(0.008, 0.03)
            near = np.clip((half - np.abs(x - np.float32(rng.random()))) * size, 0, 1)
            trunks = np.maximum(trunks, near)
        bend = noise(rng, size, size, (3, 30), octaves=3)
        back = mix(back, bark, np.clip(trunks * (0.6 + 0.6 * bend), 0, 1).astype(np.float32))
    else:
        back = open_sky(rng, size)
        for layer in range(int(rng.integers(1, 4))):
            hill = noise(rng, 2, size, (1, 4), octaves=4)[0]
            edge = horizon - 0.3 * hill + 0.07 * layer
            slope = mottled(
                rng, size, season, (0.1, 0.6), (0.2, 0.7), cells=(8, 8), persistence=0.8
            )
            back = below(back, slope, edge[None, :].astype(np.float32))
    kind = rng.random()
    hue, saturation, value = (season, (0.2, 0.8), (0.2, 0.75))
    if kind < 0.15:
        hue, saturation, value = (0.5, 0.7), (0.0, 0.15), (0.7, 1.0)
    ground = mottled(rng, size, hue, saturation, value, cells=(5, 3), octaves=4)
    blades = noise(rng, size, size, (size / 12, size / 3), octaves=2)
    ground = ground * (0.6 + np.float32(0.8) * blades)[..., None]
    uneven = noise(rng, 2, size, (1, 12), octaves=3)[0] * np.float32(0.06)
    edge = (horizon - uneven)[None, :].astype(np.float32)
    return Background(below(back, ground, edge), horizon, 0.6)


def sea(size: int, rng: np.random.Generator) -> Background:
    """Waves under a sky, or under water: depth, light from above, sand."""
    _, y = grid(size)
    hue = (0.42, 0.68)
    if rng.random() < 0.4:
        horizon = rng.uniform(0.15, 0.45)
        water = mottled(rng, size, hue, (0.2, 0.85), (0.2, 0.9), cells=(10, 3), octaves=3)
        depth = 1 / np.maximum(y - np.float32(horizon) + 0.1, 0.03)
        swell = noise(rng, size, size, (6, 3), octaves=3)
        crests = wave(depth * np.float32(rng.uniform(1, 3)) + 3 * swell, 0.3, 0.4)
        foam = mix(water, color(rng, hue, (0.0, 0.3), (0.7, 1.0)), crests * np.float32(0.45))
        return Background(below(open_sky(rng, size), foam, horizon), None, 0.25)
    top, deep = color(rng, hue, (0.2, 0.8), (0.5, 1.0)), color(rng, hue, (0.4, 1.0), (0.1, 0.5))
    water = mix(top, deep, np.broadcast_to(y, (size, size)))
    web = np.abs(noise(rng, size, size, (6, 5), octaves=2) - 0.5)
    caustic = ramp(web, 0.06, 0.0) * (1 - y) * np.float32(rng.uniform(0.1, 0.6))
    water = mix(water, np.ones(3, dtype=np.float32), caustic.astype(np.float32))
    haze = noise(rng, size, size, (3, 3), octaves=4)
    water = water * (0.75 + np.float32(0.5) * haze)[..., None]
    if rng.random() < 0.3:
        return Background(water, None, 0.15)
    horizon = rng.uniform(0.55, 0.8)
    sand = mottled(rng, size, (0.05, 0.55), (0.1, 0.6), (0.35, 0.9), cells=(12, 4), octaves=4)
    sand = grain(rng, sand, 0.3)
    dune = noise(rng, 2, size, (1, 4), octaves=3)[0] * np.float32(0.15)
    edge = (horizon - dune)[None, :].astype(np.float32)
    return Background(below(water, sand, edge), horizon, 0.35)


def sky(size: int, rng: np.random.Generator) -> Background:
    """Clouds and haze, some with a strip of land far below."""
    picture = open_sky(rng, size)
    if rng.random() < 0.35:
        hill = noise(rng, 2, size, (1, 5), octaves=4)[0] * np.float32(0.15)
        land = mottled(rng, size, (0.0, 0.5), (0.1, 0.6), (0.2, 0.7), cells=(14, 6), octaves=4)
        edge = np.float32(rng.uniform(0.82, 0.98)) - hill
        picture = below(picture, land, edge[None, :].astype(np.float32))
    return Background(picture, None, 0.0)


def space(size: int, rng: np.random.Generator) -> Background:
    """Darkness, nebulae and stars."""
    picture = mottled(rng, size, (0, 1), (0.1, 0.9), (0.0, 0.18), cells=(2, 2), octaves=4)
    for _ in range(int(rng.integers(0, 3))):
        cloud = ramp(noise(rng, size, size, (2.5, 2.5), octaves=6), 0.45, 0.85)
        tint = color(rng, (0, 1), (0.2, 0.9), (0.3, 0.9))
        picture = mix(picture, tint, cloud * np.float32(rng.uniform(0.4, 1.0)))
    count = int(size * math.exp(rng.uniform(math.log(0.3), math.log(3.0))))
    rows, columns = rng.integers(0, size, (2, count))
    glow = rng.random((count, 1), dtype=np.float32) ** 3
    picture[rows, columns] = np.maximum(picture[rows, columns], glow)
    for row, column in zip(rows[: count // 12], columns[: count // 12], strict=True):
        picture[row : row + 2, column : column + 2] = rng.uniform(0.6, 1.0)
    return Background(picture, None, 0.0)


BACKGROUNDS: dict[str, Callable[[int, np.random.Generator], Background]] = {
    draw.__name__: draw for draw in (kitchen, office, street, forest, sea, sky, space)
}
"""By context."""
