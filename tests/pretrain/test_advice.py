"""Advice at the start of a run: each check alone, its remedy, and silence on published presets."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.advice import Facts, advise, own_keys_share
from pretrain.config import RunSettings, from_values
from pretrain.data.index import Index
from pretrain.data.pack import Pack
from pretrain.data.pairs import Neighbor, PairTable
from pretrain.data.sampler import permutation
from pretrain.datasets.index_writer import build_index
from pretrain.datasets.records import Record, Stream
from pretrain.methods.base import Context
from pretrain.methods.build import build_method

MOCO = {"name": "moco", "queue": 1024, "norm_group": 32, "crops": "image"}
SOUND: dict[str, Any] = {
    "output": "unused",
    "data": {"annotations": "unused", "images": "unused"},
    "views.size": 64,
    "model.backbone": "resnet18",
    "model.dim": 8,
    "method": MOCO,
    "optim.batch_size": 128,
    "optim.lr": 0.06,
    "train.steps": 10_000,
}
BYOL: dict[str, Any] = {
    "model.head": "mlp_bn",
    "model.hidden": 16,
    "method": {"name": "byol", "predictor_hidden": 16},
}
DENSE: dict[str, Any] = {"method": {**MOCO, "name": "densecl"}}
HCL: dict[str, Any] = {"hcl.queue": 1024}
SHORT: dict[str, Any] = {
    "train.steps": 100,
    "method.momentum": 0.8,
    "method.queue": 512,
    "optim.schedule_per": "step",
}


def settings(**more: Any) -> RunSettings:
    """Settings by dotted names; ``SOUND`` where nothing else is said."""
    values: dict[str, Any] = {}
    for key, value in {**SOUND, **more}.items():
        *parents, last = key.split(".")
        section = values
        for part in parents:
            section = section.setdefault(part, {})
        section[last] = dict(value) if isinstance(value, dict) else value
    return from_values(values, source="test")


def facts(images: int = 20_000, **more: Any) -> Facts:
    given = settings(**more)
    rows = given.optim.batch_size // given.optim.accumulate
    context = Context(given.model, given.views.size, rows, rows, seed=0)
    method = build_method(given.method, given.hcl, context)
    total = given.train.steps
    if total is None:
        total = (given.train.epochs or 0) * (images // given.optim.batch_size)
    return Facts(given, method, images, total)


@pytest.mark.parametrize("more", [{}, HCL, BYOL, DENSE, SHORT])
def test_sound_run__gets_none(more: dict[str, Any]) -> None:
    assert advise(facts(**more)) == []


@pytest.mark.parametrize(
    ("fault", "expected", "remedy"),
    [
        (
            {"optim.base_batch": 256},
            "optim.lr=0.06 was chosen for a batch of 256, but batch_size is 128",
            {"optim.scale_lr": "linear"},
        ),
        (
            {"optim.lr": 0.6},
            "optim.lr: the peak rate 0.6 for 128 images with momentum 0.9 is like 1.2 for 256",
            {"optim.lr": 0.15},
        ),
        ({"optim.lr": 1e-4}, "take 0.015 to 0.15", {"optim.lr": 0.015}),
        ({"optim.momentum": 0.0, "optim.lr": 0.01}, "take 0.15 to 1.5", {"optim.lr": 1.5}),
        (
            {"method.temperature": 0.001},
            "method.temperature=0.001: the loss then depends on only the hardest",
            {"method.temperature": 0.2},
        ),
        (
            {**HCL, "hcl.temperature": 5.0},
            "hcl.temperature=5: the loss then depends on all negatives",
            {"hcl.temperature": 0.2},
        ),
        (
            {"method.batch_norm": "plain"},
            "method.batch_norm=plain: a key shares",
            {"method.batch_norm": "shuffled"},
        ),
        (
            {"method.norm_group": 4},
            "method.norm_group=4: batch statistics of so few",
            {"method.norm_group": 16},
        ),
        ({**DENSE, "views.size": 32}, "feature map has a single cell", {"views.size": 96}),
        ({**DENSE, "method.grid": 1}, "method.grid=1: a single cell", {"method.grid": 2}),
        (
            {**SHORT, "train.steps": 70},
            "70 steps of 128 images are 8,960 images in all",
            {"train.steps": 200},
        ),
        (
            {"optim.warmup_steps": 3000},
            "warm-up takes 3,000 of the run's 10,000 steps; set optim.warmup_steps=1000",
            {"optim.warmup_steps": 1000},
        ),
        (
            {"optim.warmup_epochs": 100},
            "10,000 steps, so that the rate never reaches its peak; set optim.warmup_epochs=6.41",
            {"optim.warmup_epochs": 6.41},
        ),
        (
            {**SHORT, "train.steps": 468, "optim.schedule_per": "epoch"},
            "optim.schedule_per=epoch: the rate changes once an epoch, and in the last of so few "
            "epochs it is still 25% of its peak",
            {"optim.schedule_per": "step"},
        ),
        (
            {"optim.schedule": "step", "optim.milestones": [30, 80]},
            "optim.milestones: the run ends before epoch 80, after 64.1 epochs",
            {"optim.milestones": [30, 50]},
        ),
        (
            {"method.momentum": 0.9999},
            "method.momentum=0.9999: after the run's 10,000 steps 37% of the key encoder's",
            {"method.momentum": 0.998},
        ),
        (
            {**BYOL, "method.momentum": 0.9999},
            "10,000 steps 61% of the key encoder's weights",
            {"method.momentum": 0.996},
        ),
        (
            {"method.queue": 34_000},
            "method.queue=34000: the queue holds the keys of 1.7 passes over the 20,000 images, so "
            "that 96% of the queries meet older keys of their own image among the negatives; set "
            "method.queue=5000 or less",
            {"method.queue": 5000},
        ),
        (
            {**HCL, "hcl.queue": 5001},
            "hcl.queue=5001: the queue holds the keys of 0.25 passes over the 20,000 images, so "
            "that 3% of the queries",
            {"hcl.queue": 5000},
        ),
        (
            {**SHORT, "method.queue": 4096},
            "method.queue=4096: the queue starts with random keys, and the run sees 12,800",
            {"method.queue": 800},
        ),
        (
            {"optim.batch_size": 3520, "optim.lr": 1.5},
            "optim.batch_size=3520: an epoch is 5 whole batches and leaves out 2400 of the 20000",
            {"optim.batch_size": 1024, "optim.lr": 0.5},
        ),
        (
            {**DENSE, "method.dense_from": 20_000},
            "method.dense_from=20000: the dense loss counts from there on, and the run has 10,000",
            {"method.dense_from": 1000},
        ),
        (
            {"train.checkpoint_every": 20_000},
            "train.checkpoint_every=20000: none is written before the end",
            {"train.checkpoint_every": 1000},
        ),
        (
            {"train.log_every": 5000},
            "train.log_every=5000: the run's 10,000 steps are logged 2 times",
            {"train.log_every": 500},
        ),
    ],
)
def test_fault__one_sentence_and_a_remedy(
    fault: dict[str, Any], expected: str, remedy: dict[str, Any]
) -> None:
    (found,) = advise(facts(**fault))
    assert expected in found
    assert advise(facts(**{**fault, **remedy})) == []


def test_checks_that_do_not_apply() -> None:
    assert advise(facts(**{"optim.optimizer": "adamw", "optim.lr": 1e-5})) == []
    vit = {"model.backbone": "timm/vit_tiny_patch16_224", "model.options.img_size": 64}
    assert advise(facts(**vit, **{"method.batch_norm": "plain"})) == []
    # No steps: a random network is what is wanted.
    assert advise(facts(**{"train.steps": 0, "method.temperature": 9.0})) == []
    # Less than one pass over the data: no image comes twice.
    alone = facts(2_000_000, **{"method.queue": 65_536, "optim.schedule_per": "step"})
    assert advise(alone) == []
    # The number of images is not known: what does not need it is said all the same.
    unknown = facts(**{"method.queue": 34_000, "method.temperature": 9.0})
    (found,) = advise(dataclasses.replace(unknown, images=None))
    assert "method.temperature" in found


@pytest.mark.parametrize("size", [100, 400, 700, 1300, 2100])
def test_own_keys_share__is_what_the_sampler_gives(size: int) -> None:
    """Counted over the orders in which a run shows its images."""
    images, epochs, found = 1000, 12, []
    shown = np.concatenate([permutation(5, epoch, images) for epoch in range(epochs)])
    last = np.full(images, -(10**9))
    for place, row in enumerate(shown):
        if place >= 3 * images:
            found.append(place - last[row] <= size)
        last[row] = place
    assert own_keys_share(size, images) == pytest.approx(np.mean(found), abs=0.01)


def index(folder: Path, images: list[tuple[int, list[int]]]) -> Index:
    """Square images of these sides with square boxes of these sides."""
    records = [
        Record(
            f"{row}.jpg",
            *(side, side),
            np.array([[0, 0, box, box] for box in boxes], np.float32).reshape(-1, 4),
            np.zeros(len(boxes), np.int32),
            row,
        )
        for row, (side, boxes) in enumerate(images)
    ]
    source = Stream(folder / "a.json", folder, records, ("thing",), (1,))
    return build_index(source, folder / "index")


def with_index(built: Index, pack: Pack | None = None, **more: Any) -> list[str]:
    given = facts(**{**HCL, "views.min_box_area": 256, **more})
    return advise(dataclasses.replace(given, index=built, pack=pack))


def test_fallbacks(tmp_path: Path) -> None:
    built = index(tmp_path, [(128, [40, 50])] * 7 + [(128, [40, 15])] * 2 + [(128, [])])
    (found,) = with_index(built)
    assert "views: 30% of the images have too few boxes of views.min_box_area=256 px²" in found
    assert with_index(built, **{"hcl.scene": "image"}) == []
    assert with_index(built, **{"views.resample_weak_images": True}) == []
    assert advise(dataclasses.replace(facts(), index=built)) == []  # whole images need no boxes
    boxes = np.array([[0, 0, 40, 40]], np.float32)
    rows = [[Neighbor(0, boxes, boxes)] if row % 2 else [] for row in range(10)]
    table = PairTable.build(built.fingerprint, rows)
    pairs = facts(**{"method": {**MOCO, "crops": "pair_key"}})
    (found,) = advise(dataclasses.replace(pairs, index=built, pairs=table))
    assert "views: 50% of the images have too few boxes" in found
    assert "without a pair of regions" in found


def test_small_objects(tmp_path: Path) -> None:
    built = index(tmp_path, [(128, [15, 40, 60, 70])] * 10)
    (found,) = with_index(built, **{"views.min_box_area": 100})
    assert "views.min_box_area=100: 25% of the boxes are smaller than 16 x 16 pixels and" in found
    assert "set views.min_box_area=256 or more" in found
    assert with_index(built) == []
    # A pack of half the side has a quarter of the pixels.
    sizes = np.full((10, 2), 64, np.int32)
    meta = {"rows_per_shard": 10, "bad": [], "side": 64}
    pack = Pack(tmp_path / "pack", meta, sizes, np.zeros(10, np.int64))
    (found,) = with_index(built, pack, **{"views.min_box_area": 200})
    assert "25% of the boxes are smaller than 16 x 16 pixels of the packed images" in found
    assert "set views.min_box_area=1024 or more" in found
    assert with_index(built, pack, **{"views.min_box_area": 1024}) == []


def test_small_images(tmp_path: Path) -> None:
    built = index(tmp_path, [(30, [20, 22])] * 10)
    (found,) = with_index(built)
    assert "views.size=64: half of the images have a shorter side of 30 px or less" in found
    assert with_index(built, **{"views.size": 30}) == []
