"""Where the files of MiniPlaces lie, and what its lists say: as published, or a subset of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pretrain.core.errors import InputError
from pretrain.datasets.readers.common import is_inside, shown

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")

TSV_COLUMNS = ["file", "scene", "balanced", "annotated"]
REMEDY = (
    "give the folder of the development kit (data/train.txt, data/val.txt, data/categories.txt) "
    "with data.tar.gz unpacked in it or in its data folder, or with --archive data.tar.gz"
)


@dataclass(frozen=True)
class ListEntry:
    """An image of a list.

    Attributes:
        file_name: below the folder of the images.
        scene: number of its scene.
        balanced: belongs to the part that has as many images of every scene.
    """

    file_name: str
    scene: int
    balanced: bool = True


@dataclass(frozen=True)
class Layout:
    """The files of one copy of MiniPlaces.

    Attributes:
        images: the folder that file names are relative to.
        scenes: names, by number.
        listed: the images of each split, in the order of the lists.
        outlines: folder of the XML files of outlined objects, with the images' names; None where
            there are none, or where they have been converted.
        object_names: names of the objects, by number; empty without ``outlines``.
        instances: COCO-form files of the objects that the copy brings along, by split.
    """

    images: Path
    scenes: tuple[str, ...]
    listed: dict[Split, tuple[ListEntry, ...]]
    outlines: Path | None
    object_names: tuple[str, ...]
    instances: dict[Split, Path]


def find_layout(root: Path) -> Layout:
    """Recognize a copy of MiniPlaces below ``root``.

    Two forms are known. The published one: the development kit's lists (``train.txt``, ``val.txt``,
    ``categories.txt``, ``object_categories.txt``) in ``root`` or ``root/data``, with the archive's
    folders ``images`` and ``objects`` beside them or in ``root``. And a subset: in ``root`` the
    lists ``scenes_train.tsv``, ``scenes_val.tsv`` and ``scene_categories.txt``, the folders
    ``train`` and ``val``, and the objects as ``instances_train.json`` and ``instances_val.json``.

    Raises:
        InputError: it is neither, or a list is not of its form.
    """
    if (root / "scenes_train.tsv").is_file():
        return _subset(root)
    for lists in (root / "data", root):
        if all((lists / name).is_file() for name in ("train.txt", "val.txt", "categories.txt")):
            return _published(root, lists)
    raise InputError(f"{root}: no lists of MiniPlaces in it; {REMEDY}")


def _published(root: Path, lists: Path) -> Layout:
    places = [
        (images, base / "objects") for base in (lists, root) for images in (base / "images", base)
    ]
    found = [place for place in places if (place[0] / "train").is_dir()]
    if not found:
        raise InputError(f"{places[0][0] / 'train'}: not there; {REMEDY}")
    images, objects = found[0]
    scenes = _names(lists / "categories.txt")
    files = {split: lists / f"{split}.txt" for split in SPLITS}
    listed = {split: _entries(file, _lines(file, 2), len(scenes)) for split, file in files.items()}
    outlines = objects if objects.is_dir() else None
    names = _names(lists / "object_categories.txt") if outlines is not None else ()
    return Layout(images, scenes, listed, outlines, names, {})


def _subset(root: Path) -> Layout:
    scenes = _names(root / "scene_categories.txt")
    lists = {split: root / f"scenes_{split}.tsv" for split in SPLITS}
    listed = {split: _entries(file, _table(file), len(scenes)) for split, file in lists.items()}
    files = {split: root / f"instances_{split}.json" for split in SPLITS}
    instances = {split: file for split, file in files.items() if file.is_file()}
    return Layout(root, scenes, listed, None, (), instances)


def _names(file: Path) -> tuple[str, ...]:
    """Names by their numbers, from lines ``NAME NUMBER``; a scene's name loses its initial folder.

    ``/b/bakery/shop`` becomes ``bakery/shop``.
    """
    names: list[str] = []
    for number, fields in _lines(file, 2):
        if fields[1] != str(len(names)):
            raise InputError(f"{file}: line {number}: expected NAME {len(names)}; {REMEDY}")
        parts = fields[0].split("/")
        names.append("/".join(parts[2:]) if len(parts) > 2 and not parts[0] else fields[0])
    return tuple(names)


def _table(file: Path) -> list[tuple[int, list[str]]]:
    """The lines of a subset's list, of file, scene and balanced."""
    lines = _lines(file, len(TSV_COLUMNS))
    if not lines or lines[0][1] != TSV_COLUMNS:
        raise InputError(f"{file}: line 1: expected the columns {' '.join(TSV_COLUMNS)}")
    return [(number, fields[:3]) for number, fields in lines[1:]]


def _entries(file: Path, lines: list[tuple[int, list[str]]], scenes: int) -> tuple[ListEntry, ...]:
    """The images of lines of file, scene and, in a subset, whether it is balanced."""
    found: dict[str, ListEntry] = {}
    for number, (name, scene, *balanced) in lines:
        at = f"{file}: line {number}"
        if not is_inside(name):
            raise InputError(f"{at}: {shown(name)}: not a file below the images")
        if not scene.isdecimal() or int(scene) >= scenes:
            raise InputError(
                f"{at}: {shown(scene)}: expected the number of a scene, 0 to {scenes - 1}"
            )
        if name in found:
            raise InputError(f"{file}: {name} is listed twice; get the file again")
        found[name] = ListEntry(name, int(scene), balanced in ([], ["1"]))
    return tuple(found.values())


def _lines(file: Path, columns: int) -> list[tuple[int, list[str]]]:
    """Lines that are not empty, as numbers from 1 and fields."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{file}: not there; {REMEDY}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as a list: {error}; get it again") from None
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != columns:
            raise InputError(f"{file}: line {number}: {shown(line)}: expected {columns} columns")
        found.append((number, fields))
    return found
