"""MiniPlaces as COCO-form files and indexes: scenes as labels of images, objects as boxes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.core.errors import InputError
from pretrain.core.files import write_text
from pretrain.core.settings import parse
from pretrain.data.index import Index
from pretrain.datasets.archives import find_archives, unpack
from pretrain.datasets.headers import ImageSize, SizeReader
from pretrain.datasets.miniplaces.layout import SPLITS, Layout, ListEntry, Split, find_layout
from pretrain.datasets.miniplaces.object_files import NO_OUTLINE, read_outlines
from pretrain.datasets.source import DataSettings, open_index

EXPECTED: dict[Split, tuple[int, int]] = {"train": (100_000, 3_502), "val": (10_000, 371)}
"""Images, and images with outlined objects, of the whole set (its development kit's README)."""

ARCHIVES = ("data.tar.gz", *(f"images_train_{part}.tar" for part in range(4)), "images_val_0.tar")
ANNOTATIONS = "annotations"
FAULTS = "faults.tsv"

Say = Callable[[str], None]


@dataclass(frozen=True)
class MiniplacesIndexes:
    """What was made.

    Attributes:
        indexes: by name: ``scenes-train``, ``objects-val``, ...
        faults: file name and reason, of everything left out.
        warnings: how the counts differ from those of the whole set.
    """

    indexes: dict[str, Index]
    faults: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]


def prepare(root: Path, archives: Sequence[Path], say: Say) -> MiniplacesIndexes:
    """Unpack, read and check MiniPlaces below ``root``, and write what the commands read.

    Written are ``annotations/scenes_{train,val}.json``, in which every image has one box, the
    whole image, labeled with its scene; ``annotations/instances_{train,val}.json``, the outlined
    objects of the images that have any (a subset brings these along); an index of each,
    ``index-scenes-train`` and so on; and for a subset whose scenes have unequal numbers of
    images, the same of its balanced part. Everything is in COCO's form, ids counted from 1.

    An image that is listed but missing or unreadable, and an object without an outline, is left
    out, counted, and named in ``annotations/faults.tsv``.

    Args:
        root: see ``layout.find_layout``.
        archives: to unpack into ``root`` first, besides those found there by their names.
        say: is told of every step in a line.

    Raises:
        InputError: the files are not those of MiniPlaces, a file is not of its form, or none of
            the listed images is there.
    """
    for archive in find_archives(root, archives, ARCHIVES):
        for line in unpack(archive, root).lines():
            say(line)
    layout = find_layout(root)
    folder = root / ANNOTATIONS
    indexes: dict[str, Index] = {}
    faults: list[tuple[str, str]] = []
    warnings = []
    for split in SPLITS:
        found = _sizes(layout, split, faults)
        if not found:
            raise InputError(f"{layout.images}: none of the listed images of '{split}' is there")
        scenes = {"scenes-" + split: found}
        balanced = [entry for entry in found if entry[0].balanced]
        if 0 < len(balanced) < len(found):
            scenes[f"scenes-{split}-balanced"] = balanced
        files = {name: _write(folder, name, _scenes(layout, part)) for name, part in scenes.items()}
        outlined = layout.instances.get(split)
        if layout.outlines is not None:
            objects = _objects(layout, layout.outlines, found, faults)
            outlined = _write(folder, f"instances-{split}", objects)
        if outlined is not None:
            files[f"objects-{split}"] = outlined
        for name, file in files.items():
            indexes[name] = _index(root, name, file, layout.images)
        counts = (len(found), len(indexes.get(f"objects-{split}", ())))
        warnings += _compare(split, counts)
    folder.mkdir(exist_ok=True)
    lines = "".join(f"{name}\t{reason}\n" for name, reason in faults)
    (folder / FAULTS).write_text(lines, encoding="utf-8")
    return MiniplacesIndexes(indexes, tuple(faults), tuple(warnings))


Sized = tuple[ListEntry, ImageSize, int]
"""An image, its size, and its number in the list from 1."""


def _sizes(layout: Layout, split: Split, faults: list[tuple[str, str]]) -> list[Sized]:
    """The listed images that are there."""
    listed = layout.listed[split]
    with SizeReader(layout.images, None) as reader:
        sizes = reader.sizes([[image.file_name] for image in listed])
    found = []
    for number, (image, size) in enumerate(zip(listed, sizes, strict=True), start=1):
        if isinstance(size, ImageSize):
            found.append((image, size, number))
        else:
            faults.append((image.file_name, size.reason))
    return found


def _scenes(layout: Layout, found: list[Sized]) -> dict[str, Any]:
    annotations = [
        {
            "id": number,
            "image_id": number,
            "category_id": image.scene + 1,
            "bbox": [0, 0, size.width, size.height],
            "area": size.width * size.height,
            "iscrowd": 0,
        }
        for image, size, number in found
    ]
    return _document(layout.scenes, found, annotations)


def _objects(
    layout: Layout, outlines: Path, found: list[Sized], faults: list[tuple[str, str]]
) -> dict[str, Any]:
    shown: list[Sized] = []
    annotations: list[dict[str, Any]] = []
    for entry in found:
        image, _, number = entry
        file = (outlines / image.file_name).with_suffix(".xml")
        if not file.is_file():
            continue
        shown.append(entry)
        for place, item in enumerate(read_outlines(file, len(layout.object_names)), start=1):
            if not item.polygon:
                faults.append((image.file_name, f"object {place}: {NO_OUTLINE}"))
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": item.label + 1,
                    "bbox": list(item.box),
                    "area": item.area,
                    "iscrowd": 0,
                    "segmentation": [list(item.polygon)],
                }
            )
    return _document(layout.object_names, shown, annotations)


def _document(
    names: Sequence[str], found: list[Sized], annotations: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "images": [
            {"id": number, "file_name": image.file_name, "width": size.width, "height": size.height}
            for image, size, number in found
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
    }


def _write(folder: Path, name: str, document: dict[str, Any]) -> Path:
    """Write ``NAME.json``, complete or not at all; an equal file keeps its time of change."""
    file = folder / f"{name.replace('-', '_')}.json"
    text = json.dumps(document, separators=(",", ":"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if file.is_file() and file.read_text(encoding="utf-8") == text:
            return file
        write_text(file, text)
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error.strerror})") from None
    return file


def _index(root: Path, name: str, annotations: Path, images: Path) -> Index:
    values = {
        "reader": "coco",
        "annotations": str(annotations),
        "images": str(images),
        "index": str(root / f"index-{name}"),
        "on_bad_box": "drop",
        "on_bad_image": "drop",  # a subset's own file of objects may name images that are not there
    }
    return open_index(parse(DataSettings, values, source="hcl data prepare miniplaces"))


def _compare(split: Split, counts: tuple[int, int]) -> list[str]:
    kinds = ("images", "images with outlined objects")
    return [
        f"{split}: {count:,} {kind}, the whole set has {expected:,}"
        for kind, count, expected in zip(kinds, counts, EXPECTED[split], strict=True)
        if count != expected
    ]
