from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pretrain.datasets.scenes.clutter import fragment, stray
from pretrain.datasets.scenes.compose import MAX_LAYOUTS, OBJECTS, compose
from pretrain.datasets.scenes.contexts import CATEGORIES, PROCEDURAL, Category
from pretrain.datasets.scenes.layers import MIN_PIXELS, MIN_VISIBLE, Layer, visible
from pretrain.datasets.scenes.scene_source import Background, Light, ObjectImage


class Squares:
    """A source other than the procedural one: full squares on gray."""

    name = "squares"
    description = "Squares"
    world = PROCEDURAL
    clutter_shadows = False

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def draw_object(
        self, category: Category, pixels: int, light: Light, rng: np.random.Generator
    ) -> ObjectImage:
        sprite = np.zeros((pixels, pixels, 4), dtype=np.float32)
        sprite[..., CATEGORIES.index(category) % 3] = 1.0
        sprite[..., 3] = self.alpha
        return ObjectImage(sprite, f"square {pixels}")

    def info(self) -> dict[str, Any]:
        return {}

    def of_split(self, split: str) -> Squares:
        return self

    def draw_clutter(self, size: int, light: Light, rng: np.random.Generator) -> np.ndarray:
        return fragment(self, rng, size, light) if rng.random() < 0.4 else stray(rng, size, light)

    def draw_background(self, context: str, size: int, rng: np.random.Generator) -> Background:
        return Background(np.full((size, size, 3), 0.5, dtype=np.float32), None, 0.0, "grey")


def square(x: int, y: int, side: int, depth: float, labeled: bool = True) -> Layer:
    sprite = np.ones((side, side, 4), dtype=np.float32)
    return Layer(sprite, x, y, depth, CATEGORIES[0] if labeled else None)


def test_nearer_layers_cover_farther_ones() -> None:
    back, front = square(0, 0, 20, 0.1), square(10, 0, 20, 0.2)
    kept, masks = visible([back, front], 64)
    assert kept == [back, front]
    assert masks[0].sum() == 200
    assert masks[1].sum() == 400
    assert not (masks[0] & masks[1]).any()


def test_what_is_mostly_hidden_goes_and_hides_nothing() -> None:
    # The middle one shows 30 %; without it the last one is covered by the front one alone.
    last, middle, front = square(0, 0, 20, 0.1), square(0, 0, 20, 0.2), square(0, 6, 20, 0.3)
    kept, masks = visible([last, middle, front], 64)
    assert kept == [front]
    last = square(0, 0, 40, 0.1)
    kept, masks = visible([last, middle, front], 64)
    assert kept == [last, front]
    assert masks[0].sum() == 1600 - 400


def test_the_threshold_is_exact() -> None:
    for hidden, remains in ((13, True), (14, False)):
        kept, _ = visible([square(0, 0, 20, 0.1), square(0, 20 - hidden, 20, 0.2)], 64)
        assert len(kept) == (2 if remains else 1)
    assert MIN_VISIBLE == 0.35


def test_the_border_hides_too_and_small_ones_go() -> None:
    assert visible([square(-14, 5, 20, 0.0)], 64)[0] == []
    assert len(visible([square(-12, 5, 20, 0.0)], 64)[0]) == 1
    assert visible([square(5, 5, 6, 0.0)], 64)[0] == []
    assert len(visible([square(5, 5, 7, 0.0)], 64)[0]) == 1
    assert MIN_PIXELS == 40


def test_clutter_occludes_but_is_no_object() -> None:
    kept, masks = visible([square(0, 0, 20, 0.1), square(0, 10, 20, 0.2, labeled=False)], 64)
    assert [layer.category for layer in kept] == [CATEGORIES[0], None]
    assert masks[0].sum() == 200


def test_any_source_can_be_composed_and_masks_are_where_its_colors_are() -> None:
    matches = []
    for seed in range(6):
        scene = compose(Squares(), 128, 0.0, np.random.default_rng(seed))
        image = scene.image.astype(np.float64)
        for item in scene.objects:
            channel = CATEGORIES.index(item.category) % 3
            matches.append((image[item.mask].argmax(axis=1) == channel).mean())
    assert len(matches) > 15
    assert np.mean(matches) > 0.95  # sensor noise and blur flip a few


def test_a_source_that_shows_nothing_is_reported() -> None:
    with pytest.raises(RuntimeError, match="source 'squares' gives objects"):
        compose(Squares(alpha=0.1), 64, 0.0, np.random.default_rng(0))
    assert MAX_LAYOUTS > 100


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_objects_belong_to_the_context_except_the_foreign_one(share: float) -> None:
    for seed in range(12):
        scene = compose(Squares(), 64, share, np.random.default_rng(seed))
        home = PROCEDURAL.contexts[scene.context]
        assert OBJECTS[0] <= len(scene.objects) <= OBJECTS[1]
        assert sum(item.foreign for item in scene.objects) == share
        for item in scene.objects:
            assert (item.category not in home) == item.foreign


def test_the_share_of_foreign_objects_is_the_one_asked_for() -> None:
    count, share = 600, 0.2
    hits = 0
    for seed in range(count):
        scene = compose(Squares(), 64, share, np.random.default_rng([9, seed]))
        hits += any(item.foreign for item in scene.objects)
    deviation = np.sqrt(count * share * (1 - share))
    assert abs(hits - count * share) < 4 * deviation
