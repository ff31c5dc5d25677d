"""From parts to pixels: antialiased, textured and shaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from pretrain.datasets.scenes.outlines import Points
from pretrain.datasets.scenes.textures import Color, Field, Pattern, color, mix

Sprite = NDArray[np.float32]
"""Straight (not premultiplied) red, green, blue, alpha in [0, 1], (h, w, 4)."""


@dataclass(frozen=True)
class Part:
    """Polygons of one material, painted after (so over) the parts before it.

    Attributes:
        role: "a", "b", "c": a free color of the object with a pattern; "dark", "pale", "metal",
            "glass": a material; "hole": cuts through to the background.
        pieces: polygons.
    """

    role: str
    pieces: Sequence[Points]


Drawing = list[Part]


@dataclass(frozen=True)
class Material:
    """Two colors and the pattern that mixes them."""

    first: Color
    second: Color
    pattern: Pattern


@dataclass(frozen=True)
class Style:
    """What one object looks like beside its form."""

    materials: dict[str, Material]
    relief: float
    rim: float

    @staticmethod
    def draw(rng: np.random.Generator) -> Style:
        """Random colors and patterns: hue is uniform, so color tells nothing of the category."""
        materials = {}
        vivid = (0.1, 0.85) if rng.random() < 0.8 else (0.0, 0.2)
        for role in ("a", "b", "c"):
            first = color(rng, saturation=vivid, value=(0.25, 0.95))
            second = color(rng, saturation=vivid, value=(0.15, 1.0))
            materials[role] = Material(first, second, Pattern.draw(rng))
        for role, value in {"dark": (0.05, 0.3), "metal": (0.35, 0.75), "pale": (0.7, 1.0)}.items():
            materials[role] = _tinted(rng, (0.0, 0.3), value)
        materials["glass"] = _tinted(rng, (0.05, 0.45), (0.3, 0.95))
        return Style(materials, relief=rng.uniform(0.25, 0.9), rim=rng.uniform(0.0, 0.6))


def _tinted(
    rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> Material:
    first = color(rng, saturation=saturation, value=value)
    second = np.clip(first * rng.uniform(0.6, 1.4), 0.0, 1.0).astype(np.float32)
    pattern = Pattern.draw(rng)
    fade = Pattern("fade", pattern.frequency, pattern.cos, pattern.sin, 0.5, 0.0, 1.0)
    return Material(first, second, fade)


def pose(rng: np.random.Generator, degrees: float, flip: bool) -> NDArray[np.float64]:
    """A random (2, 2) map: turn by ``degrees``, mirror, slight stretch and shear."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    stretch = math.exp(rng.uniform(-0.16, 0.16))
    form = np.array([[stretch, rng.uniform(-0.1, 0.1)], [0.0, 1 / stretch]])
    if flip:
        form[:, 0] *= -1
    result: NDArray[np.float64] = np.array([[c, -s], [s, c]]) @ form
    return result


