"""From unpacked packages to a source of scenes, split by cut-out and by background."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pretrain.core.errors import InputError
from pretrain.datasets.scenes.cutouts import Bank, CutoutSource, Picture
from pretrain.datasets.scenes.tuxpaint.catalog import (
    BACKGROUNDS,
    DISTRACTOR,
    TOGETHER,
    WORLD,
    cutouts,
)
from pretrain.datasets.scenes.tuxpaint.packages import STAMPS, locate

HELD_OUT = 4
"""One in so many of the pictures of a category is held out for validation, at least one."""


def open_tuxpaint(folder: Path | None = None) -> CutoutSource:
    """The scenes' source: photographs of objects before photographs of places.

    Args:
        folder: of the unpacked packages; None: see ``packages.locate``.

    Raises:
        InputError: the packages or pictures of them are missing.
    """
    unpacked = locate(folder)
    stamps = unpacked.share / "tuxpaint/stamps"
    objects = {
        category: [Picture(name, stamps / f"{name}.png") for name in names]
        for category, names in cutouts().items()
    }
    backgrounds = [
        Picture(f"{package}/{name}", unpacked.share / place / f"{name}.jpg")
        for package, (place, names) in BACKGROUNDS.items()
        if package in unpacked.versions
        for name in names.split()
    ]
    _check([*(picture for pictures in objects.values() for picture in pictures), *backgrounds])
    banks = {}
    for split in ("train", "val"):
        parts = {name: part(pictures, split) for name, pictures in objects.items()}
        distractors = parts.pop(DISTRACTOR)
        banks[split] = Bank(parts, distractors, part(backgrounds, split))
    return CutoutSource(
        name="tuxpaint",
        description="Scenes composed of photographs of single objects",
        world=WORLD,
        banks=banks,
        versions=unpacked.versions,
    )


def part(pictures: list[Picture], split: str) -> tuple[Picture, ...]:
    """The pictures of a split, whatever the seed: a picture held out is held out for ever."""
    units: dict[str, list[Picture]] = {}
    for picture in pictures:
        group = next((group for group in TOGETHER if picture.name in group), (picture.name,))
        units.setdefault(group[0], []).append(picture)
    order = sorted(units, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    held_out = order[: max(1, len(order) // HELD_OUT)]
    chosen = [name for name in order if (name in held_out) == (split == "val")]
    return tuple(picture for name in chosen for picture in units[name])


def _check(pictures: Iterable[Picture]) -> None:
    missing = [picture.path for picture in pictures if not picture.path.is_file()]
    if missing:
        raise InputError(
            f"{missing[0]}: missing, with {len(missing) - 1} other pictures; --source tuxpaint "
            f"knows those of {STAMPS} 2022.06.04"
        )
