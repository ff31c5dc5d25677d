"""Colors, noise and patterns, shared by objects and backgrounds."""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.float32]
"""A scalar per pixel, (h, w)."""
Color = NDArray[np.float32]
"""Red, green, blue in [0, 1], (3,)."""

Span = tuple[float, float]


def color(
    rng: np.random.Generator,
    hue: Span = (0.0, 1.0),
    saturation: Span = (0.0, 1.0),
    value: Span = (0.0, 1.0),
) -> Color:
    """A random color; hue 0 and 1 are red, and ranges may leave [0, 1]."""
    h, s, v = rng.uniform(*hue) % 1.0, rng.uniform(*saturation), rng.uniform(*value)
    return np.array(colorsys.hsv_to_rgb(h, s, v), dtype=np.float32)


def mix(first: NDArray[np.float32], second: NDArray[np.float32], share: Field) -> Field:
    """``first`` where ``share`` is 0, ``second`` where it is 1: (h, w, 3)."""
    result: Field = first + (second - first) * share[..., None]
    return result


def noise(
    rng: np.random.Generator,
    height: int,
    width: int,
    cells: tuple[float, float],
    *,
    octaves: int = 4,
    persistence: float = 0.5,
) -> Field:
    """Smooth noise of several octaves in about [0, 1].

    Args:
        rng: source of the random grids.
        height: in pixels.
        width: in pixels.
        cells: cells of the coarsest grid, (down, across); unequal ones give grain.
        octaves: each doubles the cells, while they stay coarser than pixels.
        persistence: weight of each octave relative to the one before.
    """
    total = np.zeros((height, width), dtype=np.float32)
    weight, weights = 1.0, 0.0
    down, across = cells
    for _ in range(octaves):
        rows = min(max(2, round(down) + 1), height)
        columns = min(max(2, round(across) + 1), width)
        grid = rng.random((rows, columns), dtype=np.float32)
        image = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        total += np.float32(weight) * np.asarray(image)
        weights += weight
        weight *= persistence
        down, across = 2 * down, 2 * across
    result: Field = np.clip(total / np.float32(weights), 0.0, 1.0)
    return result


def ramp(value: Field, low: float, high: float) -> Field:
    """0 below ``low``, 1 above ``high``, linear between."""
    result: Field = np.clip((value - np.float32(low)) / np.float32(high - low), 0.0, 1.0)
    return result


def wave(t: Field, duty: float, soft: Field | float) -> Field:
    """A square wave of period 1, 1 for the share ``duty``; edges ``soft`` wide (antialiasing)."""
    distance = np.abs(t - np.floor(t) - 0.5)
    result: Field = np.clip((duty / 2 - distance) / np.maximum(soft, 1e-4) + 0.5, 0.0, 1.0)
    return result


PATTERNS = ("plain", "stripes", "dots", "checks", "zigzag", "mottled", "fade")
_ODDS = (0.30, 0.16, 0.11, 0.09, 0.07, 0.15, 0.12)


@dataclass(frozen=True)
class Pattern:
    """How a surface mixes its two colors, over object coordinates (longest side 1)."""

    kind: str
    frequency: float
    cos: float
    sin: float
    duty: float
    phase: float
    strength: float

    @staticmethod
    def draw(rng: np.random.Generator) -> Pattern:
        """A random pattern."""
        turn = rng.uniform(0, math.pi)
        return Pattern(
            kind=PATTERNS[int(rng.choice(len(PATTERNS), p=_ODDS))],
            frequency=float(np.exp(rng.uniform(math.log(3.5), math.log(13.0)))),
            cos=math.cos(turn),
            sin=math.sin(turn),
            duty=rng.uniform(0.3, 0.65),
            phase=rng.uniform(0, 1),
            strength=rng.uniform(0.35, 1.0),
        )

    def share(self, rng: np.random.Generator, x: Field, y: Field, pixel: float) -> Field:
        """The share of the second color; ``pixel`` is the side of a pixel in object units."""
        f, c, s = (np.float32(value) for value in (self.frequency, self.cos, self.sin))
        u: Field = c * x + s * y
        v: Field = c * y - s * x
        soft = min(float(f) * pixel * 1.5, 1.0)
        if self.kind == "plain":
            result = np.zeros_like(x)
        elif self.kind == "stripes":
            result = wave(f * u + np.float32(self.phase), self.duty, soft)
        elif self.kind == "checks":
            a, b = wave(f * u, 0.5, soft), wave(f * v, 0.5, soft)
            result = a + b - 2 * a * b
        elif self.kind == "dots":
            du, dv = f * u - np.floor(f * u) - 0.5, f * v - np.floor(f * v) - 0.5
            result = np.clip((self.duty * 0.6 - np.hypot(du, dv)) / soft + 0.5, 0.0, 1.0)
        elif self.kind == "zigzag":
            bend = np.abs(f * v - np.floor(f * v) - 0.5)
            result = wave(f * u + bend + np.float32(self.phase), self.duty, soft)
        elif self.kind == "fade":
            result = np.clip(1.2 * u + 0.5, 0.0, 1.0)
        else:
            h, w = x.shape
            cells = (max(float(f) * h * pixel, 1.0), max(float(f) * w * pixel, 1.0))
            result = ramp(noise(rng, h, w, cells, octaves=3), 0.3, 0.7)
        scaled: Field = (result * np.float32(self.strength)).astype(np.float32, copy=False)
        return scaled
