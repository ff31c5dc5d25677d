"""Where objects and backgrounds come from: the interface of a source of scenes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pretrain.datasets.scenes.contexts import Category, World
from pretrain.datasets.scenes.drawing import Sprite


@dataclass(frozen=True)
class Light:
    """The light of one scene.

    Attributes:
        toward: unit vector on the screen (x right, y down) toward the light.
        gain: brightness per color channel, (3,), about 1.
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
        name: which one it is, where there is a choice of given ones.
    """

    image: NDArray[np.float32]
    horizon: float | None
    shadow: float
    name: str | None = None


@dataclass(frozen=True)
class ObjectImage:
    """A drawn object; ``name`` says which individual it is, where those are given ones."""

    sprite: Sprite
    name: str | None = None


class Source(Protocol):
    """Gives objects and backgrounds. It is handed to worker processes, so it must pickle."""

    @property
    def name(self) -> str:
        """What the command line and manifests call it."""
        ...

    @property
    def description(self) -> str:
        """Its scenes in a few words."""
        ...

    @property
    def world(self) -> World:
        """The categories and contexts there are."""
        ...

    @property
    def clutter_shadows(self) -> bool:
        """Whether clutter casts shadows as objects do."""
        ...

    def info(self) -> dict[str, Any]:
        """What else determines the scenes, for the manifest."""
        ...

    def of_split(self, split: str) -> Source:
        """The part of the source that may be seen in a split ("train" or "val")."""
        ...

    def draw_object(
        self, category: Category, pixels: int, light: Light, rng: np.random.Generator
    ) -> ObjectImage:
        """A random member of ``category`` in a random pose, longest side about ``pixels``."""
        ...

    def draw_background(self, context: str, size: int, rng: np.random.Generator) -> Background:
        """A random background of ``context``."""
        ...

    def draw_clutter(self, size: int, light: Light, rng: np.random.Generator) -> Sprite:
        """Something that is no object of any category, for an image of ``size``."""
        ...
