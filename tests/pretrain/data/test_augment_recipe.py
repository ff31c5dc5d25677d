"""The device's colors against the usual recipe: Pillow images and torchvision's transforms."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision import transforms as T
from torchvision.transforms import functional as tv

from pretrain.data.augment import (
    BRIGHTNESS,
    CONTRAST,
    FACTORS,
    FLIP,
    GRAY,
    HUE,
    SATURATION,
    SIGMA,
    SOLARIZE,
    AugmentSettings,
    apply,
    draw,
    identity,
)

SIDE = 48
PLAIN = AugmentSettings(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), blur_reference=SIDE)


def scene(seed: int) -> Image.Image:
    """Soft colors, a few hard edges, a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    waves = [np.sin(5 * (a * x + b * y) + 3 * c) for a, b, c in rng.uniform(0, 2, (3, 3))]
    pixels = rng.uniform(70, 180, 3) + 60 * np.stack(waves, -1)
    for _ in range(4):
        x1, y1 = rng.integers(0, SIDE - 12, 2)
        w, h = rng.integers(8, 28, 2)
        pixels[y1 : y1 + h, x1 : x1 + w] = rng.uniform(0, 255, 3)
    pixels += rng.normal(0, 4, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def ours(image: Image.Image, column: int, value: float, jitter: bool = False) -> torch.Tensor:
    parameters = identity()
    if jitter:
        parameters[FACTORS][column] = value
    else:
        parameters[column] = value
    return apply(tensor(image)[None], torch.from_numpy(parameters)[None], PLAIN)[0] * 255


# Of 255: greatest mean difference allowed in any image, and of the means of all images. Pillow
# rounds after each operation, keeps hue in 8 bits and blurs with three boxes.
OPERATIONS = {
    "brightness": (BRIGHTNESS, True, tv.adjust_brightness, (0.6, 1.0, 1.4), 0.6, 0.6),
    "contrast": (CONTRAST, True, tv.adjust_contrast, (0.6, 1.0, 1.4), 0.8, 0.7),
    "saturation": (SATURATION, True, tv.adjust_saturation, (0.6, 1.0, 1.4), 0.8, 0.7),
    "hue": (HUE, True, tv.adjust_hue, (-0.1, 0.04, 0.1), 2.0, 0.7),
    "gray": (GRAY, False, lambda i, _: tv.rgb_to_grayscale(i, 3), (1.0,), 0.6, 0.6),
    "blur": (
        SIGMA,
        False,
        lambda i, s: i.filter(ImageFilter.GaussianBlur(s)),
        (0.3, 1.0, 2.0),
        1.3,
        0.3,
    ),
    "solarize": (SOLARIZE, False, lambda i, _: tv.solarize(i, 128), (1.0,), 1e-3, 1e-3),
    "flip": (FLIP, False, lambda i, _: tv.hflip(i), (1.0,), 1e-3, 1e-3),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_pillows_image_by_image(name):
    column, jitter, operation, values, most, shift = OPERATIONS[name]
    signed = []
    for seed in range(12):
        image = scene(seed)
        for value in values:
            expected = tensor(operation(image, value)).float()
            found = ours(image, column, value, jitter)
            assert (found - expected).abs().mean() <= most
            signed.append((found - expected).mean())
            if value == values[-1] and name != "gray":  # the operation does something
                assert (tensor(image).float() - expected).abs().mean() > 0.5
    assert abs(float(torch.stack(signed).mean())) <= shift


class PillowBlur:
    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def usual_recipe(p: AugmentSettings) -> T.Compose:
    """MoCo v2's, as usually written."""
    return T.Compose(
        [
            T.RandomApply([T.ColorJitter(*p.jitter)], p=p.jitter_p),
            T.RandomGrayscale(p=p.gray_p),
            T.RandomApply([PillowBlur()], p=p.blur_p),
            T.RandomHorizontalFlip(p.flip_p),
            T.ToTensor(),
            T.Normalize(p.mean, p.std),
        ]
    )


def measurements(views: torch.Tensor) -> dict[str, np.ndarray]:
    """Per view: level and contrast of the channels, color, sharpness, and which way it looks."""
    right = views[..., SIDE // 2 :].mean((1, 2, 3)) - views[..., : SIDE // 2].mean((1, 2, 3))
    found = {
        "colour": (views.amax(1) - views.amin(1)).mean((1, 2)),
        "sharpness": views.diff(dim=-1).abs().mean((1, 2, 3)),
        "sides": right,
    }
    for channel, name in enumerate(("red", "green", "blue")):
        found[f"{name} mean"] = views[:, channel].mean((1, 2))
        found[f"{name} deviation"] = views[:, channel].std((1, 2))
    return {name: value.numpy() for name, value in found.items()}


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Greatest difference of two empirical distributions."""
    both = np.sort(np.concatenate([a, b]))
    return float(
        np.abs(
            np.searchsorted(np.sort(a), both, "right") / len(a)
            - np.searchsorted(np.sort(b), both, "right") / len(b)
        ).max()
    )


# Rounding moves values near a boundary: gray is exact here and off by up to 1 there, and the
# statistics of untouched views are ties; so 0.01 on top of chance.
SLACK = 0.01


def test_the_whole_recipe_has_the_usual_distribution():
    trials, image = 700, scene(3)
    settings = AugmentSettings(blur_reference=SIDE)
    theirs_of = usual_recipe(settings)
    torch.manual_seed(0)
    random.seed(0)
    theirs = measurements(torch.stack([theirs_of(image) for _ in range(trials)]))
    table = np.stack([draw(np.random.default_rng(n), settings, SIDE) for n in range(trials)])
    images = tensor(image)[None].expand(trials, -1, -1, -1)
    found = measurements(apply(images, torch.from_numpy(table), settings))
    # 1.95 sqrt(2 / n) is exceeded by chance once in a thousand.
    limit = 1.95 * math.sqrt(2 / trials) + SLACK
    for name, values in found.items():
        assert distance(values, theirs[name]) < limit, name
        spread = theirs[name].std()
        assert abs(values.mean() - theirs[name].mean()) < 4 * spread * math.sqrt(2 / trials), name
        assert abs(values.std() / spread - 1) < 0.15, name


def test_the_comparison_can_fail():
    """Another strength of one operation is seen."""
    trials, image = 700, scene(3)
    images = tensor(image)[None].expand(trials, -1, -1, -1)

    def of(settings: AugmentSettings, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        table = np.stack([draw(rng, settings, SIDE) for _ in range(trials)])
        return measurements(apply(images, torch.from_numpy(table), settings))

    usual = AugmentSettings(blur_reference=SIDE)
    limit = 1.95 * math.sqrt(2 / trials) + SLACK
    base = of(usual, 0)
    for change, name in (
        ({"blur_p": 0.2}, "sharpness"),
        ({"flip_p": 0.25}, "sides"),
        ({"gray_p": 0.4}, "colour"),
        ({"jitter": (0.7, 0.4, 0.4, 0.1)}, "red mean"),
    ):
        assert distance(base[name], of(usual.model_copy(update=change), 1)[name]) > limit, name
