"""The procedural source: everything is drawn, nothing is read."""

from __future__ import annotations

import numpy as np

from pretrain.data.scenes.backgrounds import BACKGROUNDS
from pretrain.data.scenes.contexts import Category
from pretrain.data.scenes.drawing import Sprite, Style, pose, render
from pretrain.data.scenes.forms import FORMS
from pretrain.data.scenes.source import Background, Light


class ProceduralSource:
    """Objects from parametric forms, backgrounds from noise and patterns."""

    name = "procedural"

    def draw_object(
        self, category: Category, pixels: int, light: Light, rng: np.random.Generator
    ) -> Sprite:
        """See ``Source.draw_object``."""
        if category.pose == "free":
            turn = rng.uniform(0, 360)
        else:
            turn = float(rng.normal(0, 18 if category.pose == "leaning" else 5))
        drawing = FORMS[category.name](rng)
        transform = pose(rng, turn, flip=bool(rng.random() < 0.5))
        return render(drawing, Style.draw(rng), transform, pixels, light.toward, rng=rng)

    def draw_background(self, context: str, size: int, rng: np.random.Generator) -> Background:
        """See ``Source.draw_background``."""
        return BACKGROUNDS[context](size, rng)
