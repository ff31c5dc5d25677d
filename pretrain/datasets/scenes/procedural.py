"""The procedural source: everything is drawn, nothing is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pretrain.datasets.scenes.backgrounds import BACKGROUNDS
from pretrain.datasets.scenes.clutter import fragment, stray
from pretrain.datasets.scenes.contexts import PROCEDURAL, Category, World
from pretrain.datasets.scenes.drawing import Sprite, Style, pose, render
from pretrain.datasets.scenes.forms import FORMS
from pretrain.datasets.scenes.scene_source import Background, Light, ObjectImage


@dataclass(frozen=True)
class ProceduralSource:
    """Objects from parametric forms, backgrounds from noise and patterns.

    Attributes:
        world: the categories and contexts to draw from; see ``World.only`` for a part of them.
    """

    world: World = PROCEDURAL

    name = "procedural"
    description = "Procedural scenes of many objects"
    clutter_shadows = False

    def info(self) -> dict[str, Any]:
        """See ``Source.info``."""
        return {} if self.world == PROCEDURAL else {"only_contexts": list(self.world.names)}

    def of_split(self, split: str) -> ProceduralSource:
        """See ``Source.of_split``: no two objects are the same, so nothing is held out."""
        return self

    def draw_object(
        self, category: Category, pixels: int, light: Light, rng: np.random.Generator
    ) -> ObjectImage:
        """See ``Source.draw_object``."""
        if category.pose == "free":
            turn = rng.uniform(0, 360)
        else:
            turn = float(rng.normal(0, 18 if category.pose == "leaning" else 5))
        drawing = FORMS[category.name](rng)
        transform = pose(rng, turn, flip=bool(rng.random() < 0.5))
        style = Style.draw(rng)
        return ObjectImage(render(drawing, style, transform, pixels, light.toward, rng=rng))

    def draw_background(self, context: str, size: int, rng: np.random.Generator) -> Background:
        """See ``Source.draw_background``."""
        return BACKGROUNDS[context](size, rng)

    def draw_clutter(self, size: int, light: Light, rng: np.random.Generator) -> Sprite:
        """See ``Source.draw_clutter``."""
        if rng.random() < 0.4:
            return fragment(self, rng, size, light)
        return stray(rng, size, light)
