"""Forms: one function a category, giving the parts of a random member of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pretrain.datasets.scenes.drawing import Drawing
from pretrain.datasets.scenes.forms import kitchen, office, outdoors, sea, sky, street

Form = Callable[[np.random.Generator], Drawing]

FORMS: dict[str, Form] = {
    form.__name__: form
    for form in (
        *(kitchen.mug, kitchen.bottle, kitchen.teapot, kitchen.pan, kitchen.fork),
        *(office.table, office.chair, office.lamp, office.book, office.clock, office.laptop),
        *(office.plant, street.cat, street.dog, street.car, street.bus, street.bicycle),
        *(street.traffic_light, street.house, outdoors.tree, outdoors.fir, outdoors.mushroom),
        *(outdoors.flower, outdoors.butterfly, outdoors.snail, outdoors.bird),
        *(sea.fish, sea.starfish, sea.jellyfish, sea.octopus, sea.crab, sea.boat, sea.anchor),
        *(sky.airplane, sky.balloon, sky.kite, sky.rocket, sky.planet, sky.satellite, sky.ufo),
    )
}
"""By category."""
