"""COCO and LVIS annotation files, checked entry by entry."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from pretrain.core.errors import InputError
from pretrain.datasets.readers import json_lists
from pretrain.datasets.readers.common import (
    DEFAULT,
    DEGENERATE,
    DROP_BOXES,
    DROP_IMAGES,
    MISSING,
    OUTSIDE,
    OnBad,
    Options,
    fault,
    is_inside,
    judge,
    listing,
    need_folder,
    numbers,
)
from pretrain.datasets.records import Flag, ReadReport, Record, Stream

CROWD = "crowd"
"""COCO's word for ``Flag.GROUP``."""

BOXES_OF_MISSING = "of missing images"

OTHER_KEYS = ("info", "images", "licenses", "categories")
"""Keys of a COCO file without annotations, such as image_info_unlabeled2017.json."""


@dataclass(frozen=True)
class Dialect:
    """A format that differs from COCO's in how it names the image files.

    Attributes:
        name: for messages.
        key: of an image's entry that tells the file.
        to_name: from its value to the file name below the image folder.
    """

    name: str = "COCO file"
    key: str = "file_name"
    to_name: Callable[[Any], Any] = lambda value: value

    def wanted(self) -> dict[str, tuple[str, ...]]:
        """Keys of the entries to keep, by list."""
        return {
            "images": ("id", self.key, "width", "height"),
            "annotations": ("id", "image_id", "category_id", "bbox", "iscrowd"),
            "categories": ("id", "name"),
        }


@dataclass(frozen=True)
class _Images:
    """The columns of 'images'."""

    ids: NDArray[np.int64]
    names: list[str]
    sizes: NDArray[np.int64]  # (N, 2) width, height


@dataclass(frozen=True)
class _Boxes:
    """The columns of the boxes kept, in the order of the file."""

    rows: NDArray[np.int64]  # of the image
    labels: NDArray[np.int32]
    corners: NDArray[np.float32]  # (n, 4)
    flags: NDArray[np.uint8]


def read(annotations: Path, images: Path, on_bad_box: OnBad = "error") -> ReadReport:
    """Read an annotation file of COCO's instances format, or one that lists images only.

    Crowd boxes are left out. Boxes that reach over the border by up to 1 px are clipped.

    Args:
        annotations: the JSON file.
        images: the folder that ``file_name`` of every image is relative to.
        on_bad_box: what to do with boxes without area, not finite or outside their image.

    Raises:
        InputError: naming the file and the entries at fault.
    """
    return stream(annotations, images, Options(on_bad_box=on_bad_box)).read()


def stream(
    annotations: Path, images: Path, options: Options = DEFAULT, dialect: Dialect | None = None
) -> Stream:
    """As ``read``, with all options, for indexing. Everything is checked when records are taken.

    Args:
        annotations: the JSON file.
        images: the folder of the images.
        options: of all readers.
        dialect: how the images are named.
    """
    source = Stream(annotations, images)
    source.records = _records(source, options, dialect or Dialect())
    return source


def stream_lvis(annotations: Path, images: Path, options: Options = DEFAULT) -> Stream:
    """As ``stream``, for LVIS v1: COCO's format, but images are named by their addresses.

    ``coco_url`` ends in the split and the file (``train2017/000000391895.jpg``); validation images
    come from both of COCO's folders. What LVIS says of absent and incompletely annotated
    categories is not kept.

    Args:
        annotations: the JSON file.
        images: the folder that holds ``train2017`` and ``val2017``.
        options: of all readers.
    """
    return stream(annotations, images, options, Dialect("LVIS file", "coco_url", _name_of_url))


def _name_of_url(url: Any) -> Any:
    """``http://host/train2017/1.jpg`` → ``train2017/1.jpg``; None if it is no address."""
    if not isinstance(url, str):
        return None
    try:
        parts = urlsplit(url).path.split("/")
    except ValueError:
        return None
    return "/".join(parts[-2:]) if len(parts) > 2 else None


def _records(source: Stream, options: Options, dialect: Dialect) -> Iterator[Record]:
    file = source.annotations
    document, stat, sha256 = json_lists.load(file, dialect.name, dialect.wanted())
    source.stamp(stat, sha256)
    table = _read_images(file, _entries(file, dialect, document, "images"), dialect)
    there = _find_files(source, table, options)
    if "annotations" not in document:
        _refuse_unknown_lists(file, document)
    entries = _entries(file, dialect, document, "annotations", optional=True)
    classes = _entries(file, dialect, document, "categories", optional=not entries)
    ids, source.categories = _read_categories(file, classes)
    source.category_ids = tuple(ids)
    boxes = _read_boxes(source, entries, table, ids, options)
    if not there.all():
        source.dropped[BOXES_OF_MISSING] = int((~there[boxes.rows]).sum())
    del document, entries
    order = np.argsort(boxes.rows, kind="stable")
    stops = np.cumsum(np.bincount(boxes.rows, minlength=len(table.names)))
    start = 0
    for row, stop in enumerate(stops):
        if there[row]:
            chosen = order[start:stop]
            width, height = table.sizes[row]
            yield Record(
                table.names[row],
                int(width),
                int(height),
                boxes.corners[chosen],
                boxes.labels[chosen],
                int(table.ids[row]),
                boxes.flags[chosen],
            )
        start = stop


