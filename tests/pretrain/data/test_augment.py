from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torchvision.transforms import ColorJitter
from torchvision.transforms import functional as tv

from pretrain.core.errors import InputError
from pretrain.core.settings import parse
from pretrain.data import augment
from pretrain.data.augment import (
    BRIGHTNESS,
    CONTRAST,
    FACTORS,
    FLIP,
    GRAY,
    HUE,
    ORDER,
    PARAMETERS,
    SATURATION,
    SIGMA,
    SOLARIZE,
    AugmentSettings,
    ViewAugmentSettings,
    apply,
    blur_radius,
    draw,
    identity,
)

PLAIN = AugmentSettings(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
SIZE = 24


@pytest.fixture(params=["chosen samples", "all samples"])
def either_way(request, monkeypatch) -> None:
    """What a CPU does, and what an accelerator does."""
    if request.param == "all samples":
        monkeypatch.setattr(augment, "_selects", lambda device: False)


def some_images(count: int, size: int = SIZE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    images[0] = images[0, :1]  # gray
    images[-1, :, :4] = 0
    images[-1, :, 4:8] = 255
    return images


def table(count: int, **columns) -> torch.Tensor:
    parameters = torch.from_numpy(np.stack([identity()] * count))
    for name, values in columns.items():
        parameters[:, getattr(augment, name)] = torch.as_tensor(values, dtype=torch.float32)
    return parameters


def factors(count: int, kind: int, values) -> torch.Tensor:
    parameters = table(count)
    parameters[:, FACTORS][:, kind] = torch.as_tensor(values, dtype=torch.float32)
    return parameters


def each(images: torch.Tensor, operation, values) -> torch.Tensor:
    """torchvision's operation on every image as float in [0, 1], each with its own value."""
    return torch.stack(
        [operation(image.float() / 255, value) for image, value in zip(images, values, strict=True)]
    )


def test_parameters_that_change_nothing(either_way):
    images = some_images(5)
    settings = AugmentSettings()
    expected = (images.float() / 255 - torch.tensor(settings.mean).view(3, 1, 1)) / torch.tensor(
        settings.std
    ).view(3, 1, 1)
    found = apply(images, table(5), settings)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_settings_that_draw_nothing_are_the_identity():
    settings = AugmentSettings(jitter_p=0.0, gray_p=0.0, blur_p=0.0, flip_p=0.0)
    for seed in range(20):
        drawn = draw(np.random.default_rng(seed), settings, SIZE)
        np.testing.assert_array_equal(drawn[4:], identity()[4:])


# Tolerances: float32 arithmetic in another order; hue divides by the chroma.
@pytest.mark.parametrize(
    ("kind", "operation", "values", "tolerance"),
    [
        (BRIGHTNESS, tv.adjust_brightness, [0.0, 0.6, 1.0, 1.4, 2.0], 1e-6),
        (CONTRAST, tv.adjust_contrast, [0.0, 0.6, 1.0, 1.4, 2.0], 1e-6),
        (SATURATION, tv.adjust_saturation, [0.0, 0.6, 1.0, 1.4, 2.0], 1e-6),
        (HUE, tv.adjust_hue, [-0.5, -0.1, 0.05, 0.1, 0.5], 5e-6),
    ],
)
def test_color_operations_are_those_of_torchvision(either_way, kind, operation, values, tolerance):
    images = some_images(5)
    found = apply(images, factors(5, kind, values), PLAIN)
    assert (found - each(images, operation, values)).abs().max() < tolerance


def test_every_order_of_the_jitter_is_that_of_torchvision(either_way):
    orders = list(itertools.permutations(range(4)))
    images = some_images(24, 16)
    values = (1.4, 0.7, 1.3, 0.1)
    operations = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    parameters = table(24, ORDER=orders, FACTORS=[values] * 24)
    expected = []
    for image, order in zip(images, orders, strict=True):
        x = image.float() / 255
        for kind in order:
            x = operations[kind](x, values[kind])
        expected.append(x)
    found = apply(images, parameters, PLAIN)
    assert (found - torch.stack(expected)).abs().max() < 1e-5
    # and the order matters, so that the comparison can fail
    assert (found[0] - apply(images[:1], parameters[23:], PLAIN)[0]).abs().max() > 1e-2


def test_gray(either_way):
    images = some_images(4)
    found = apply(images, table(4, GRAY=[1, 0, 1, 0]), PLAIN)
    expected = images.float() / 255
    for number in (0, 2):
        expected[number] = tv.rgb_to_grayscale(expected[number], 3)
    assert (found - expected).abs().max() < 1e-6
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("size", [SIZE, 5])
def test_blur(either_way, size):
    settings = PLAIN.model_copy(update={"blur_sigma": (0.1, 2.0), "blur_reference": SIZE})
    images = some_images(4, size)
    sigmas = [0.1, 0.0, 1.3, 2.0]
    taps = 2 * blur_radius(settings, size) + 1
    assert taps == {SIZE: 13, 5: 5}[size]
    found = apply(images, table(4, SIGMA=sigmas), settings)
    for number, sigma in enumerate(sigmas):
        x = images[number].float() / 255
        expected = tv.gaussian_blur(x, [taps, taps], [sigma, sigma]) if sigma else x
        assert (found[number] - expected).abs().max() < 1e-6


def test_blur_grows_with_the_view():
    assert blur_radius(AugmentSettings(), 224) == 6
    assert blur_radius(AugmentSettings(), 448) == 12
    assert blur_radius(AugmentSettings(), 112) == 3
    settings = AugmentSettings(blur_p=1.0)
    large, small = (draw(np.random.default_rng(0), settings, size) for size in (224, 112))
    assert large[SIGMA] == pytest.approx(2 * small[SIGMA])


def test_solarize(either_way):
    images = some_images(4)
    found = apply(images, table(4, SOLARIZE=[1, 0, 0, 1]), PLAIN)
    for number, wanted in enumerate([1, 0, 0, 1]):
        expected = tv.solarize(images[number], 128) if wanted else images[number]
        assert (found[number] - expected.float() / 255).abs().max() < 1e-6


def test_flip(either_way):
    images = some_images(3)
    found = apply(images, table(3, FLIP=[0, 1, 1]), PLAIN)
    expected = images.float() / 255
    expected[1:] = expected[1:].flip(-1)
    assert torch.equal(found, expected)


def test_a_sample_does_not_depend_on_its_batch(either_way):
    images = some_images(8)
    settings = AugmentSettings(solarize_p=0.3)
    rng = np.random.default_rng(0)
    parameters = torch.from_numpy(np.stack([draw(rng, settings, SIZE) for _ in range(8)]))
    together = apply(images, parameters, settings)
    for number in range(8):
        alone = apply(images[number : number + 1], parameters[number : number + 1], settings)
        assert (alone[0] - together[number]).abs().max() < 1e-5


def test_both_ways_agree(monkeypatch):
    images = some_images(16)
    settings = AugmentSettings(solarize_p=0.3, blur_reference=SIZE)
    rng = np.random.default_rng(0)
    parameters = torch.from_numpy(np.stack([draw(rng, settings, SIZE) for _ in range(16)]))
    chosen = apply(images, parameters, settings)
    monkeypatch.setattr(augment, "_selects", lambda device: False)
    assert (chosen - apply(images, parameters, settings)).abs().max() < 1e-5
    assert torch.isfinite(chosen).all()


@pytest.mark.gpu
def test_cpu_and_gpu_agree():
    images = some_images(16)
    settings = AugmentSettings(solarize_p=0.3, blur_reference=SIZE)
    rng = np.random.default_rng(0)
    parameters = torch.from_numpy(np.stack([draw(rng, settings, SIZE) for _ in range(16)]))
    found = apply(images.cuda(), parameters.cuda(), settings)
    assert (found.cpu() - apply(images, parameters, settings)).abs().max() < 1e-3


def test_the_images_given_are_not_changed():
    images = some_images(3)
    before = images.clone()
    apply(images, table(3, FLIP=1, GRAY=1), PLAIN)
    assert torch.equal(images, before)


def test_float32_inside_autocast():
    images = some_images(3)
    parameters = table(3, SIGMA=1.5)
    with torch.autocast("cpu", torch.bfloat16):
        inside = apply(images, parameters, PLAIN)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, apply(images, parameters, PLAIN))


def test_drawn_with_the_wanted_frequencies_and_ranges():
    settings = AugmentSettings(solarize_p=0.2)
    trials = 4000
    drawn = np.stack([draw(np.random.default_rng(n), settings, 224) for n in range(trials)])
    assert drawn.shape == (trials, PARAMETERS)
    assert drawn.dtype == np.float32

    jittered = (drawn[:, FACTORS] != (1, 1, 1, 0)).any(1)
    for happened, share in (
        (jittered, 0.8),
        (drawn[:, GRAY] == 1, 0.2),
        (drawn[:, SIGMA] > 0, 0.5),
        (drawn[:, SOLARIZE] == 1, 0.2),
        (drawn[:, FLIP] == 1, 0.5),
    ):
        # 3.3 standard deviations: once in a thousand
        assert abs(happened.mean() - share) < 3.3 * np.sqrt(share * (1 - share) / trials)

    values = drawn[jittered][:, FACTORS]
    ranges = [(0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1)]
    ranges = list(zip(values.T, ranges, strict=True))
    for column, (low, high) in [*ranges, (drawn[drawn[:, SIGMA] > 0, SIGMA], (0.1, 2.0))]:
        assert column.min() >= np.float32(low)
        assert column.max() <= np.float32(high)
        counts, _ = np.histogram(column, bins=10, range=(low, high))
        expected = len(column) / 10
        assert ((counts - expected) ** 2 / expected).sum() < 27.9  # 9 degrees of freedom

    orders = np.unique(drawn[:, ORDER], axis=0, return_counts=True)[1]
    assert len(orders) == 24
    assert ((orders - trials / 24) ** 2 / (trials / 24)).sum() < 49.7  # 23 degrees of freedom


def test_ranges_are_those_of_torchvision():
    strengths = (1.5, 0.4, 0.0, 0.3)
    theirs = ColorJitter(*strengths)
    settings = AugmentSettings(jitter=strengths, jitter_p=1.0)
    drawn = np.stack([draw(np.random.default_rng(n), settings, 224)[FACTORS] for n in range(2000)])
    for kind, name in enumerate(("brightness", "contrast", "saturation", "hue")):
        low, high = getattr(theirs, name) or (1, 1)
        assert low <= drawn[:, kind].min() <= low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) <= drawn[:, kind].max() <= high


