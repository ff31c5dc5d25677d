"""The data sets by name: how each is read, and what a complete one holds.

CUB-200-2011, Stanford Online Products and In-Shop are read here, the others by their own modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from downstream.retrieval.datasets import cars, grocery
from downstream.retrieval.datasets.class_folders import image_files
from downstream.retrieval.datasets.labeled_images import (
    SPLITS,
    Item,
    LabeledImages,
    Split,
    collect,
    find_root,
)
from pretrain.core.errors import InputError

Counts = dict[Split, tuple[int, int]]

CUB_CLASSES = 200
CUB_REMEDY = "unpack CUB_200_2011.tgz there (`hcl data prepare cub DIR --archive CUB_200_2011.tgz`)"
SOP_LISTS: dict[str, Split] = {"Ebay_train.txt": "train", "Ebay_test.txt": "test"}
SOP_COLUMNS = ("image_id", "class_id", "super_class_id", "path")
SOP_REMEDY = "unpack Stanford_Online_Products.zip there (`hcl data prepare sop DIR --archive ...`)"
INSHOP_FOLDERS = ("", "Inshop_Clothes", "In-shop Clothes Retrieval Benchmark")
INSHOP_LIST = "list_eval_partition.txt"
INSHOP_COLUMNS = ("image_name", "item_id", "evaluation_status")
INSHOP_REMEDY = f"put {INSHOP_LIST} into DIR/Eval and unpack img.zip into DIR/Img"


def read_cub(root: Path) -> LabeledImages:
    """Read ``images/CLASS/*.jpg``; of the 200 species, by numbered folder, 100 are trained on.

    Raises:
        InputError: the folder is not there or has not 200 classes.
    """
    base = find_root(root, "CUB_200_2011", "images", CUB_REMEDY)
    images = base / "images"
    classes = sorted(path.name for path in images.iterdir() if path.is_dir())
    if len(classes) != CUB_CLASSES:
        raise InputError(
            f"{images}: {len(classes)} classes, but CUB-200-2011 has 200; {CUB_REMEDY}"
        )
    items = [
        Item(f"images/{label}/{file}", label, "train" if place < CUB_CLASSES // 2 else "test")
        for place, label in enumerate(classes)
        for file in image_files(images / label)
    ]
    return collect("cub", base, items)


def read_sop(root: Path) -> LabeledImages:
    """Read ``Ebay_train.txt`` and ``Ebay_test.txt``; half of the 22,634 products are trained on.

    Raises:
        InputError: a list is not there or a line of it is of another form.
    """
    base = find_root(root, "Stanford_Online_Products", "Ebay_train.txt", SOP_REMEDY)
    items = []
    for name, split in SOP_LISTS.items():
        file = base / name
        if not file.is_file():
            raise InputError(f"{file}: not there; {SOP_REMEDY}")
        lines = file.read_text(encoding="utf-8").splitlines()
        if not lines or tuple(lines[0].split()) != SOP_COLUMNS:
            wanted = " ".join(SOP_COLUMNS)
            raise InputError(f"{file}: line 1 should be '{wanted}'; get the file again")
        rows = _rows(file, lines, 1, len(SOP_COLUMNS))
        items += [Item(path, label, split) for _, (_, label, _, path) in rows]
    return collect("sop", base, items)


def read_inshop(root: Path) -> LabeledImages:
    """Read ``Eval/list_eval_partition.txt``; its images lie below ``Img``, or beside ``Eval``.

    A class is the number at the end of an item's name; query and gallery, other images, share them.

    Raises:
        InputError: the list is not there, a line is of another form, or its first line, the
            number of images, is not the number of lines.
    """
    places = [
        root / folder / place / INSHOP_LIST
        for folder in INSHOP_FOLDERS
        for place in ("Eval", "Anno", "")
    ]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise InputError(f"{places[0]}: not there; {INSHOP_REMEDY}")
    base = file.parent.parent if file.parent.name in ("Eval", "Anno") else file.parent
    lines = file.read_text(encoding="utf-8").splitlines()
    counted = len(lines) > 1 and lines[0].strip().isdecimal()
    if not counted or tuple(lines[1].split()) != INSHOP_COLUMNS:
        raise InputError(f"{file}: should begin with a count and '{' '.join(INSHOP_COLUMNS)}'")
    # The names say img/..., and the archive is unpacked into Img as often as beside it.
    below = "Img/" if (base / "Img").is_dir() else ""
    items = []
    for number, (path, name, status) in _rows(file, lines, 2, len(INSHOP_COLUMNS)):
        digits = name.rpartition("_")[2]
        if not digits.isdecimal():
            raise InputError(f"{file}: line {number}: item '{name}' does not end in _NUMBER")
        split = next((split for split in SPLITS if split == status and split != "test"), None)
        if split is None:
            raise InputError(f"{file}: line {number}: '{status}' is not train, query or gallery")
        items.append(Item(below + path, str(int(digits)), split))
    if len(items) != int(lines[0]):
        raise InputError(
            f"{file}: line 1 says {int(lines[0])} images, {len(items)} follow; get the file again"
        )
    return collect("inshop", base, items)


def _rows(
    file: Path, lines: Sequence[str], start: int, columns: int
) -> Iterator[tuple[int, list[str]]]:
    """The number and the fields of each line that is not empty, after the first ``start`` ones."""
    for number, line in enumerate(lines[start:], start=start + 1):
        fields = line.split()
        if fields and len(fields) != columns:
            raise InputError(f"{file}: line {number} has {len(fields)} columns, not {columns}")
        if fields:
            yield number, fields


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
        read_cub,
        {"train": (5_864, 100), "test": (5_924, 100)},
        CUB_REMEDY,
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
        read_sop,
        {"train": (59_551, 11_318), "test": (60_502, 11_316)},
        SOP_REMEDY,
        (1, 10, 100, 1000),
        ("Stanford_Online_Products.zip",),
        {},
    ),
    "inshop": DatasetSpec(
        "In-Shop Clothes Retrieval",
        read_inshop,
        {"train": (25_882, 3_997), "query": (14_218, 3_985), "gallery": (12_612, 3_985)},
        INSHOP_REMEDY,
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
