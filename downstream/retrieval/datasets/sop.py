"""Stanford Online Products: 22,634 products, half of them to train on."""

from __future__ import annotations

from pathlib import Path

from downstream.retrieval.datasets.labeled_images import (
    Item,
    LabeledImages,
    Split,
    collect,
    find_root,
)
from pretrain.core.errors import InputError

FOLDER = "Stanford_Online_Products"
LISTS: dict[str, Split] = {"Ebay_train.txt": "train", "Ebay_test.txt": "test"}
COLUMNS = ["image_id", "class_id", "super_class_id", "path"]
REMEDY = "unpack Stanford_Online_Products.zip there (`hcl data prepare sop DIR --archive ...`)"


def read(root: Path) -> LabeledImages:
    """Read ``Ebay_train.txt`` and ``Ebay_test.txt``.

    Raises:
        InputError: a list is not there or a line of it is of another form.
    """
    base = find_root(root, FOLDER, "Ebay_train.txt", REMEDY)
    items = [item for name, split in LISTS.items() for item in _read(base / name, split)]
    return collect("sop", base, items)


def _read(file: Path, split: Split) -> list[Item]:
    if not file.is_file():
        raise InputError(f"{file}: not there; {REMEDY}")
    lines = file.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0].split() != COLUMNS:
        raise InputError(f"{file}: line 1 should be '{' '.join(COLUMNS)}'; get the file again")
    items = []
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != len(COLUMNS):
            raise InputError(f"{file}: line {number} has {len(fields)} columns, not 4")
        items.append(Item(fields[3], fields[1], split))
    return items
