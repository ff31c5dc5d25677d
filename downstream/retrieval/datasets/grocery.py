"""Grocery Store Dataset: photographs of goods in shops, 81 fine classes in 43 coarse ones.

Its own lists divide the *images*. Here the *classes* are divided, as in metric learning: the first
coarse classes that hold at most half of the fine ones are trained on, the others tested, so no fine
class and no coarse class is on both sides. Pictures of a class were taken in series, and the
nearest picture is mostly of the same series: colors alone find it. So the tested images are not
searched among themselves: those of the list ``test`` are the queries, those of ``train`` and
``val``, which are of other series, the gallery.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from downstream.retrieval.datasets.labeled_images import (
    Item,
    LabeledImages,
    Split,
    collect,
    find_root,
    first_half,
)
from pretrain.core.errors import InputError
from pretrain.datasets.readers.common import is_inside, shown

FOLDER = "dataset"
TABLE = "classes.csv"
LISTS: dict[str, Split] = {"train.txt": "gallery", "val.txt": "gallery", "test.txt": "query"}
"""What the images of a list are where their class is tested."""

COLUMNS = ("Class Name (str)", "Class ID (int)", "Coarse Class Name (str)", "Coarse Class ID (int)")
REMEDY = (
    "clone GroceryStoreDataset (its folder 'dataset' holds classes.csv, train.txt, val.txt, "
    "test.txt and the photographs) and give that folder"
)


class _Class(NamedTuple):
    name: str
    coarse: str


def read(root: Path) -> LabeledImages:
    """Read ``classes.csv`` and the three lists.

    Raises:
        InputError: a file is not there or not of its form, or a list and the table differ.
    """
    base = find_root(root, FOLDER, TABLE, REMEDY)
    classes = _classes(base / TABLE)
    count = first_half([entry.coarse for entry in classes])
    images = [
        (path, number, tested)
        for name, tested in LISTS.items()
        for path, number in _read_list(base / name, classes)
    ]
    items = []
    for path, number, tested in sorted(images, key=lambda image: image[1]):
        entry = classes[number]
        split: Split = "train" if number < count else tested
        items.append(Item(path, entry.name, split, group=entry.coarse, tested_as=tested))
    return collect("grocery", base, items)


def _classes(file: Path) -> list[_Class]:
    """The fine classes by number."""
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    lacking = [name for name in COLUMNS if not rows or name not in rows[0]]
    if lacking:
        raise InputError(f"{file}: has no column '{lacking[0]}'; {REMEDY}")
    found = []
    for number, row in enumerate(rows):
        name, fine, coarse = (row[column] for column in COLUMNS[:3])
        if fine != str(number) or not name or not coarse:
            raise InputError(f"{file}: row {number + 1}: expected class {number}; {REMEDY}")
        found.append(_Class(name, coarse))
    return found


def _read_list(file: Path, classes: list[_Class]) -> list[tuple[str, int]]:
    """Paths and numbers of fine classes; a line is PATH FINE COARSE, with or without commas."""
    if not file.is_file():
        raise InputError(f"{file}: not there; {REMEDY}")
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.replace(",", " ").split()
        if not fields:
            continue
        if len(fields) != 3 or not is_inside(fields[0]):
            raise InputError(f"{file}: line {number}: {shown(line)}: expected PATH, FINE, COARSE")
        if not fields[1].isdecimal() or int(fields[1]) >= len(classes):
            raise InputError(f"{file}: line {number}: class {shown(fields[1])} is not in {TABLE}")
        found.append((fields[0], int(fields[1])))
    return found
