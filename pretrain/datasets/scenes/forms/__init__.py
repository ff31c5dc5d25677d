"""Forms: one function a category, giving the parts of a random member of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pretrain.datasets.scenes.drawing import Drawing
from pretrain.datasets.scenes.forms import kitchen, office, outdoors, sea, sky, street

Form = Callable[[np.random.Generator], Drawing]

FORMS: dict[str, Form] = {
    "mug": kitchen.mug,
    "bottle": kitchen.bottle,
    "teapot": kitchen.teapot,
    "pan": kitchen.pan,
    "fork": kitchen.fork,
    "table": office.table,
    "chair": office.chair,
    "lamp": office.lamp,
    "book": office.book,
    "clock": office.clock,
    "laptop": office.laptop,
    "plant": office.plant,
    "cat": street.cat,
    "dog": street.dog,
    "car": street.car,
    "bus": street.bus,
    "bicycle": street.bicycle,
    "traffic_light": street.traffic_light,
    "house": street.house,
    "tree": outdoors.tree,
    "fir": outdoors.fir,
    "mushroom": outdoors.mushroom,
    "flower": outdoors.flower,
    "butterfly": outdoors.butterfly,
    "snail": outdoors.snail,
    "bird": outdoors.bird,
    "fish": sea.fish,
    "starfish": sea.starfish,
    "jellyfish": sea.jellyfish,
    "octopus": sea.octopus,
    "crab": sea.crab,
    "boat": sea.boat,
    "anchor": sea.anchor,
    "airplane": sky.airplane,
    "balloon": sky.balloon,
    "kite": sky.kite,
    "rocket": sky.rocket,
    "planet": sky.planet,
    "satellite": sky.satellite,
    "ufo": sky.ufo,
}