def test_probabilities_do_not_shift_other_choices():
    every = AugmentSettings(gray_p=1.0, blur_p=1.0, solarize_p=1.0, jitter_p=1.0)
    none = AugmentSettings(gray_p=0.0, blur_p=0.0, solarize_p=0.0, jitter_p=1.0)
    for seed in range(20):
        a, b = (draw(np.random.default_rng(seed), s, 224) for s in (every, none))
        np.testing.assert_array_equal(a[:8], b[:8])
        assert a[FLIP] == b[FLIP]


@pytest.mark.parametrize(
    "values",
    [
        {"jitter": [0.4, 0.4, 0.4]},
        {"jitter": [0.4, 0.4, -0.4, 0.1]},
        {"jitter": [0.4, 0.4, 0.4, 0.6]},
        {"gray_p": 1.1},
        {"flip_p": -0.1},
        {"blur_sigma": [0.0, 1.0]},
        {"blur_sigma": [2.0, 1.0]},
        {"std": [0.2, 0.0, 0.2]},
        {"blur_p": float("nan")},
    ],
)
def test_impossible_settings(values):
    with pytest.raises(InputError, match=r"x\.yaml: "):
        parse(AugmentSettings, values, source="x.yaml", at="augment")


def test_the_layout_in_memory_does_not_matter(either_way):
    images = some_images(6)
    settings = AugmentSettings(blur_reference=SIZE)
    rng = np.random.default_rng(0)
    parameters = torch.from_numpy(np.stack([draw(rng, settings, SIZE) for _ in range(6)]))
    together = images.contiguous(memory_format=torch.channels_last)
    expected = apply(images, parameters, settings)
    assert torch.equal(apply(together, parameters, settings), expected)


