"""COCO annotation files, checked entry by entry."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pretrain.data.records import ReadReport, Record
from pretrain.errors import InputError

OnBadBox = Literal["error", "drop"]

TOLERANCE = 1.0
"""Boxes may reach this many px over the border (rounding of the annotators' tools)."""

CROWD, DEGENERATE, OUTSIDE = "crowd", "without area", "outside the image"
"""Reasons for leaving out a box."""

OTHER_KEYS = ("info", "images", "licenses", "categories")
"""Keys of a COCO file without annotations, such as image_info_unlabeled2017.json."""

NAMED = 3
"""Entries named in a message; of the others only the number is given."""

_DROP = "mend it, or set on_bad_box=drop to leave such boxes out"


@dataclass(frozen=True)
class _Images:
    """The columns of 'images'."""

    ids: NDArray[np.int64]
    names: list[str]
    sizes: NDArray[np.int64]  # (N, 2) width, height


def read(annotations: Path, images: Path, on_bad_box: OnBadBox = "error") -> ReadReport:
    """Read an annotation file of COCO's instances format, or one that lists images only.

    Crowd boxes are left out. Boxes that reach over the border by up to 1 px are clipped.

    Args:
        annotations: the JSON file.
        images: the folder that ``file_name`` of every image is relative to.
        on_bad_box: what to do with boxes without area, not finite or outside their image.

    Raises:
        InputError: naming the file and the entries at fault.
    """
    content, document, stat = _load(annotations)
    table = _read_images(annotations, _entries(annotations, document, "images"))
    _check_files(annotations, images, table.names)
    if "annotations" not in document:
        _refuse_unknown_lists(annotations, document)
    boxes = _entries(annotations, document, "annotations", optional=True)
    classes = _entries(annotations, document, "categories", optional=not boxes)
    category_ids, categories = _read_categories(annotations, classes)
    rows, labels, corners, dropped, clipped = _read_boxes(
        annotations, boxes, table, category_ids, on_bad_box
    )
    order = np.argsort(rows, kind="stable")
    stops = np.cumsum(np.bincount(rows, minlength=len(table.names)))
    per_image = np.split(order, stops[:-1]) if len(table.names) else []
    records = [
        Record(name, int(width), int(height), corners[chosen], labels[chosen], int(image_id))
        for name, (width, height), image_id, chosen in zip(
            table.names, table.sizes, table.ids, per_image, strict=True
        )
    ]
    return ReadReport(
        annotations=annotations,
        images=images,
        categories=categories,
        category_ids=tuple(category_ids),
        records=records,
        dropped=dropped,
        clipped=clipped,
        source_size=stat.st_size,
        source_mtime_ns=stat.st_mtime_ns,
        source_sha256=hashlib.sha256(content).hexdigest(),
    )


def _load(file: Path) -> tuple[bytes, dict[str, Any], os.stat_result]:
    try:
        stat = file.stat()
        content = file.read_bytes()
    except OSError as error:
        raise InputError(
            f"{file}: cannot read the annotation file ({error.strerror}); check data.annotations"
        ) from None
    try:
        document = json.loads(content)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{file}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}; "
            "download or write the file again"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not JSON in UTF-8 ({error.reason} at {error.start})") from None
    if not isinstance(document, dict):
        raise InputError(f"{file}: not a COCO file: the outermost value must be an object")
    return content, document, stat


def _entries(
    file: Path, document: dict[str, Any], key: str, *, optional: bool = False
) -> list[dict[str, Any]]:
    """The list of objects under ``key``."""
    if key not in document and optional:
        return []
    value = document.get(key)
    if not isinstance(value, list):
        found = ", ".join(map(repr, document)) or "nothing"
        raise InputError(f"{file}: not a COCO file: no list '{key}' (found {found})")
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
        raise _fault(file, f"{list_name} without '{key}'", lacking, "add it") from None


def _integers(
    file: Path, entries: Sequence[dict[str, Any]], list_name: str, key: str
) -> NDArray[np.int64]:
    values = _column(file, entries, list_name, key)
    wrong = [n for n, value in enumerate(values) if type(value) is not int]
    if wrong:
        named = [f"{_short(entries[n], n)}: {values[n]!r:.40}" for n in wrong]
        raise _fault(file, f"'{key}' of {list_name} is not an integer", named, "mend it")
    return np.array(values, np.int64)


def _read_images(file: Path, entries: list[dict[str, Any]]) -> _Images:
    if not entries:
        raise InputError(f"{file}: the list 'images' is empty; nothing to train on")
    ids = _integers(file, entries, "images", "id")
    _refuse_duplicates(file, "images", ids)
    names = _column(file, entries, "images", "file_name")
    wrong = [n for n, name in enumerate(names) if not _is_inside(name)]
    if wrong:
        named = [f"image {ids[n]}: {names[n]!r:.80}" for n in wrong]
        raise _fault(
            file, "file_name is not a path inside the image folder", named, "make it relative"
        )
    sizes = np.stack([_integers(file, entries, "images", key) for key in ("width", "height")], 1)
    wrong = [int(n) for n in np.flatnonzero((sizes < 1).any(1))]
    if wrong:
        named = [f"image {ids[n]} ({names[n]}): {sizes[n, 0]}x{sizes[n, 1]}" for n in wrong]
        raise _fault(file, "images without extent", named, "mend width and height")
    return _Images(ids, names, sizes)


