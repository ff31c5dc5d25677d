"""Where objects and backgrounds come from: what the composer asks of any source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pretrain.data.scenes.contexts import Category
from pretrain.data.scenes.drawing import Sprite


@dataclass(frozen=True)
class Light:
    """The light of one scene.

    Attributes:
        toward: unit vector on the screen (x right, y down) toward the light.
        gain: brightness per colour channel, (3,), about 1.
    """

    toward: tuple[float, float]
    gain: NDArray[np.float32]


@dataclass(frozen=True)
class Background:
    """What is behind the objects.

    Attributes:
        image: (size, size, 3) in [0, 1].
        horizon: height of the ground's far edge as a share of the image, or None without ground.
        shadow: how dark shadows are, 0 (none, as in space) to 1.
    """

    image: NDArray[np.float32]
    horizon: float | None
    shadow: float


class Source(Protocol):
    """A giver of objects and backgrounds: procedural here, photographic cut-outs as well."""

    name: str

    def draw_object(
        self, category: Category, pixels: int, light: Light, rng: np.random.Generator
    ) -> Sprite:
        """A random member of ``category`` in a random pose, longest side about ``pixels``."""
        ...

    def draw_background(self, context: str, size: int, rng: np.random.Generator) -> Background:
        """A random background of ``context``."""
        ...
