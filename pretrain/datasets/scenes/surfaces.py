"""Surfaces backgrounds are put together from: walls, floors, skies, mottled stuff."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretrain.datasets.scenes.textures import Field, Span, color, mix, noise, ramp, wave

Picture = NDArray[np.float32]
"""Red, green, blue in [0, 1], (size, size, 3)."""


def grid(size: int) -> tuple[Field, Field]:
    """Pixel centers as shares of the side: x (1, size) and y (size, 1)."""
    center: Field = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    return center[None, :], center[:, None]


def mottled(
    rng: np.random.Generator,
    size: int,
    hue: Span,
    saturation: Span,
    value: Span,
    *,
    cells: tuple[float, float] = (4, 4),
    octaves: int = 5,
    persistence: float = 0.5,
) -> Picture:
    """Noise between two colors of the ranges; cells, octaves, persistence as of ``noise``."""
    first, second = (color(rng, hue, saturation, value) for _ in range(2))
    field = noise(rng, size, size, cells, octaves=octaves, persistence=persistence)
    return mix(first, second, ramp(field, 0.25, 0.75))


def grain(rng: np.random.Generator, picture: Picture, strength: float) -> Picture:
    """The picture with fine noise in its brightness."""
    size = picture.shape[0]
    rough = noise(rng, size, size, (size / 6, size / 6), octaves=2)
    result: Picture = picture * (1 + np.float32(2 * strength) * (rough - 0.5))[..., None]
    return result


def masonry(
    rng: np.random.Generator,
    surface: tuple[Field, Field],
    stretch: Field | float,
    brick: tuple[float, float],
    *,
    hue: Span = (0.0, 1.0),
    saturation: Span,
    value: Span,
    stagger: float = 0.0,
) -> Picture:
    """Bricks, tiles or boards, each of its own shade, with joints.

    Args:
        rng: source of colors.
        surface: coordinates on the surface, each (size, size).
        stretch: surface units per pixel, for antialiased joints.
        brick: width and height.
        hue: of all bricks; ``saturation`` and ``value`` likewise.
        saturation: see ``hue``.
        value: see ``hue``.
        stagger: by what share of a brick every other row is shifted.
    """
    u, v = surface
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
    base = color(rng, hue, saturation, value)
    other = color(rng, hue, saturation, value)
    stones = mix(base, base + (other - base) * np.float32(rng.uniform(0.2, 1.0)), table[cell])
    mortar = color(rng, hue, (0.0, 0.3), (0.3, 0.9))
    return mix(stones, mortar, lines * np.float32(0.8))


def wall(rng: np.random.Generator, size: int, kind: str) -> Picture:
    """A wall seen from the front."""
    x, y = grid(size)
    u, v = np.broadcast_to(x, (size, size)), np.broadcast_to(y, (size, size))
    if kind == "tiles":
        side = rng.uniform(0.07, 0.2)
        return masonry(
            rng, (u, v), 1 / size, (side, side * rng.uniform(0.6, 1.2)),
            saturation=(0.0, 0.4), value=(0.5, 0.95), stagger=float(rng.choice([0.0, 0.5])),
        )  # fmt: skip
    if kind == "bricks":
        high = rng.uniform(0.04, 0.09)
        return masonry(
            rng, (u, v), 1 / size, (high * rng.uniform(2, 3), high),
            hue=(-0.05, 0.15), saturation=(0.15, 0.7), value=(0.3, 0.85), stagger=0.5,
        )  # fmt: skip
    plaster = mottled(rng, size, (0, 1), (0.0, 0.35), (0.45, 0.95), cells=(2, 2))
    if kind == "stripes":
        band = wave(u * rng.uniform(6, 24) + 0 * v, rng.uniform(0.2, 0.6), 0.1)
        return mix(plaster, color(rng, (0, 1), (0.0, 0.4), (0.4, 0.95)), band * np.float32(0.6))
    return plaster


def floor(rng: np.random.Generator, size: int, horizon: float, kind: str) -> Picture:
    """A floor in perspective below ``horizon`` (whole image; the part above is meaningless)."""
    x, y = grid(size)
    depth = 1.0 / np.maximum(y - np.float32(horizon) + 0.08, 0.02)
    u = (x - np.float32(rng.uniform(0.2, 0.8))) * depth + np.float32(50)
    v = np.broadcast_to(depth, (size, size)) * np.float32(0.6)
    stretch = (depth**2 / size).astype(np.float32)
    if kind == "tiles":
        side = rng.uniform(0.3, 0.9)
        ground = masonry(
            rng, (u, v), stretch, (side, side), saturation=(0.0, 0.5), value=(0.3, 0.9)
        )
    elif kind == "boards":
        ground = masonry(
            rng, (v, u), stretch, (4.0, rng.uniform(0.2, 0.5)),
            hue=(0.03, 0.13), saturation=(0.2, 0.7), value=(0.25, 0.8), stagger=0.5,
        )  # fmt: skip
    elif kind == "cloth":
        ground = mottled(rng, size, (0, 1), (0.05, 0.6), (0.4, 0.95), cells=(3, 3))
        f = rng.uniform(1.0, 3.0)
        bands = wave(u * f, 0.5, stretch * f) + wave(v * f, 0.5, stretch * f)
        ground = mix(ground, color(rng, (0, 1), (0.1, 0.8), (0.3, 0.9)), bands * np.float32(0.35))
    else:
        ground = mottled(rng, size, (0, 1), (0.0, 0.3), (0.2, 0.7), cells=(8, 3))
    return grain(rng, ground, rng.uniform(0.05, 0.25))


def below(top: Picture, bottom: Picture, edge: NDArray[np.float32] | float) -> Picture:
    """``bottom`` below the line ``edge`` (shares of the side, one a column or one for all)."""
    size = top.shape[0]
    _, y = grid(size)
    share = np.clip((y - np.float32(edge)) * size + 0.5, 0, 1)
    return mix(top, bottom, np.broadcast_to(share, (size, size)).astype(np.float32))


def open_sky(rng: np.random.Generator, size: int) -> Picture:
    """A graded sky, clear, cloudy, dusky or dull."""
    _, y = grid(size)
    hue = float(rng.choice([0.58, 0.6, 0.55, 0.05, 0.75, 0.12]))
    top = color(rng, (hue - 0.05, hue + 0.05), (0.1, 0.8), (0.35, 0.95))
    low = color(rng, (hue - 0.2, hue + 0.2), (0.0, 0.4), (0.6, 1.0))
    sky = mix(top, low, np.broadcast_to(y, (size, size)))
    if rng.random() < 0.8:
        flat = rng.uniform(1.0, 3.0)
        cells = rng.uniform(2, 5)
        cloud = noise(rng, size, size, (cells * flat, cells), octaves=5)
        low_edge = rng.uniform(0.4, 0.6)
        cover = ramp(cloud, low_edge, low_edge + rng.uniform(0.1, 0.3))
        sky = mix(sky, color(rng, (0, 1), (0.0, 0.15), (0.6, 1.0)), cover * np.float32(0.9))
    return sky
