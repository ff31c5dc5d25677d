from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pretrain.datasets.scenes.contexts import CATEGORIES, PROCEDURAL
from pretrain.datasets.scenes.forms import FORMS
from pretrain.datasets.scenes.procedural import ProceduralSource
from pretrain.datasets.scenes.scene_source import Light

LIGHT = Light((-0.6, -0.8), np.ones(3, dtype=np.float32))


def draw(number: int, pixels: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, number])
    return ProceduralSource().draw_object(CATEGORIES[number], pixels, LIGHT, rng).sprite


def test_every_category_has_a_form_and_one_or_two_contexts() -> None:
    assert [category.name for category in CATEGORIES] == list(FORMS)
    assert len(FORMS) >= 24
    contexts, foreign = PROCEDURAL.contexts, PROCEDURAL.foreign
    assert len(contexts) >= 6
    for category in CATEGORIES:
        assert 1 <= len(set(category.contexts)) <= 2
        assert set(category.contexts) <= set(contexts)
    for context in contexts:
        names = {c.name for c in contexts[context]} | {c.name for c in foreign[context]}
        assert names == set(FORMS)
        assert not {c.name for c in contexts[context]} & {c.name for c in foreign[context]}


@pytest.mark.parametrize("number", range(len(CATEGORIES)), ids=[c.name for c in CATEGORIES])
def test_sprites_are_sound_and_vary(number: int) -> None:
    silhouettes = []
    for seed in range(4):
        sprite = draw(number, 48, seed)
        assert sprite.dtype == np.float32
        assert np.isfinite(sprite).all()
        assert sprite.min() >= 0
        assert sprite.max() <= 1
        assert 44 <= max(sprite.shape[:2]) <= 52
        solid = sprite[..., 3] >= 0.5
        assert solid.sum() > 60
        # Antialiased: the outline has partly covered pixels.
        assert ((sprite[..., 3] > 0.05) & (sprite[..., 3] < 0.95)).any()
        silhouettes.append(solid.tobytes())
    assert len(set(silhouettes)) == 4


def test_same_stream_same_sprite() -> None:
    assert np.array_equal(draw(3, 40, 1), draw(3, 40, 1))


def test_color_tells_little_and_form_tells_much_of_the_category() -> None:
    labels, colors, forms = [], [], []
    for number in range(len(CATEGORIES)):
        for seed in range(12):
            sprite = draw(number, 32, 100 + seed)
            solid = sprite[..., 3] >= 0.5
            labels.append(number)
            colors.append(sprite[solid][:, :3].mean(axis=0))
            alpha = Image.fromarray((sprite[..., 3] * 255).astype(np.uint8))
            small = np.asarray(alpha.resize((12, 12), Image.Resampling.BOX), dtype=np.float64)
            ratio = np.log(sprite.shape[1] / sprite.shape[0])
            forms.append(np.append(small.ravel() / np.linalg.norm(small), 0.5 * ratio))

    def accuracy(features: list[np.ndarray]) -> float:
        table = np.stack(features)
        distance = ((table[:, None] - table[None]) ** 2).sum(axis=2)
        np.fill_diagonal(distance, np.inf)
        nearest = np.array(labels)[distance.argmin(axis=1)]
        return float((nearest == np.array(labels)).mean())

    assert accuracy(colors) < 0.10  # chance is 0.025
    assert accuracy(forms) > 0.5
