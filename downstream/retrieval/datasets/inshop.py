"""In-Shop Clothes Retrieval of DeepFashion: queries are searched in a gallery of other images."""

from __future__ import annotations

from pathlib import Path

from downstream.retrieval.datasets.labeled_images import SPLITS, Item, LabeledImages, collect
from pretrain.core.errors import InputError

FOLDERS = ("", "Inshop_Clothes", "In-shop Clothes Retrieval Benchmark")
LIST = "list_eval_partition.txt"
COLUMNS = ["image_name", "item_id", "evaluation_status"]
REMEDY = f"put {LIST} into DIR/Eval and unpack img.zip into DIR/Img"


def read(root: Path) -> LabeledImages:
    """Read ``Eval/list_eval_partition.txt``; its images lie below ``Img``, or beside ``Eval``.

    A class is the number at the end of an item's name; query and gallery share them.

    Raises:
        InputError: the list is not there, a line is of another form, or its first line, the
            number of images, is not the number of lines.
    """
    file = _find(root)
    base = file.parent.parent if file.parent.name in ("Eval", "Anno") else file.parent
    lines = file.read_text(encoding="utf-8").splitlines()
    if len(lines) < 2 or not lines[0].strip().isdecimal() or lines[1].split() != COLUMNS:
        raise InputError(f"{file}: should begin with a count and '{' '.join(COLUMNS)}'")
    # The names say img/..., and the archive is unpacked into Img as often as beside it.
    below = "Img/" if (base / "Img").is_dir() else ""
    items = [
        _item(file, number, line.split(), below)
        for number, line in enumerate(lines[2:], start=3)
        if line.strip()
    ]
    if len(items) != int(lines[0]):
        raise InputError(
            f"{file}: line 1 says {int(lines[0])} images, {len(items)} follow; get the file again"
        )
    return collect("inshop", base, items)


def _find(root: Path) -> Path:
    for folder in FOLDERS:
        for place in ("Eval", "Anno", ""):
            file = root / folder / place / LIST
            if file.is_file():
                return file
    raise InputError(f"{root / 'Eval' / LIST}: not there; {REMEDY}")


def _item(file: Path, number: int, fields: list[str], below: str) -> Item:
    if len(fields) != len(COLUMNS):
        raise InputError(f"{file}: line {number} has {len(fields)} columns, not 3")
    path, name, status = fields
    digits = name.rpartition("_")[2]
    if not digits.isdecimal():
        raise InputError(f"{file}: line {number}: item '{name}' does not end in _NUMBER")
    split = next((split for split in SPLITS if split == status and split != "test"), None)
    if split is None:
        raise InputError(f"{file}: line {number}: '{status}' is not train, query or gallery")
    return Item(below + path, str(int(digits)), split)
