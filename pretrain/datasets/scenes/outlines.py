"""Outlines: polygons of which the parts of an object are made.

Coordinates are free (a drawing is scaled to its bounding box later): x to the right, y down.
Angles are in degrees, clockwise on the screen, 0 to the right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""Vertices of a polygon, (n, 2)."""


def polygon(*vertices: tuple[float, float]) -> Points:
    """The polygon with these vertices."""
    return np.array(vertices, dtype=np.float64)


def ellipse(
    x: float,
    y: float,
    rx: float,
    ry: float | None = None,
    *,
    start: float = 0.0,
    stop: float = 360.0,
    count: int = 32,
) -> Points:
    """An ellipse, or the part of it from ``start`` to ``stop`` closed by its chord."""
    closed = stop - start >= 360.0
    angle = np.radians(np.linspace(start, stop, count, endpoint=not closed))
    radius_y = rx if ry is None else ry
    return np.stack([x + rx * np.cos(angle), y + radius_y * np.sin(angle)], axis=1)


def box(x0: float, y0: float, x1: float, y1: float, radius: float = 0.0) -> Points:
    """An upright rectangle with rounded corners."""
    if radius <= 0:
        return polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    r = min(radius, (x1 - x0) / 2, (y1 - y0) / 2)
    corners = [(x1 - r, y1 - r, 0), (x0 + r, y1 - r, 90), (x0 + r, y0 + r, 180)]
    corners.append((x1 - r, y0 + r, 270))
    return np.concatenate(
        [ellipse(x, y, r, start=angle, stop=angle + 90, count=5) for x, y, angle in corners]
    )


def smooth(
    vertices: Sequence[tuple[float, float]] | Points, *, closed: bool = True, steps: int = 6
) -> Points:
    """The Catmull-Rom curve through the vertices, ``steps`` points per span."""
    knots = np.asarray(vertices, dtype=np.float64)
    if closed:
        padded = np.concatenate([knots[-1:], knots, knots[:2]])
    else:
        padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    p0, p1, p2, p3 = (padded[i : len(padded) - 3 + i, None, :] for i in range(4))
    t = np.linspace(0.0, 1.0, steps, endpoint=False)[None, :, None]
    curve = 0.5 * (
        2 * p1
        + (p2 - p0) * t
        + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
        + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    points: Points = curve.reshape(-1, 2)
    return points if closed else np.concatenate([points, knots[-1:]])


def lathe(profile: Sequence[tuple[float, float]], *, rounded: bool = True) -> Points:
    """A shape symmetric in x from (y, half width) pairs, top to bottom."""
    right = np.array([(half, y) for y, half in profile], dtype=np.float64)
    if rounded:
        right = smooth(right, closed=False, steps=5)
        right[:, 0] = np.maximum(right[:, 0], 0.0)
    return np.concatenate([right, right[::-1] * (-1.0, 1.0)])


def limb(
    path: Sequence[tuple[float, float]] | Points, width: float, tip: float | None = None
) -> list[Points]:
    """A stroke along ``path`` whose width goes from ``width`` to ``tip``, with round joints.

    Given as convex pieces, so that a stroke that crosses itself leaves no hole.
    """
    spine = np.asarray(path, dtype=np.float64)
    half = np.linspace(width, width if tip is None else tip, len(spine)) / 2
    step = np.diff(spine, axis=0)
    length = np.maximum(np.hypot(step[:, 0], step[:, 1]), 1e-9)
    normal = np.stack([-step[:, 1], step[:, 0]], axis=1) / length[:, None]
    pieces = [ellipse(x, y, r, count=10) for (x, y), r in zip(spine, half, strict=True)]
    for i, side in enumerate(normal):
        a, b = side * half[i], side * half[i + 1]
        pieces.append(np.array([spine[i] + a, spine[i + 1] + b, spine[i + 1] - b, spine[i] - a]))
    return pieces


def ring(x: float, y: float, rx: float, ry: float, width: float) -> list[Points]:
    """A closed elliptic stroke."""
    circle = ellipse(x, y, rx, ry, count=24)
    return limb(np.concatenate([circle, circle[:1]]), width)


def turned(points: Points, degrees: float, x: float = 0.0, y: float = 0.0) -> Points:
    """The points turned clockwise about (x, y)."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    center = np.array([x, y])
    result: Points = (points - center) @ np.array([[c, s], [-s, c]]) + center
    return result


def both_sides(pieces: Sequence[Points]) -> list[Points]:
    """The pieces, and the pieces with x reversed."""
    return [*pieces, *(piece * (-1.0, 1.0) for piece in pieces)]


def lumps(rng: np.random.Generator, x: float, y: float, rx: float, ry: float, *, n: int) -> Points:
    """An ellipse with ``n`` random lumps: a crown, a cloud, a stone."""
    angle = np.linspace(0, 2 * math.pi, 2 * n, endpoint=False) + rng.uniform(0, math.pi)
    radius = rng.uniform(0.85, 1.1, 2 * n)
    radius[::2] *= rng.uniform(0.75, 0.95)
    knots = np.stack([x + rx * radius * np.cos(angle), y + ry * radius * np.sin(angle)], axis=1)
    return smooth(knots, steps=4)
