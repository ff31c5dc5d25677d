"""What is classified: labeled regions or whole images, and their features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from downstream.probe.options import Labels
from pretrain.core.errors import InputError
from pretrain.core.settings import parse
from pretrain.datasets.source import DataSettings
from pretrain.probes.encode import Forward, encode
from pretrain.probes.items import Items, choose_items

NAMES = ("--train", "--val")


class Samples(NamedTuple):
    """N regions of images, and what is said of each.

    Attributes:
        items: the regions.
        targets: int64 (N,), a label each (-1: of a category that training does not know), or
            bool (N, C), the categories that the image has.
    """

    items: Items
    targets: Tensor


def choose_samples(
    train: DataSettings, val: DataSettings, labels: Labels, limit: int
) -> tuple[Samples, Samples]:
    """Training and test samples; no image is in both.

    Args:
        train: where the classifier learns.
        val: where it is tested.
        labels: ``object``, every labeled box; ``image``, images of one category; ``scene``, whole
            images with all their categories.
        limit: samples of either side at most, spread evenly.

    Raises:
        InputError: a set cannot be used.
    """
    if labels != "scene":
        found = choose_items(train, val, labels, limit, names=NAMES)
        bank, queries = (Samples(part, torch.from_numpy(part.labels)) for part in found)
        return bank, queries
    everything = choose_items(train, val, "object", 2**62, names=NAMES)
    bank, queries = (_scenes(part, limit) for part in everything)
    return bank, queries


def _scenes(objects: Items, limit: int) -> Samples:
    """Whole images with the categories of their boxes."""
    rows, place = np.unique(objects.rows, return_inverse=True)
    sizes = objects.index.column("sizes")[rows]
    boxes = np.concatenate([np.zeros_like(sizes), sizes], axis=1).astype(np.float32)
    targets = torch.zeros(len(rows), len(objects.categories), dtype=torch.bool)
    known = objects.labels >= 0
    targets[place[known], objects.labels[known]] = True
    whole = replace(objects, rows=rows, boxes=boxes, labels=np.arange(len(rows)))
    kept = whole.thinned(limit)
    return Samples(kept, targets[torch.from_numpy(kept.labels)])


def features(backbone: nn.Module, samples: Samples, how: Forward) -> tuple[Tensor, Samples]:
    """Features float32 (N, F) in main memory, and the samples that could be read."""
    found, mask = encode(backbone, samples.items, how, unit=False, store=torch.device("cpu"))
    return found[mask], Samples(samples.items.take(mask.numpy()), samples.targets[mask])


def source(given: Sequence[Path], on_bad_box: str, option: str) -> DataSettings:
    """Settings of one side from the command line.

    Args:
        given: a COCO-format file and the folder of its images; or one folder, a prepared index
            or a folder of class folders.
        on_bad_box: of the reader.
        option: its name in messages.

    Raises:
        InputError: it is neither.
    """
    if len(given) > 2:
        raise InputError(f"{option}: give ANNOTATIONS IMAGES, or one folder")
    first = given[0]
    values: dict[str, Any]
    if len(given) == 2:
        values = {"annotations": str(given[0]), "images": str(given[1]), "on_bad_box": on_bad_box}
    elif (first / "meta.json").is_file():
        values = {"reader": "index", "index": str(first)}
    elif first.is_dir():
        values = {"reader": "folder", "images": str(first), "class_folders": True}
    else:
        raise InputError(
            f"{option}: {first}: no such folder; give ANNOTATIONS IMAGES, a prepared index, or a "
            "folder of class folders"
        )
    return parse(DataSettings, values, source=option)
