"""Which categories exist, and to which contexts they belong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

Pose = Literal["upright", "leaning", "free"]
"""How far an object turns: a few degrees, some tens of degrees, any angle."""


@dataclass(frozen=True)
class Category:
    """One kind of object.

    Attributes:
        name: as in the annotations.
        contexts: the main context first, then others that it belongs to as well.
        pose: how far it turns.
        grounded: it stands on the ground where the background has one.
    """

    name: str
    contexts: tuple[str, ...]
    pose: Pose = "upright"
    grounded: bool = True


@dataclass(frozen=True)
class World:
    """What a source can show.

    Attributes:
        categories: all of them.
        names: of the contexts.
    """

    categories: tuple[Category, ...]
    names: tuple[str, ...]

    def only(self, names: tuple[str, ...]) -> World:
        """The part of the world in some of its contexts: categories whose main one is in it."""
        return World(
            tuple(
                replace(category, contexts=tuple(c for c in category.contexts if c in names))
                for category in self.categories
                if category.contexts[0] in names
            ),
            names,
        )

    @cached_property
    def contexts(self) -> dict[str, tuple[Category, ...]]:
        """The categories that belong to each context."""
        return {
            name: tuple(category for category in self.categories if name in category.contexts)
            for name in self.names
        }

    @cached_property
    def foreign(self) -> dict[str, tuple[Category, ...]]:
        """The categories out of place in each context."""
        return {
            name: tuple(category for category in self.categories if name not in category.contexts)
            for name in self.names
        }


CATEGORIES: tuple[Category, ...] = (
    Category("mug", ("kitchen", "office")),
    Category("bottle", ("kitchen",), "leaning"),
    Category("teapot", ("kitchen",)),
    Category("pan", ("kitchen",), "free", grounded=False),
    Category("fork", ("kitchen",), "free", grounded=False),
    Category("table", ("kitchen", "office")),
    Category("chair", ("office", "kitchen")),
    Category("lamp", ("office",)),
    Category("book", ("office",), "leaning"),
    Category("clock", ("office", "kitchen"), "leaning", grounded=False),
    Category("laptop", ("office",)),
    Category("plant", ("office",)),
    Category("cat", ("office", "street")),
    Category("dog", ("street", "forest")),
    Category("car", ("street",)),
    Category("bus", ("street",)),
    Category("bicycle", ("street",)),
    Category("traffic_light", ("street",)),
    Category("house", ("street",)),
    Category("tree", ("forest", "street")),
    Category("fir", ("forest",)),
    Category("mushroom", ("forest",)),
    Category("flower", ("forest",), "leaning"),
    Category("butterfly", ("forest",), "free", grounded=False),
    Category("snail", ("forest",), "leaning"),
    Category("bird", ("sky", "forest"), "leaning", grounded=False),
    Category("fish", ("sea",), "leaning", grounded=False),
    Category("starfish", ("sea",), "free", grounded=False),
    Category("jellyfish", ("sea",), "leaning", grounded=False),
    Category("octopus", ("sea",), "leaning", grounded=False),
    Category("crab", ("sea",), "leaning"),
    Category("boat", ("sea",), "leaning", grounded=False),
    Category("anchor", ("sea",), "leaning", grounded=False),
    Category("airplane", ("sky",), "free", grounded=False),
    Category("balloon", ("sky",), "upright", grounded=False),
    Category("kite", ("sky",), "leaning", grounded=False),
    Category("rocket", ("space", "sky"), "free", grounded=False),
    Category("planet", ("space",), "leaning", grounded=False),
    Category("satellite", ("space",), "free", grounded=False),
    Category("ufo", ("space", "sky"), "leaning", grounded=False),
)

PROCEDURAL = World(CATEGORIES, ("kitchen", "office", "street", "forest", "sea", "sky", "space"))
"""Of the embedded scenes."""
