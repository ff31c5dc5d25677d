"""One step of fine-tuning: golden losses, sampling, crops, clipping."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from finetune_parts import ALONE, COLORS, changed, settings_of
from PIL import Image
from torch import Tensor, nn

from downstream.retrieval.datasets import class_folders
from downstream.retrieval.finetune.images import CenteredImages, TrainImages, random_part
from downstream.retrieval.finetune.initial_network import build_network
from downstream.retrieval.finetune.loss import ball_points, metric_loss
from downstream.retrieval.finetune.network import Architecture, Network
from downstream.retrieval.finetune.sampler import UniqueClassSampler
from downstream.retrieval.finetune.settings import (
    AugmentSettings,
    LossSettings,
)
from downstream.retrieval.finetune.step import TrainStep
from pretrain.core.errors import InputError

GOLDEN = Path(__file__).parents[2] / "golden"


class Given(nn.Module):
    """A backbone whose output is a parameter: what the step does to it is seen in its gradient."""

    num_features = 128

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = nn.Parameter(features)

    def forward(self, images: Tensor) -> Tensor:
        return self.features[: len(images)]


def golden_step(raw: np.ndarray, loss: dict, values: dict) -> tuple[float, Tensor]:
    """Loss and gradient with respect to the head's output, through a whole step."""
    settings = settings_of(
        changed(
            values,
            loss={"clip_radius": 2.3, "curvature": 0.1, **loss},
            sampler={"classes": 10, "samples": 3},
            optim={"clip_norm": None},
        )
    )
    architecture = Architecture(
        library="timm",
        backbone="",
        options={},
        dim=128,
        tokens="mean",
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    given = Given(torch.from_numpy(raw).double().flatten(0, 1))
    network = Network(given, architecture).double()
    network.head = nn.Identity()
    stepper = TrainStep(settings, ALONE, network)
    done = stepper.run(torch.zeros(30, 3, 2, 2, dtype=torch.uint8), 0, stop=False)
    assert given.features.grad is not None
    return float(done.values["loss"]), given.features.grad.reshape(10, 3, 128)


SPHERE = {"geometry": "sphere"}
BALL = {"geometry": "ball"}
MIXED = {"geometry": "mixed", "temperature_hyperbolic": 0.2}
README = {"temperature_spherical": 0.05, "weight": 3.0}
RELEASED = {**MIXED, "ball_input": "unit"}


@pytest.mark.parametrize("numerics", ["exact", "official"])
@pytest.mark.parametrize(
    ("file", "case", "loss"),
    [
        ("hypvit", "sph_tau0.1", {**SPHERE, "temperature_spherical": 0.1}),
        ("hypvit", "sph_tau0.2", {**SPHERE, "temperature_spherical": 0.2}),
        ("hypvit", "hyp_tau0.2", {**BALL, "temperature_hyperbolic": 0.2}),
        ("hypvit", "hyp_tau0.05", {**BALL, "temperature_hyperbolic": 0.05}),
        (
            "hypmix",
            "te0.05_th0.2_lam3.0",
            {**RELEASED, "temperature_spherical": 0.05, "weight": 3.0},
        ),
        ("hypmix", "te0.1_th0.2_lam0.5", {**RELEASED, "temperature_spherical": 0.1, "weight": 0.5}),
        (
            "hypmix",
            "unnorm_te0.05_th0.2_lam3.0",
            {**MIXED, "temperature_spherical": 0.05, "weight": 3.0},
        ),
    ],
)
def test_golden_losses_through_the_step(file, case, loss, numerics, values):
    with np.load(GOLDEN / f"{file}_loss.npz") as archive:
        prefix, bound = ("exact", 1e-12) if numerics == "exact" else ("ref64", 1e-9)
        expected = float(archive[f"{case}_{prefix}_full_loss"])
        gradient = torch.from_numpy(archive[f"{case}_{prefix}_full_grad_raw"])
        found, grad = golden_step(archive["raw"], {**loss, "numerics": numerics}, values)
    assert found == pytest.approx(expected, rel=bound)
    assert float((grad - gradient).abs().max() / gradient.abs().max()) < bound


def test_sum_of_losses_is_the_sum():
    raw = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 3, 16)))
    both = LossSettings(geometry="mixed", combine="losses", weight=0.7)
    parts = [LossSettings(geometry="sphere"), LossSettings(geometry="ball")]
    sphere, ball = (metric_loss(raw, part) for part in parts)
    assert float(metric_loss(raw, both)) == pytest.approx(float(sphere + 0.7 * ball), rel=1e-12)
    joint = metric_loss(raw, both.model_copy(update={"combine": "logits"}))
    assert abs(float(joint - sphere - 0.7 * ball)) > 0.1


def test_released_ball_points_have_one_norm_and_raw_ones_do_not():
    raw = torch.from_numpy(np.random.default_rng(1).standard_normal((40, 16)))
    unit = ball_points(raw, LossSettings(geometry="mixed", ball_input="unit")).norm(dim=-1)
    assert unit.tolist() == pytest.approx([np.tanh(0.1**0.5) / 0.1**0.5] * 40)
    own = LossSettings(geometry="mixed", clip_radius=None)
    assert float(ball_points(raw, own).norm(dim=-1).std()) > 0.01


