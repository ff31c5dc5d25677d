"""A source of scenes from photographs: cut-outs with an alpha channel, before backgrounds."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pretrain.datasets.scenes import sprites
from pretrain.datasets.scenes.clutter import fragment, stray
from pretrain.datasets.scenes.contexts import Category, World
from pretrain.datasets.scenes.drawing import Sprite, pose
from pretrain.datasets.scenes.outlines import lumps, polygon
from pretrain.datasets.scenes.scene_source import Background, Light, ObjectImage

VERSION = "1"
"""Of what is drawn: it changes whenever the same seed and pictures give other bytes."""
TURN = {"upright": 6.0, "leaning": 18.0}
"""Standard deviation of the turn of what has an upright, degrees."""
CROP = (0.45, 1.0)
"""Part of a background that is shown, as a share of its shorter side."""
SHADOWS = 0.5
"""Share of scenes with shadows."""
CLUTTER_SIDE = (0.08, 0.5)
"""Shortest and longest clutter, as a share of the image's side (log-uniform)."""
CLUTTER = {"distractor": 0.35, "patch": 0.3, "fragment": 0.2, "stray": 0.15}
"""What clutter is, and how often."""


@dataclass(frozen=True)
class Picture:
    """A picture file, and what to call it in manifests."""

    name: str
    path: Path


@dataclass(frozen=True)
class Bank:
    """What may be shown in one split.

    Attributes:
        objects: cut-outs by category.
        distractors: cut-outs that are shown and not annotated.
        backgrounds: photographs.
    """

    objects: Mapping[str, tuple[Picture, ...]]
    distractors: tuple[Picture, ...]
    backgrounds: tuple[Picture, ...]


@dataclass(frozen=True)
class CutoutSource:
    """Scenes of photographed objects.

    A pasted object can be told from its surroundings by its edge alone, and a network would
    learn that instead of objects. So much else is pasted as well, in the same way and with the
    same shadows: objects that are not annotated, pieces of other backgrounds in random outlines,
    corners of objects, drawn lumps. The edges are crisp, feathered or blurred, each in its turn,
    and over everything lie light, lens blur, sensor noise and JPEG.

    Attributes:
        name: of the source.
        description: of its scenes.
        world: categories and contexts.
        banks: by split.
        versions: of the packages that the pictures are from.
        split: that is shown.
    """

    name: str
    description: str
    world: World
    banks: Mapping[str, Bank]
    versions: Mapping[str, str]
    split: str = "train"
    clutter_shadows = True

    def info(self) -> dict[str, Any]:
        """See ``Source.info``: the packages, and a hash of which picture is in which split."""
        names = {
            split: {
                "objects": {name: [p.name for p in some] for name, some in bank.objects.items()},
                "distractors": [picture.name for picture in bank.distractors],
                "backgrounds": [picture.name for picture in bank.backgrounds],
            }
            for split, bank in self.banks.items()
        }
        digest = hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()
        counts = {
            split: {
                "cutouts": sum(len(some) for some in bank.objects.values()),
                "distractors": len(bank.distractors),
                "backgrounds": len(bank.backgrounds),
            }
            for split, bank in self.banks.items()
        }
        return {
            "source_version": VERSION,
            "packages": dict(self.versions),
            "pictures": counts,
            "pictures_sha256": digest,
        }

    def of_split(self, split: str) -> CutoutSource:
        """See ``Source.of_split``."""
        return replace(self, split=split)

    @property
    def bank(self) -> Bank:
        """What may be shown."""
        return self.banks[self.split]

    def draw_object(
        self, category: Category, pixels: int, light: Light, rng: np.random.Generator
    ) -> ObjectImage:
        """See ``Source.draw_object``; what is small stays small, for a picture is only so sharp."""
        some = self.bank.objects[category.name]
        picture = some[int(rng.integers(len(some)))]
        upright = TURN.get(category.pose)
        turn = rng.uniform(0, 360) if upright is None else float(rng.normal(0, upright))
        return ObjectImage(self._sprite(picture, turn, pixels, rng), picture.name)

    def draw_background(self, context: str, size: int, rng: np.random.Generator) -> Background:
        """See ``Source.draw_background``: any photograph, whatever the context."""
        some = self.bank.backgrounds
        picture = some[int(rng.integers(len(some)))]
        part = _crop(sprites.load_photo(picture.path), CROP, size, rng)
        image = sprites.tinted(np.asarray(part, np.float32) / 255, rng)
        shadow = rng.uniform(0.4, 1.0) if rng.random() < SHADOWS else 0.0
        return Background(image, None, shadow, picture.name)

    def draw_clutter(self, size: int, light: Light, rng: np.random.Generator) -> Sprite:
        """See ``Source.draw_clutter``."""
        kind = sprites.pick(CLUTTER, rng)
        if kind == "fragment":
            return fragment(self, rng, size, light)
        if kind == "stray":
            return sprites.edged(stray(rng, size, light), rng)
        share = math.exp(rng.uniform(math.log(CLUTTER_SIDE[0]), math.log(CLUTTER_SIDE[1])))
        pixels = max(8, round(share * size))
        if kind == "patch" or not self.bank.distractors:
            return self._patch(pixels, rng)
        some = self.bank.distractors
        picture = some[int(rng.integers(len(some)))]
        turn = float(rng.normal(0, TURN["leaning"]))
        return self._sprite(picture, turn, pixels, rng)

    def _sprite(
        self, picture: Picture, turn: float, pixels: int, rng: np.random.Generator
    ) -> Sprite:
        transform = pose(rng, turn, flip=bool(rng.random() < 0.5))
        sprite = sprites.posed(sprites.load_cutout(picture.path), transform, pixels)
        sprite[..., :3] = sprites.tinted(sprite[..., :3], rng)
        return sprites.edged(sprite, rng)

    def _patch(self, pixels: int, rng: np.random.Generator) -> Sprite:
        """A piece of some background in a random outline."""
        some = self.bank.backgrounds
        picture = some[int(rng.integers(len(some)))]
        part = _crop(sprites.load_photo(picture.path), (0.1, 0.6), pixels, rng)
        fine = 4
        if rng.random() < 0.5:
            outline = lumps(rng, 0, 0, 1, rng.uniform(0.1, 0.5), n=int(rng.integers(4, 9)))
        else:
            angles = np.sort(rng.uniform(0, 2 * math.pi, int(rng.integers(3, 8))))
            outline = polygon(*zip(np.cos(angles), np.sin(angles), strict=True))
        low, high = outline.min(axis=0), outline.max(axis=0)
        corners = (outline - low) / float((high - low).max()) * (pixels * fine)
        mask = Image.new("L", (pixels * fine, pixels * fine))
        ImageDraw.Draw(mask).polygon(corners.ravel().tolist(), fill=255)
        rgb = sprites.tinted(np.asarray(part, np.float32) / 255, rng)
        alpha = np.asarray(mask.reduce(fine), np.float32)[..., None] / 255
        return sprites.edged(np.concatenate([rgb, alpha], axis=2), rng)


def _crop(
    photo: Image.Image, share: tuple[float, float], size: int, rng: np.random.Generator
) -> Image.Image:
    """A random square of a photograph, mirrored half the time, as ``size`` x ``size``."""
    side = min(photo.size) * rng.uniform(*share)
    x, y = rng.uniform(0, photo.width - side), rng.uniform(0, photo.height - side)
    part = photo.resize((size, size), Image.Resampling.BILINEAR, (x, y, x + side, y + side))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part