def _entries(
    file: Path, dialect: Dialect, document: dict[str, Any], key: str, *, optional: bool = False
) -> list[dict[str, Any]]:
    """The list of objects under ``key``."""
    if key not in document and optional:
        return []
    value = document.get(key)
    if not isinstance(value, list):
        found = ", ".join(map(repr, document)) or "nothing"
        raise InputError(f"{file}: not a {dialect.name}: no list '{key}' (found {found})")
    for number, entry in enumerate(value):
        if not isinstance(entry, dict):
            raise InputError(f"{file}: entry {number} of '{key}' is not an object: {entry!r:.60}")
    return value


def _refuse_unknown_lists(file: Path, document: dict[str, Any]) -> None:
    """A file may lack annotations, but not because of a misspelt key."""
    unknown = [key for key, value in document.items() if isinstance(value, list | dict)]
    unknown = [key for key in unknown if key not in OTHER_KEYS]
    if unknown:
        raise InputError(
            f"{file}: no list 'annotations', but '{unknown[0]}'; rename it, or remove it where "
            "images without boxes are meant"
        )


def _column(file: Path, entries: Sequence[dict[str, Any]], list_name: str, key: str) -> list[Any]:
    try:
        return [entry[key] for entry in entries]
    except KeyError:
        lacking = [_short(e, n) for n, e in enumerate(entries) if key not in e]
        raise fault(file, f"{list_name} without '{key}'", lacking, "add it") from None


def _integers(
    file: Path, entries: Sequence[dict[str, Any]], list_name: str, key: str
) -> NDArray[np.int64]:
    values = _column(file, entries, list_name, key)
    limit = 2**63
    wrong = [n for n, v in enumerate(values) if type(v) is not int or not -limit <= v < limit]
    if wrong:
        named = [f"{_short(entries[n], n)}: {values[n]!r:.40}" for n in wrong]
        raise fault(file, f"'{key}' of {list_name} is not an integer", named, "mend it")
    return np.array(values, np.int64)


def _read_images(file: Path, entries: list[dict[str, Any]], dialect: Dialect) -> _Images:
    if not entries:
        raise InputError(f"{file}: the list 'images' is empty; nothing to train on")
    ids = _ids(file, entries, "images")
    given = _column(file, entries, "images", dialect.key)
    names = [dialect.to_name(value) for value in given]
    wrong = [n for n, name in enumerate(names) if not is_inside(name)]
    if wrong:
        named = [f"image {ids[n]}: {given[n]!r:.80}" for n in wrong]
        what = f"{dialect.key} is not a path inside the image folder"
        raise fault(file, what, named, "make it relative")
    sizes = np.stack([_integers(file, entries, "images", key) for key in ("width", "height")], 1)
    wrong = list(_where(np.logical_or.reduce((sizes < 1) | (sizes >= 2**31), axis=1)))
    if wrong:
        named = [f"image {ids[n]} ({names[n]}): {sizes[n, 0]}x{sizes[n, 1]}" for n in wrong]
        raise fault(file, "images without extent", named, "mend width and height")
    return _Images(ids, names, sizes)


def _find_files(source: Stream, table: _Images, options: Options) -> NDArray[np.bool_]:
    """Which images are there, by one listing of every folder: no stat each on a network disk."""
    folder = source.images
    need_folder(folder, "data.images")
    splits = [os.path.split(name) for name in table.names]
    held = {parent: listing(folder / parent) for parent in {parent for parent, _ in splits}}
    there = np.array([name in held[parent] for parent, name in splits], bool)
    if there.all():
        return there
    missing = [str(PurePosixPath(table.names[n])) for n in _where(~there)]
    if options.on_bad_image == "error" or not there.any():
        raise InputError(
            f"{folder}: {len(missing)} of the {len(there)} images of {source.annotations} are "
            f"missing, the first is {missing[0]}; check data.images, {DROP_IMAGES}"
        )
    for name in missing:
        source.drop(MISSING, name, "no such file")
    return there