def fp16_step(values: dict, *, scaled: bool) -> float:
    """Norm of the gradient that reaches the optimizer in an fp16 step."""
    optim = {"clip_norm": 3.0, "clip_scaled": scaled}
    settings = settings_of(changed(values, optim=optim, train={"precision": "fp16"}))
    torch.manual_seed(0)
    stepper = TrainStep(settings, ALONE, build_network(settings.model).train())
    stepper.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    batch = torch.randint(0, 255, (6, 3, 32, 32), dtype=torch.uint8)
    stepper.run(batch, 0, stop=False)
    return float(
        nn.utils.get_total_norm([p.grad for p in stepper.parameters if p.grad is not None])
    )


def test_clipping_before_unscaling_leaves_almost_nothing(values):
    right, released = fp16_step(values, scaled=False), fp16_step(values, scaled=True)
    assert 0.1 < right <= 3.001
    assert released <= 3.001 / 64


def test_sampler_visits_each_class_once_an_epoch():
    labels = np.repeat(np.arange(7), [4, 1, 9, 3, 5, 6, 2])
    rows = np.arange(100, 130)
    sampler = UniqueClassSampler(
        rows, labels, classes=3, samples=3, seed=5, start_step=0, total_steps=4
    )
    assert sampler.steps_per_epoch == 2
    steps = list(sampler)
    for epoch in (0, 1):
        drawn = [d for step in steps[2 * epoch : 2 * epoch + 2] for d in step]
        assert {d.epoch for d in drawn} == {epoch}
        of_class = [labels[d.row - 100] for d in drawn]
        assert all(of_class[i] == of_class[i + 1] == of_class[i + 2] for i in range(0, 18, 3))
        assert set(Counter(of_class).values()) == {3}, "no class twice"
        for start in range(0, 18, 3):
            group = drawn[start : start + 3]
            assert [d.slot for d in group] == [0, 1, 2]
            enough = (labels == of_class[start]).sum() >= 3
            assert not enough or len({d.row for d in group}) == 3
    assert steps[:2] != steps[2:], "an order of its own for each epoch"


def test_sampler_is_a_function_of_the_step_whatever_came_before():
    labels, rows = np.repeat(np.arange(6), 5), np.arange(30)
    sizes = {"classes": 2, "samples": 4, "seed": 3}
    whole = list(UniqueClassSampler(rows, labels, **sizes, total_steps=7))
    later = list(UniqueClassSampler(rows, labels, **sizes, start_step=4, total_steps=7))
    assert later == whole[4:]
    ranks = [
        list(UniqueClassSampler(rows, labels, **sizes, total_steps=7, rank=r, world=2))
        for r in (0, 1)
    ]
    assert [a + b for a, b in zip(*ranks, strict=True)] == whole
    with pytest.raises(InputError, match="7 a step, but there are 6 classes"):
        UniqueClassSampler(rows, labels, classes=7, samples=2, seed=0)
    with pytest.raises(InputError, match="do not divide over 3"):
        UniqueClassSampler(rows, labels, **sizes, world=3)


def test_random_parts_keep_to_their_bounds():
    rng = np.random.default_rng(0)
    for width, height in ((640, 480), (30, 300), (3, 1), (1, 1)):
        for _ in range(200):
            left, top, w, h = random_part(rng, width, height, 0.2)
            assert 0 <= left <= width - w
            assert 0 <= top <= height - h
            assert w >= 1 <= h
            if width == 640:
                assert 0.2 * 0.98 <= w * h / (640 * 480) <= 1.0
                assert 0.74 <= w / h <= 1.35


def test_crops_are_a_function_of_the_draw(class_folder):
    images = class_folders.read(class_folder)
    dataset = TrainImages(images, AugmentSettings(), size=32, seed=1)
    draw = UniqueClassSampler(
        images.rows("train"), images.labels[images.rows("train")], classes=3, samples=2, seed=0
    ).step(0)
    first, again, other = dataset[draw[0]], dataset[draw[0]], dataset[draw[0]._replace(slot=1)]
    assert isinstance(first, Tensor)
    assert first.shape == (3, 32, 32)
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_color_mode_is_read(class_folder):
    images = class_folders.read(class_folder)
    dataset = CenteredImages(images, size=32, resize=36)
    for row in range(len(images)):
        picture = dataset[row]
        assert isinstance(picture, Tensor)
        assert picture.shape == (3, 32, 32)
        color = picture.float().mean((1, 2))
        assert (color - torch.tensor(COLORS[images.labels[row]]).float()).abs().max() < 25


def test_test_crop_is_that_of_torchvision(tmp_path):
    from torchvision.transforms import v2

    rng = np.random.default_rng(2)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    pixels = rng.integers(0, 255, (53, 81, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a/1.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "b/1.png")
    dataset = CenteredImages(class_folders.read(tmp_path), size=32, resize=40)
    published = v2.Compose(
        [v2.Resize(40, interpolation=v2.InterpolationMode.BICUBIC), v2.CenterCrop(32)]
    )
    for row, name in enumerate("ab"):
        with Image.open(tmp_path / name / "1.png") as image:
            expected = np.asarray(published(image)).astype(int)
        found = dataset[row].permute(1, 2, 0).numpy().astype(int)
        assert np.abs(found - expected).max() <= 2