def _is_inside(name: Any) -> bool:
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _check_files(file: Path, folder: Path, names: list[str]) -> None:
    """Compare with one listing of every folder: no stat per image on a network disk."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such image folder; check data.images")
    paths = [PurePosixPath(name) for name in names]
    there = {parent: _listing(folder / parent) for parent in {path.parent for path in paths}}
    missing = [str(path) for path in paths if path.name not in there[path.parent]]
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} of the {len(names)} images of {file} are missing, the "
            f"first is {missing[0]}; check data.images or finish the download"
        )


def _listing(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except FileNotFoundError:
        return set()


def _read_categories(
    file: Path, entries: list[dict[str, Any]]
) -> tuple[list[int], tuple[str, ...]]:
    """Numbers and names of the categories, in the order of their numbers."""
    ids = _integers(file, entries, "categories", "id")
    _refuse_duplicates(file, "categories", ids)
    names = _column(file, entries, "categories", "name")
    order = np.argsort(ids)
    return [int(ids[n]) for n in order], tuple(str(names[n]) for n in order)


def _read_boxes(
    file: Path,
    entries: list[dict[str, Any]],
    images: _Images,
    category_ids: list[int],
    on_bad_box: OnBadBox,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32], dict[str, int], int]:
    """Image row, label and x1 y1 x2 y2 of every box kept; counts of those dropped; clipped."""
    ids = _integers(file, entries, "annotations", "id")
    _refuse_duplicates(file, "annotations", ids)
    rows, known = _lookup(_integers(file, entries, "annotations", "image_id"), images.ids)
    if not known.all():
        wrong = [f"annotation {ids[n]}: {entries[n]['image_id']}" for n in _where(~known)]
        raise _fault(file, "annotations of unknown images (image_id)", wrong, "remove them")
    labels, known = _lookup(
        _integers(file, entries, "annotations", "category_id"), np.array(category_ids, np.int64)
    )
    if not known.all():
        wrong = [f"annotation {ids[n]}: {entries[n]['category_id']}" for n in _where(~known)]
        raise _fault(file, "category_id without category", wrong, "add it to 'categories'")

    single = np.array([not entry.get("iscrowd", 0) for entry in entries], bool)
    dropped = {CROWD: int((~single).sum())}
    kept = np.flatnonzero(single)
    boxes = _box_column(file, [entries[n] for n in kept])
    limits = images.sizes[rows[kept]].astype(np.float64)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    clipped = np.clip(corners, 0, np.concatenate([limits, limits], 1))
    exact = clipped.astype(np.float32)

    finite = np.isfinite(boxes).all(1)
    outside = finite & (np.abs(clipped - corners) > TOLERANCE).any(1)
    # Judged in float32, as stored, so that no box loses its area on the way.
    degenerate = ~finite | ~(exact[:, 2:] > exact[:, :2]).all(1) | ~(boxes[:, 2:] > 0).all(1)
    degenerate &= ~outside
    for reason, bad in ((DEGENERATE, degenerate), (OUTSIDE, outside)):
        dropped[reason] = int(bad.sum())
        if bad.any() and on_bad_box == "error":
            named = [
                _describe_box(images, rows[kept[n]], ids[kept[n]], boxes[n]) for n in _where(bad)
            ]
            raise _fault(file, f"boxes {reason}", named, _DROP)
    good = ~(degenerate | outside)
    chosen = kept[good]
    moved = int((clipped[good] != corners[good]).any(1).sum())
    return rows[chosen], labels[chosen].astype(np.int32), exact[good], dropped, moved


def _box_column(file: Path, entries: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Columns x, y, width, height: float64 (n, 4)."""
    values = _column(file, entries, "annotations", "bbox")
    wrong = [n for n, value in enumerate(values) if not _is_box(value)]
    if wrong:
        named = [f"annotation {entries[n]['id']}: {values[n]!r:.60}" for n in wrong]
        raise _fault(file, "'bbox' is not a list of 4 numbers", named, "mend it")
    return np.array(values, np.float64).reshape(-1, 4)


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(type(number) in (int, float) for number in value)
    )


def _describe_box(images: _Images, row: Any, annotation: Any, box: NDArray[np.float64]) -> str:
    width, height = images.sizes[row]
    numbers = ", ".join(f"{value:g}" for value in box)
    return f"annotation {annotation} ({images.names[row]}, {width}x{height}): [{numbers}]"


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


def _refuse_duplicates(file: Path, list_name: str, ids: NDArray[np.int64]) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        named = [
            f"id {value} ({count} times)"
            for value, count in zip(values[counts > 1], counts[counts > 1], strict=True)
        ]
        raise _fault(file, f"{list_name} with the same id", named, "make the ids unique")


def _where(mask: NDArray[np.bool_]) -> Iterable[int]:
    return (int(n) for n in np.flatnonzero(mask))


def _short(entry: dict[str, Any], number: int) -> str:
    return f"id {entry['id']!r:.40}" if "id" in entry else f"entry {number}"


def _fault(file: Path, what: str, entries: list[str], remedy: str) -> InputError:
    more = f" ({len(entries)} in all)" if len(entries) > NAMED else ""
    return InputError(f"{file}: {what}: {'; '.join(entries[:NAMED])}{more}; {remedy}")