def _read_categories(
    file: Path, entries: list[dict[str, Any]]
) -> tuple[list[int], tuple[str, ...]]:
    """Numbers and names of the categories, in the order of their numbers."""
    ids = _ids(file, entries, "categories")
    names = _column(file, entries, "categories", "name")
    order = np.argsort(ids)
    return [int(ids[n]) for n in order], tuple(str(names[n]) for n in order)


def _read_boxes(
    source: Stream,
    entries: list[dict[str, Any]],
    images: _Images,
    category_ids: list[int],
    options: Options,
) -> _Boxes:
    """The boxes kept; counts of those dropped go to the source."""
    file = source.annotations
    ids = _ids(file, entries, "annotations")

    def positions(key: str, known: NDArray[np.int64], what: str, remedy: str) -> NDArray[np.int64]:
        """Where the entries' ``key`` is among the known ids."""
        found, is_known = _lookup(_integers(file, entries, "annotations", key), known)
        if not is_known.all():
            wrong = [f"annotation {ids[n]}: {entries[n][key]}" for n in _where(~is_known)]
            raise fault(file, what, wrong, remedy)
        return found

    what, remedy = "annotations of unknown images (image_id)", "remove them"
    rows = positions("image_id", images.ids, what, remedy)
    what, remedy = "category_id without category", "add it to 'categories'"
    labels = positions("category_id", np.array(category_ids, np.int64), what, remedy)

    crowd = np.array([bool(entry.get("iscrowd", 0)) for entry in entries], bool)
    unwanted = crowd & bool(options.unwanted & Flag.GROUP)
    source.dropped[CROWD] = int(unwanted.sum())
    kept = np.flatnonzero(~unwanted)
    boxes = _box_column(file, [entries[n] for n in kept])
    with np.errstate(invalid="ignore", over="ignore"):
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    judged = judge(corners, images.sizes[rows[kept]])
    for reason, bad in ((DEGENERATE, judged.degenerate), (OUTSIDE, judged.outside)):
        source.dropped[reason] = 0
        named = [_describe_box(images, rows[kept[n]], ids[kept[n]], boxes[n]) for n in _where(bad)]
        if named and options.on_bad_box == "error":
            raise fault(file, f"boxes {reason}", named, DROP_BOXES)
        for n, what in zip(_where(bad), named, strict=True):
            source.drop(reason, images.names[rows[kept[n]]], what)
    good = judged.good
    chosen = kept[good]
    source.clipped = int(judged.moved[good].sum())
    flags = np.where(crowd[chosen], int(Flag.GROUP), 0).astype(np.uint8)
    return _Boxes(rows[chosen], labels[chosen].astype(np.int32), judged.boxes[good], flags)


def _box_column(file: Path, entries: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Columns x, y, width, height: float64 (n, 4)."""
    values = _column(file, entries, "annotations", "bbox")
    wrong = [n for n, value in enumerate(values) if not _is_box(value)]
    if wrong:
        named = [f"annotation {entries[n]['id']}: {values[n]!r:.60}" for n in wrong]
        raise fault(file, "'bbox' is not a list of 4 numbers", named, "mend it")
    return np.array(values, np.float64).reshape(-1, 4)


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 4 and all(_is_number(number) for number in value)
    )


def _is_number(value: Any) -> bool:
    # Python's integers may be too large for any float.
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def _describe_box(images: _Images, row: Any, annotation: Any, box: NDArray[np.float64]) -> str:
    width, height = images.sizes[row]
    return f"annotation {annotation} ({images.names[row]}, {width}x{height}): {numbers(box)}"


def _lookup(
    values: NDArray[np.int64], keys: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Position of every value among the keys, and whether it is one of them."""
    if not len(keys):
        return np.zeros(len(values), np.int64), np.zeros(len(values), bool)
    order = np.argsort(keys)
    place = np.minimum(np.searchsorted(keys, values, sorter=order), len(keys) - 1)
    found = order[place]
    return found, keys[found] == values


def _ids(file: Path, entries: list[dict[str, Any]], list_name: str) -> NDArray[np.int64]:
    ids = _integers(file, entries, list_name, "id")
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        named = [
            f"id {value} ({count} times)"
            for value, count in zip(values[counts > 1], counts[counts > 1], strict=True)
        ]
        raise fault(file, f"{list_name} with the same id", named, "make the ids unique")
    return ids


def _where(mask: NDArray[np.bool_]) -> Iterable[int]:
    return (int(n) for n in np.flatnonzero(mask))


def _short(entry: dict[str, Any], number: int) -> str:
    return f"id {entry['id']!r:.40}" if "id" in entry else f"entry {number}"
