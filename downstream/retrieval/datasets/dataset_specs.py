"""The data sets by name: how each is read, and what a complete one holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from downstream.retrieval.datasets import cars, cub, grocery, inshop, sop
from downstream.retrieval.datasets.labeled_images import LabeledImages, Split
from pretrain.core.errors import InputError

Counts = dict[Split, tuple[int, int]]


@dataclass(frozen=True)
class DatasetSpec:
    """A published data set.

    Attributes:
        title: in words.
        read: from its folder.
        counts: images and classes of every split of the whole set.
        remedy: how to get what is missing.
        ks: the K its papers report.
        archives: names under which its archives circulate.
        unpack_to: folder below the root that an archive is unpacked into, where not the root.
    """

    title: str
    read: Callable[[Path], LabeledImages]
    counts: Counts
    remedy: str
    ks: tuple[int, ...]
    archives: tuple[str, ...]
    unpack_to: dict[str, str]


KNOWN = {
    "cub": DatasetSpec(
        "CUB-200-2011, birds",
        cub.read,
        {"train": (5_864, 100), "test": (5_924, 100)},
        cub.REMEDY,
        (1, 2, 4, 8, 16, 32),
        ("CUB_200_2011.tgz",),
        {},
    ),
    "cars": DatasetSpec(
        "Cars-196, models of cars",
        cars.read,
        {"train": (8_054, 98), "test": (8_131, 98)},
        cars.REMEDY,
        (1, 2, 4, 8, 16, 32),
        ("car_ims.tgz", "cars_train.tgz", "cars_test.tgz", "car_devkit.tgz"),
        {},
    ),
    "sop": DatasetSpec(
        "Stanford Online Products",
        sop.read,
        {"train": (59_551, 11_318), "test": (60_502, 11_316)},
        sop.REMEDY,
        (1, 10, 100, 1000),
        ("Stanford_Online_Products.zip",),
        {},
    ),
    "inshop": DatasetSpec(
        "In-Shop Clothes Retrieval",
        inshop.read,
        {"train": (25_882, 3_997), "query": (14_218, 3_985), "gallery": (12_612, 3_985)},
        inshop.REMEDY,
        (1, 10, 20, 30, 40, 50),
        ("img.zip", "In-shop Clothes Retrieval Benchmark.zip"),
        {"img.zip": "Img"},
    ),
    "grocery": DatasetSpec(
        "Grocery Store Dataset",
        grocery.read,
        {"train": (2_865, 38), "query": (1_149, 43), "gallery": (1_407, 43)},
        grocery.REMEDY,
        (1, 2, 4, 8),
        ("images_train.tar", "images_val.tar", "images_test.tar"),
        {},
    ),
}


def check_counts(name: str, found: LabeledImages, expected: Counts) -> None:
    """Compare with the published counts.

    Raises:
        InputError: naming what differs.
    """
    counts = found.counts()
    differences = [
        f"{split} {counts.get(split, (0, 0))[0]} images of {counts.get(split, (0, 0))[1]} classes, "
        f"not {images} of {classes}"
        for split, (images, classes) in expected.items()
        if counts.get(split) != (images, classes)
    ]
    if differences:
        raise InputError(
            f"{found.root}: not the whole of {name}: {'; '.join(differences)}; unpack its archives "
            "again, or go on with what is there: --partial"
        )
