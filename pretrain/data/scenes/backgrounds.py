"""Backgrounds, one function a context, each with several variants."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pretrain.data.scenes.source import Background
from pretrain.data.scenes.textures import Field, Span, colour, mix, noise, ramp, wave

Picture = NDArray[np.float32]


def _grid(size: int) -> tuple[Field, Field]:
    """Pixel centres as shares of the side: x (1, size) and y (size, 1)."""
    centre = (np.arange(size, dtype=np.float32) + 0.5) / size
    return centre[None, :], centre[:, None]


def _mottled(
    rng: np.random.Generator, size: int, hue: Span, saturation: Span, value: Span,
    cells: tuple[float, float] = (4, 4), octaves: int = 5,
) -> Picture:  # fmt: skip
    """Noise between two colours of the ranges."""
    first, second = (colour(rng, hue, saturation, value) for _ in range(2))
    return mix(first, second, ramp(noise(rng, size, size, cells, octaves), 0.25, 0.75))


def _grain(rng: np.random.Generator, picture: Picture, strength: float) -> Picture:
    """The picture with fine noise in its brightness."""
    size = picture.shape[0]
    rough = noise(rng, size, size, (size / 6, size / 6), octaves=2)
    result: Picture = picture * (1 + np.float32(2 * strength) * (rough - 0.5))[..., None]
    return result


def _masonry(
    rng: np.random.Generator, size: int, u: Field, v: Field, stretch: Field | float,
    brick: tuple[float, float], hue: Span, saturation: Span, value: Span, stagger: float,
) -> Picture:  # fmt: skip
    """Bricks, tiles or boards over surface coordinates u, v, each stone of its own shade.

    ``stretch``: surface units per pixel, for antialiased joints.
    """
    wide, high = brick
    row = np.floor(v / high)
    across = u / wide + stagger * (row % 2)
    column = np.floor(across)
    joint = rng.uniform(0.04, 0.1) * high
    lines = np.maximum(
        wave(v / high + 0.5, joint / high, stretch / high * 1.5),
        wave(across + 0.5, joint / wide, stretch / wide * 1.5),
    )
    table = rng.random(1024, dtype=np.float32)
    cell = (row * 31 + column * 17).astype(np.int64) % 1024
    base = colour(rng, hue, saturation, value)
    other = colour(rng, hue, saturation, value)
    stones = mix(base, base + (other - base) * np.float32(rng.uniform(0.2, 1.0)), table[cell])
    mortar = colour(rng, hue, (0.0, 0.3), (0.3, 0.9))
    return mix(stones, mortar, np.broadcast_to(lines, (size, size)) * np.float32(0.8))


def _wall(rng: np.random.Generator, size: int, kind: str) -> Picture:
    """A wall seen from the front."""
    x, y = _grid(size)
    u, v = np.broadcast_to(x, (size, size)), np.broadcast_to(y, (size, size))
    if kind == "tiles":
        side = rng.uniform(0.07, 0.2)
        return _masonry(rng, size, u, v, 1 / size, (side, side * rng.uniform(0.6, 1.2)),
                        (0, 1), (0.0, 0.4), (0.5, 0.95), float(rng.choice([0.0, 0.5])))  # fmt: skip
    if kind == "bricks":
        high = rng.uniform(0.04, 0.09)
        return _masonry(rng, size, u, v, 1 / size, (high * rng.uniform(2, 3), high),
                        (-0.05, 0.15), (0.15, 0.7), (0.3, 0.85), 0.5)  # fmt: skip
    plaster = _mottled(rng, size, (0, 1), (0.0, 0.35), (0.45, 0.95), (2, 2))
    if kind == "stripes":
        band = wave(u * rng.uniform(6, 24) + 0 * v, rng.uniform(0.2, 0.6), 0.1)
        return mix(plaster, colour(rng, (0, 1), (0.0, 0.4), (0.4, 0.95)), band * np.float32(0.6))
    return plaster


def _floor(rng: np.random.Generator, size: int, horizon: float, kind: str) -> Picture:
    """A floor in perspective below ``horizon`` (whole image; the part above is meaningless)."""
    x, y = _grid(size)
    depth = 1.0 / np.maximum(y - np.float32(horizon) + 0.08, 0.02)
    u = (x - np.float32(rng.uniform(0.2, 0.8))) * depth + np.float32(50)
    v = np.broadcast_to(depth, (size, size)) * np.float32(0.6)
    stretch = (depth**2 / size).astype(np.float32)
    if kind == "tiles":
        side = rng.uniform(0.3, 0.9)
        floor = _masonry(rng, size, u, v, stretch, (side, side), (0, 1), (0.0, 0.5), (0.3, 0.9), 0)
    elif kind == "boards":
        floor = _masonry(rng, size, v, u, stretch, (4.0, rng.uniform(0.2, 0.5)),
                         (0.03, 0.13), (0.2, 0.7), (0.25, 0.8), 0.5)  # fmt: skip
    elif kind == "cloth":
        floor = _mottled(rng, size, (0, 1), (0.05, 0.6), (0.4, 0.95), (3, 3))
        f = rng.uniform(1.0, 3.0)
        bands = wave(u * f, 0.5, stretch * f) + wave(v * f, 0.5, stretch * f)
        floor = mix(floor, colour(rng, (0, 1), (0.1, 0.8), (0.3, 0.9)), bands * np.float32(0.35))
    else:
        floor = _mottled(rng, size, (0, 1), (0.0, 0.3), (0.2, 0.7), (8, 3))
    return _grain(rng, floor, rng.uniform(0.05, 0.25))


def _below(top: Picture, bottom: Picture, edge: NDArray[np.float32] | float) -> Picture:
    """``bottom`` below the line ``edge`` (shares of the side, one a column or one for all)."""
    size = top.shape[0]
    _, y = _grid(size)
    share = np.clip((y - np.float32(edge)) * size + 0.5, 0, 1)
    return mix(top, bottom, np.broadcast_to(share, (size, size)).astype(np.float32))


def kitchen(size: int, rng: np.random.Generator) -> Background:
    """A tiled wall over a worktop or floor; or a table cloth or worktop from above."""
    if rng.random() < 0.3:
        kind = str(rng.choice(["cloth", "boards", "tiles"]))
        return Background(_floor(rng, size, -rng.uniform(0.3, 0.8), kind), 0.0, 0.8)
    horizon = rng.uniform(0.25, 0.6)
    wall = _wall(rng, size, str(rng.choice(["tiles", "tiles", "plaster"])))
    ground = _floor(rng, size, horizon, str(rng.choice(["tiles", "cloth", "boards", "stone"])))
    picture = _below(wall, ground, horizon)
    if rng.random() < 0.5:
        thick = rng.uniform(0.02, 0.06)
        rim = np.broadcast_to(colour(rng, value=(0.2, 0.9), saturation=(0, 0.4)), picture.shape)
        picture = _below(_below(picture, rim, horizon), ground, horizon + thick)
    return Background(picture, horizon, 0.8)


def office(size: int, rng: np.random.Generator) -> Background:
    """A papered or plastered wall over boards or carpet, some with a window or a shelf."""
    horizon = rng.uniform(0.4, 0.75)
    wall = _wall(rng, size, str(rng.choice(["plaster", "stripes", "stripes"])))
    x, y = _grid(size)
    if rng.random() < 0.6:
        x0, y0 = rng.uniform(0.0, 0.7), rng.uniform(0.02, 0.2)
        x1, y1 = x0 + rng.uniform(0.2, 0.4), y0 + rng.uniform(0.15, 0.3)
        frame = ((x > x0) & (x < x1) & (y > y0) & (y < y1)).astype(np.float32)
        m = rng.uniform(0.012, 0.025)
        pane = ((x > x0 + m) & (x < x1 - m) & (y > y0 + m) & (y < y1 - m)).astype(np.float32)
        bars = wave((x - x0) / (x1 - x0) * 2 + 0.5, 0.08, 0.05) * (rng.random() < 0.6)
        view = _mottled(rng, size, (0, 1), (0.05, 0.6), (0.3, 1.0), (6, 6), 3)
        if rng.random() < 0.5:
            view = _masonry(rng, size, x + 0 * y, y + 0 * x, 1 / size, (0.02, 1.0),
                            (0, 1), (0.1, 0.8), (0.1, 0.9), 0)  # fmt: skip
        wood = colour(rng, (0.0, 0.15), (0.0, 0.6), (0.2, 0.95))
        wall = mix(wall, wood, frame)
        wall = mix(wall, view, (pane * (1 - bars)).astype(np.float32))
    ground = _floor(rng, size, horizon, str(rng.choice(["boards", "boards", "stone", "cloth"])))
    skirting = colour(rng, (0, 1), (0.0, 0.3), (0.3, 1.0))
    wall = _below(wall, np.broadcast_to(skirting, wall.shape), horizon - rng.uniform(0.01, 0.04))
    return Background(_below(wall, ground, horizon), horizon, 0.8)


def street(size: int, rng: np.random.Generator) -> Background:
    """A road before a brick wall or a skyline; kerb and lane marks."""
    horizon = rng.uniform(0.4, 0.7)
    x, y = _grid(size)
    if rng.random() < 0.4:
        back = _wall(rng, size, "bricks")
    else:
        back = _heaven(rng, size)
        for layer in range(int(rng.integers(1, 4))):
            columns = int(rng.integers(5, 14))
            heights = rng.uniform(0.05, 0.4, columns) * (1 - 0.2 * layer)
            edge = (horizon - np.repeat(heights, -(-size // columns))[:size]).astype(np.float32)
            tone = colour(rng, (0, 1), (0.0, 0.35), (0.25, 0.75))
            lit = wave(x * rng.uniform(20, 45), 0.5, 0.3) * wave(y * rng.uniform(20, 45), 0.5, 0.3)
            facade = mix(tone, tone * np.float32(rng.uniform(0.5, 1.6)), lit.astype(np.float32))
            back = _below(back, facade, edge[None, :])
    ground = _floor(rng, size, horizon, "stone")
    depth = y - np.float32(horizon)
    if rng.random() < 0.6:
        lane = np.abs(x - 0.5 - np.float32(rng.uniform(-0.6, 0.6)) * depth)
        stripe = np.clip((0.05 * depth - lane) * size, 0, 1)
        stripe = stripe * wave(np.float32(rng.uniform(1, 2)) / np.maximum(depth, 0.02), 0.5, 0.1)
        ground = mix(ground, colour(rng, (0.1, 0.2), (0, 0.5), (0.8, 1)), stripe.astype(np.float32))
    pavement = _floor(rng, size, horizon, str(rng.choice(["tiles", "stone"])))
    picture = _below(back, pavement, horizon)
    return Background(_below(picture, ground, horizon + rng.uniform(0.02, 0.15)), horizon, 0.7)


def _heaven(rng: np.random.Generator, size: int) -> Picture:
    """A graded sky, clear, cloudy, dusky or dull."""
    _, y = _grid(size)
    hue = float(rng.choice([0.58, 0.6, 0.55, 0.05, 0.75, 0.12]))
    top = colour(rng, (hue - 0.05, hue + 0.05), (0.1, 0.8), (0.35, 0.95))
    low = colour(rng, (hue - 0.2, hue + 0.2), (0.0, 0.4), (0.6, 1.0))
    sky = mix(top, low, np.broadcast_to(y, (size, size)))
    if rng.random() < 0.8:
        flat = rng.uniform(1.0, 3.0)
        cells = rng.uniform(2, 5)
        cloud = noise(rng, size, size, (cells * flat, cells), octaves=5)
        low_edge = rng.uniform(0.4, 0.6)
        cover = ramp(cloud, low_edge, low_edge + rng.uniform(0.1, 0.3))
        sky = mix(sky, colour(rng, (0, 1), (0.0, 0.15), (0.6, 1.0)), cover * np.float32(0.9))
    return sky


def forest(size: int, rng: np.random.Generator) -> Background:
    """Foliage and trunks, or hills under a sky, above grass, leaves or snow."""
    season = (0.16, 0.42) if rng.random() < 0.6 else (0.02, 0.2)
    horizon = rng.uniform(0.3, 0.65)
    x, _ = _grid(size)
    if rng.random() < 0.6:
        back = _mottled(rng, size, season, (0.15, 0.8), (0.1, 0.7), (6, 6), 6)
        bark = colour(rng, (0.0, 0.15), (0.1, 0.6), (0.1, 0.6))
        trunks = np.zeros((1, size), dtype=np.float32)
        for _ in range(int(rng.integers(2, 9))):
            half = rng.uniform(0.008, 0.03)
            near = np.clip((half - np.abs(x - np.float32(rng.random()))) * size, 0, 1)
            trunks = np.maximum(trunks, near)
        bend = noise(rng, size, size, (3, 30), octaves=3)
        back = mix(back, bark, np.clip(trunks * (0.6 + 0.6 * bend), 0, 1).astype(np.float32))
    else:
        back = _heaven(rng, size)
        for layer in range(int(rng.integers(1, 4))):
            hill = noise(rng, 2, size, (1, 4), octaves=4)[0]
            edge = horizon - 0.3 * hill + 0.07 * layer
            slope = _mottled(rng, size, season, (0.1, 0.6), (0.2, 0.7), (8, 8), 4)
            back = _below(back, slope, edge[None, :].astype(np.float32))
    kind = rng.random()
    hue, saturation, value = (season, (0.2, 0.8), (0.2, 0.75))
    if kind < 0.15:
        hue, saturation, value = (0.5, 0.7), (0.0, 0.15), (0.7, 1.0)
    ground = _mottled(rng, size, hue, saturation, value, (5, 3), 4)
    blades = noise(rng, size, size, (size / 12, size / 3), octaves=2)
    ground = ground * (0.6 + np.float32(0.8) * blades)[..., None]
    uneven = noise(rng, 2, size, (1, 12), octaves=3)[0] * np.float32(0.06)
    edge = (horizon - uneven)[None, :].astype(np.float32)
    return Background(_below(back, ground, edge), horizon, 0.6)


def sea(size: int, rng: np.random.Generator) -> Background:
    """Waves under a sky, or under water: depth, light from above, sand."""
    _, y = _grid(size)
    hue = (0.42, 0.68)
    if rng.random() < 0.4:
        horizon = rng.uniform(0.15, 0.45)
        water = _mottled(rng, size, hue, (0.2, 0.85), (0.2, 0.9), (10, 3), 3)
        depth = 1 / np.maximum(y - np.float32(horizon) + 0.1, 0.03)
        swell = noise(rng, size, size, (6, 3), octaves=3)
        crests = wave(depth * np.float32(rng.uniform(1, 3)) + 3 * swell, 0.3, 0.4)
        foam = mix(water, colour(rng, hue, (0.0, 0.3), (0.7, 1.0)), crests * np.float32(0.45))
        return Background(_below(_heaven(rng, size), foam, horizon), None, 0.25)
    top, deep = colour(rng, hue, (0.2, 0.8), (0.5, 1.0)), colour(rng, hue, (0.4, 1.0), (0.1, 0.5))
    water = mix(top, deep, np.broadcast_to(y, (size, size)))
    web = np.abs(noise(rng, size, size, (6, 5), octaves=2) - 0.5)
    caustic = ramp(web, 0.06, 0.0) * (1 - y) * np.float32(rng.uniform(0.1, 0.6))
    water = mix(water, np.ones(3, dtype=np.float32), caustic.astype(np.float32))
    haze = noise(rng, size, size, (3, 3), octaves=4)
    water = water * (0.75 + np.float32(0.5) * haze)[..., None]
    if rng.random() < 0.3:
        return Background(water, None, 0.15)
    horizon = rng.uniform(0.55, 0.8)
    sand = _mottled(rng, size, (0.05, 0.55), (0.1, 0.6), (0.35, 0.9), (12, 4), 4)
    sand = _grain(rng, sand, 0.3)
    dune = noise(rng, 2, size, (1, 4), octaves=3)[0] * np.float32(0.15)
    edge = (horizon - dune)[None, :].astype(np.float32)
    return Background(_below(water, sand, edge), horizon, 0.35)


def sky(size: int, rng: np.random.Generator) -> Background:
    """Clouds and haze, some with a strip of land far below."""
    picture = _heaven(rng, size)
    if rng.random() < 0.35:
        hill = noise(rng, 2, size, (1, 5), octaves=4)[0] * np.float32(0.15)
        land = _mottled(rng, size, (0.0, 0.5), (0.1, 0.6), (0.2, 0.7), (14, 6), 4)
        edge = np.float32(rng.uniform(0.82, 0.98)) - hill
        picture = _below(picture, land, edge[None, :].astype(np.float32))
    return Background(picture, None, 0.0)


def space(size: int, rng: np.random.Generator) -> Background:
    """Darkness, nebulae and stars."""
    picture = _mottled(rng, size, (0, 1), (0.1, 0.9), (0.0, 0.18), (2, 2), 4)
    for _ in range(int(rng.integers(0, 3))):
        cloud = ramp(noise(rng, size, size, (2.5, 2.5), octaves=6), 0.45, 0.85)
        tint = colour(rng, (0, 1), (0.2, 0.9), (0.3, 0.9))
        picture = mix(picture, tint, cloud * np.float32(rng.uniform(0.4, 1.0)))
    count = int(size * math.exp(rng.uniform(math.log(0.3), math.log(3.0))))
    rows, columns = rng.integers(0, size, (2, count))
    glow = rng.random((count, 1), dtype=np.float32) ** 3
    picture[rows, columns] = np.maximum(picture[rows, columns], glow)
    for row, column in zip(rows[: count // 12], columns[: count // 12], strict=True):
        picture[row : row + 2, column : column + 2] = rng.uniform(0.6, 1.0)
    return Background(picture, None, 0.0)


BACKGROUNDS: dict[str, Callable[[int, np.random.Generator], Background]] = {
    "kitchen": kitchen,
    "office": office,
    "street": street,
    "forest": forest,
    "sea": sea,
    "sky": sky,
    "space": space,
}