def test_the_chain_is_one_graph(monkeypatch):
    """What is compiled for an accelerator traces without a break and computes the same."""
    monkeypatch.setattr(augment, "_selects", lambda device: False)
    traced = torch.compile(augment._apply, dynamic=False, fullgraph=True, backend="aot_eager")
    monkeypatch.setattr(augment, "_fused", lambda: traced)
    images = some_images(4)
    settings = AugmentSettings(blur_reference=SIZE)
    rng = np.random.default_rng(0)
    parameters = torch.from_numpy(np.stack([draw(rng, settings, SIZE) for _ in range(4)]))
    found = augment.apply_compiled(images, parameters, settings)
    assert (found - apply(images, parameters, settings)).abs().max() < 1e-5


def test_views_of_other_probabilities_share_what_is_compiled(monkeypatch):
    """A compilation takes a minute; a size or a blur that reaches further needs one of its own."""
    compiled = []

    def count(module, _):
        compiled.append(module)
        return module.forward

    torch._dynamo.reset()
    monkeypatch.setattr(augment, "_selects", lambda device: False)
    traced = torch.compile(augment._apply, dynamic=False, fullgraph=True, backend=count)
    monkeypatch.setattr(augment, "_fused", lambda: traced)
    settings = AugmentSettings(
        views={
            "b": ViewAugmentSettings(blur_p=1.0, solarize_p=0.2),
            "c": ViewAugmentSettings(blur_sigma=(0.1, 90.0)),
        },
    )

    def augmented(size: int, view: str) -> None:
        images = torch.zeros(2, 3, size, size, dtype=torch.uint8)
        parameters = torch.from_numpy(np.stack([augment.identity()] * 2))
        augment.apply_compiled(images, parameters, settings.of(view))

    for size, view, number in ((16, "a", 1), (16, "b", 1), (16, "c", 2), (8, "a", 3), (8, "b", 3)):
        augmented(size, view)
        assert len(compiled) == number