def render(
    drawing: Drawing,
    style: Style,
    transform: NDArray[np.float64],
    pixels: int,
    light: tuple[float, float],
    *,
    rng: np.random.Generator,
) -> Sprite:
    """Paint the drawing so that its longest side is ``pixels`` long.

    Args:
        drawing: the parts, back to front.
        style: colors and textures.
        transform: (2, 2), applied to all outlines.
        pixels: longest side of the result.
        light: unit vector on the screen toward the light.
        rng: for textures.
    """
    moved = [[piece @ transform.T for piece in part.pieces] for part in drawing]
    corners = np.concatenate([piece for pieces in moved for piece in pieces])
    low, high = corners.min(axis=0), corners.max(axis=0)
    extent = float((high - low).max())
    scale = pixels / extent
    width, height = (max(3, math.ceil(side * scale)) for side in (high - low))
    fine = 4 if pixels < 100 else 3

    # One label per part on the fine grid: coverages of the parts then add up to the alpha
    # exactly, without seams where parts meet.
    labels = Image.new("L", (width * fine, height * fine))
    pen = ImageDraw.Draw(labels)
    boxes = []
    for number, (part, pieces) in enumerate(zip(drawing, moved, strict=True), start=1):
        value = 0 if part.role == "hole" else number
        scaled = [(piece - low) * (scale * fine) - 0.5 for piece in pieces]
        for piece in scaled:
            pen.polygon(piece.ravel().tolist(), fill=value)
        ends = np.concatenate(scaled) / fine
        x0, y0 = np.maximum(np.floor(ends.min(axis=0)).astype(int) - 1, 0)
        x1, y1 = np.minimum(np.ceil(ends.max(axis=0)).astype(int) + 1, (width, height))
        boxes.append((int(x0), int(y0), int(x1), int(y1)))
    fine_labels = np.asarray(labels)

    # Texture coordinates: the object's own frame, longest side 1.
    inverse = np.linalg.inv(transform)
    px = (np.arange(width, dtype=np.float32) + 0.5) / pixels
    py = (np.arange(height, dtype=np.float32) + 0.5) / pixels
    u = (inverse[0, 0] * px[None, :] + inverse[0, 1] * py[:, None]).astype(np.float32)
    v = (inverse[1, 0] * px[None, :] + inverse[1, 1] * py[:, None]).astype(np.float32)

    total = np.zeros((height, width, 4), dtype=np.float32)
    for number, (part, (x0, y0, x1, y1)) in enumerate(zip(drawing, boxes, strict=True), start=1):
        if part.role == "hole" or x1 <= x0 or y1 <= y0:
            continue
        own = fine_labels[y0 * fine : y1 * fine, x0 * fine : x1 * fine] == number
        cover = Image.fromarray(own.view(np.uint8) * np.uint8(255)).reduce(fine)
        coverage = np.asarray(cover, dtype=np.float32) / 255
        material = style.materials[part.role]
        share = material.pattern.share(rng, u[y0:y1, x0:x1], v[y0:y1, x0:x1], 1 / pixels)
        paint = mix(material.first, material.second, share)
        paint *= _shade(cover, light, style)[..., None]
        area = total[y0:y1, x0:x1]
        area[..., :3] += paint * coverage[..., None]
        area[..., 3] += coverage
    alpha = np.minimum(total[..., 3:], 1.0)
    rgb = np.clip(total[..., :3] / np.maximum(alpha, 1 / 512), 0.0, 1.0)
    return tight(np.concatenate([rgb, alpha], axis=2))


def _shade(cover: Image.Image, light: tuple[float, float], style: Style) -> Field:
    """Brightness of a part as if it bulged: blurred coverage is its height, (h, w)."""
    height, width = cover.height, cover.width
    if min(height, width) < 4:
        return np.ones((height, width), dtype=np.float32)
    radius = max(1.0, 0.16 * min(height, width))
    # Two box blurs are near a Gaussian and cost the same at any radius.
    relief = cover.filter(ImageFilter.BoxBlur(radius)).filter(ImageFilter.BoxBlur(radius))
    bulge = np.asarray(relief, dtype=np.float32) / 255
    slope = np.zeros((height, width), dtype=np.float32)
    slope[:, 1:-1] -= np.float32(light[0]) * (bulge[:, 2:] - bulge[:, :-2])
    slope[1:-1] -= np.float32(light[1]) * (bulge[2:] - bulge[:-2])
    lit = 1.0 + np.float32(style.relief * radius) * slope
    lit -= np.float32(style.rim) * (1.0 - bulge)
    shade: Field = np.clip(lit, 0.25, 1.7)
    return shade


def tight(sprite: Sprite) -> Sprite:
    """The sprite without empty borders."""
    solid = sprite[..., 3] >= 0.5
    if not solid.any():
        return sprite
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    y0, y1 = max(rows[0] - 1, 0), rows[-1] + 2
    x0, x1 = max(columns[0] - 1, 0), columns[-1] + 2
    return sprite[y0:y1, x0:x1]
