from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pretrain.data import device
from pretrain.data.augment import AugmentSettings, apply, draw
from pretrain.data.plan import Batch, Sources
from pretrain.data.views import resize

SIZE = 24
SIDES = {"a": SIZE, "b": SIZE}


def some_sources(count: int = 9, seed: int = 0) -> tuple[Sources, list[torch.Tensor]]:
    """Images of many sizes: soft colors with noise, windows from a pixel to the whole."""
    rng = np.random.default_rng(seed)
    images, windows = [], {"a": [], "b": []}
    for number in range(count):
        w, h = rng.integers(SIZE // 3, 150, 2).tolist()
        y, x = np.mgrid[0:h, 0:w] / 40
        pixels = 128 + 90 * np.sin(np.stack([x + y, 2 * x - y, 3 * y], -1))
        pixels = (pixels + rng.normal(0, 20, (h, w, 3))).clip(0, 255).astype(np.uint8)
        images.append(torch.from_numpy(pixels))
        windows["a"].append((0, 0, w, h))
        x1, y1 = rng.integers(0, w), rng.integers(0, h)
        windows["b"].append(
            (x1, y1, rng.integers(x1, w, endpoint=False) + 1, rng.integers(y1, h) + 1)
        )
        if number == 0:
            windows["b"][0] = (2, 3, 3, 4)
    sizes = torch.tensor([image.shape[1::-1] for image in images])
    lengths = 3 * sizes.prod(1)
    sources = Sources(
        torch.cat([image.flatten() for image in images]),
        lengths.cumsum(0) - lengths,
        sizes,
        {name: torch.tensor(value) for name, value in windows.items()},
        tuple(sizes.amax(0).tolist()),
    )
    return sources, [image.permute(2, 0, 1) for image in images]


def expected(sources: Sources, images: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: torch.stack(
            [
                resize(image, tuple(window.tolist()), SIZE)
                for image, window in zip(images, windows, strict=True)
            ]
        )
        for name, windows in sources.windows.items()
    }


def test_on_a_cpu_the_bytes_of_the_workers():
    sources, images = some_sources()
    for name, views in expected(sources, images).items():
        assert torch.equal(device.cut(sources, SIDES)[name], views)


@pytest.mark.parametrize("at_once", [True, False])
def test_on_an_accelerator_within_one(monkeypatch, at_once):
    """The way an accelerator cuts, computed here: max 1, mean 0.1 of 255."""
    monkeypatch.setattr(device, "_one_by_one", lambda _: False)
    if not at_once:
        monkeypatch.setattr(device, "PADDED_BYTES", 3 * 150 * 150 * 12)
    sources, images = some_sources(20, 1)
    found = device.cut(sources, SIDES)
    for name, views in expected(sources, images).items():
        assert found[name].dtype == torch.uint8
        difference = (found[name].int() - views.int()).abs()
        assert difference.max() <= 1
        assert difference.float().mean() <= 0.1


def test_matrix_is_the_antialiased_resize():
    """In float64 nothing rounds: the same weights as torch's."""
    values = torch.rand(1, 1, 1, 90, dtype=torch.float64)
    for start, stop in ((0, 90), (3, 80), (10, 20), (7, 8), (30, 54)):
        matrix = device.resize_matrix(torch.tensor([start]), torch.tensor([stop]), SIZE, 90)[0]
        assert torch.allclose(matrix.sum(1), torch.ones(SIZE))
        assert (matrix[:, :start] == 0).all()
        assert (matrix[:, stop:] == 0).all()
        theirs = F.interpolate(
            values[..., start:stop], (1, SIZE), mode="bilinear", antialias=True
        ).flatten()
        assert torch.allclose(matrix.double() @ values.flatten(), theirs, atol=1e-5)


def a_batch(count: int = 4) -> Batch:
    rng = np.random.default_rng(0)
    images = torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8)
    table = np.stack([draw(rng, AugmentSettings(), SIZE) for _ in range(count)])
    zeros = torch.zeros(count, dtype=torch.int64)
    return Batch({"a": images}, {"a": torch.from_numpy(table)}, zeros, zeros.bool(), [])


def test_views_are_augmented():
    batch, settings = a_batch(), AugmentSettings()
    found = device.views(batch, torch.device("cpu"), {"a": settings}, SIDES)["a"]
    assert torch.equal(found, apply(batch.images["a"], batch.augmentation["a"], settings))


def test_kind_and_layout_of_the_result():
    batch, settings = a_batch(), AugmentSettings()
    found = device.views(
        batch,
        torch.device("cpu"),
        {"a": settings},
        SIDES,
        dtype=torch.bfloat16,
        memory_format=torch.channels_last,
    )["a"]
    assert found.is_contiguous(memory_format=torch.channels_last)
    plain = apply(batch.images["a"], batch.augmentation["a"], settings)
    assert torch.equal(found, plain.to(torch.bfloat16))


@pytest.mark.gpu
def test_cutting_on_the_gpu():
    sources, images = some_sources(20, 1)
    found = device.cut(sources.pin_memory().to(torch.device("cuda")), SIDES)
    for name, views in expected(sources, images).items():
        difference = (found[name].cpu().int() - views.int()).abs()
        assert difference.max() <= 1
        assert difference.float().mean() <= 0.1


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_views_on_the_gpu(compiled):
    batch, settings = a_batch(8), AugmentSettings()
    found = device.views(batch, torch.device("cuda"), {"a": settings}, SIDES, compiled=compiled)[
        "a"
    ]
    plain = apply(batch.images["a"], batch.augmentation["a"], settings)
    assert (found.cpu() - plain).abs().max() < 5e-3
