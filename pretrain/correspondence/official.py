"""Reading the JSON files of the published ORL code's second stage.

Images are matched with those of an index by file name. Boxes are x, y, width, height in px; where
a list holds a single box, the published code may have squeezed it to the box itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.core.errors import InputError
from pretrain.correspondence.regions import Regions
from pretrain.data.index import Index
from pretrain.data.pairs import Neighbor, PairTable
from pretrain.datasets.proposals.filters import FilterSettings, select

NOTES = "pseudo_annotations"
SLACK = 0.01
"""How far a box may reach over the border, px: what decimals cost."""


@dataclass(frozen=True)
class Correspondences:
    """What a file of correspondences says of an index.

    Attributes:
        table: of pairs.
        regions: the boxes that were compared; the whole image where the file has none.
        absent: images of the index that the file does not know.
        own: images that are among their own neighbors.
        info: what the file says of its making.
    """

    table: PairTable
    regions: Regions
    absent: int
    own: int
    info: dict[str, Any]


def read_correspondences(file: Path, index: Index) -> Correspondences:
    """Read ``train2017_10nn_instance_correspondence.json``.

    Raises:
        InputError: not such a file, or an entry does not fit the images of the index.
    """
    document = _load(file)
    rows = _rows(file, document, index)
    count = len(rows)
    boxes = _list(file, document, NOTES, "bbox", count)
    neighbours = _list(file, document, NOTES, "knn_image_id", count)
    pairs = _list(file, document, NOTES, "knn_bbox_pair", count)
    sizes = index.column("sizes")
    intra = [np.empty((0, 4), np.float32)] * len(index)
    found: list[list[Neighbor]] = [[] for _ in range(len(index))]
    own = 0
    for place, row in enumerate(rows):
        where = f"{NOTES}.bbox[{place}]"
        intra[row] = _inside(file, where, _boxes(file, where, boxes[place], 4), sizes[row])
        ids = _places(file, f"{NOTES}.knn_image_id[{place}]", neighbours[place], count)
        where = f"{NOTES}.knn_bbox_pair[{place}]"
        if not isinstance(pairs[place], list) or len(pairs[place]) != len(ids):
            raise InputError(f"{file}: {where}: must be a list of {len(ids)}, one per neighbor")
        own += place in ids
        for rank, (other, entry) in enumerate(zip(ids, pairs[place], strict=True)):
            at = f"{where}[{rank}]"
            both = _boxes(file, at, entry, 8)
            query = _inside(file, at, both[:, :4], sizes[row])
            key = _inside(file, at, both[:, 4:], sizes[rows[other]])
            found[row].append(Neighbor(rows[other], query, key))
    table = PairTable.build(index.fingerprint, found)
    limit = max(1, max((len(part) for part in intra), default=1))
    regions = Regions.gather(index, intra, limit)
    info = document.get("info")
    return Correspondences(
        table, regions, len(index) - count, own, info if isinstance(info, dict) else {}
    )


def read_neighbors(file: Path, index: Index, k: int) -> tuple[NDArray[np.int64], list[int]]:
    """Read ``train2017_10nn_instance.json``.

    Args:
        file: to read.
        index: of the images.
        k: neighbors wanted. An image that is its own neighbor is left out.

    Returns:
        int64 (N, k), rows of the index, -1 where there are no more; and the row of each image in
        the order of the file.

    Raises:
        InputError: not such a file, it has fewer neighbors, or an image the index lacks.
    """
    document = _load(file)
    rows = _rows(file, document, index)
    entries = _list(file, document, NOTES, "knn_image_id", len(rows))
    found = np.full((len(index), k), -1, np.int64)
    for place, row in enumerate(rows):
        where = f"{NOTES}.knn_image_id[{place}]"
        ids = _places(file, where, entries[place], len(rows))
        if len(ids) < k:
            raise InputError(f"{file}: {where}: {len(ids)} neighbors; set --neighbours {len(ids)}")
        others = [rows[other] for other in ids if other != place][:k]
        found[row, : len(others)] = others
    return found, rows


def read_proposals(
    file: Path, index: Index, order: list[int] | None = None
) -> list[NDArray[np.float32]]:
    """Read the proposals of selective search, ``{"bbox": [N][n][4]}``, and filter them as ORL.

    The file names no images.

    Args:
        file: to read.
        index: of the images.
        order: row of each entry; None: entries are in the order of the index.

    Returns:
        Per row float32 (n, 4), x1 y1 x2 y2 in px.

    Raises:
        InputError: not such a file, another number of images, or a box outside its image.
    """
    document = _load(file)
    rows = list(range(len(index))) if order is None else order
    entries = document.get("bbox")
    if not isinstance(entries, list) or len(entries) != len(rows):
        has = f"{len(entries)} entries" if isinstance(entries, list) else "no list"
        raise InputError(
            f"{file}: bbox: {has}, but there are {len(rows)} images; the proposals must be of "
            "the same images in the same order"
        )
    found = [np.empty((0, 4), np.float32)] * len(index)
    sizes = index.column("sizes")
    for place, row in enumerate(rows):
        where = f"bbox[{place}]"
        boxes = _inside(file, where, _boxes(file, where, entries[place], 4), sizes[row])
        found[row] = boxes[select(boxes, FilterSettings())[0]]
    return found


def _load(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{file}: not a JSON file ({error})") from None
    if not isinstance(document, dict):
        raise InputError(f"{file}: must hold an object with the lists of ORL's second stage")
    return document


def _list(file: Path, document: dict[str, Any], part: str, name: str, count: int) -> list[Any]:
    values = document[part].get(name) if isinstance(document.get(part), dict) else None
    if not isinstance(values, list):
        raise InputError(f"{file}: {part}.{name}: no such list; is it a file of this stage?")
    if len(values) != count:
        raise InputError(f"{file}: {part}.{name}: {len(values)} entries for {count} images")
    return values


def _rows(file: Path, document: dict[str, Any], index: Index) -> list[int]:
    """The row of each image of the file."""
    images = document.get("images")
    names = images.get("file_name") if isinstance(images, dict) else None
    if not isinstance(names, list):
        raise InputError(f"{file}: images.file_name: no such list; is it a file of this stage?")
    _list(file, document, "images", "id", len(names))
    _list(file, document, NOTES, "image_id", len(names))
    row_of = {index.file_name(row): row for row in range(len(index))}
    first: dict[Any, int] = {}
    for place, name in enumerate(names):
        if not isinstance(name, str) or name not in row_of:
            raise InputError(
                f"{file}: images.file_name[{place}]: {name!r} is not in the index {index.folder}"
            )
        if first.setdefault(name, place) != place:
            raise InputError(
                f"{file}: images.file_name[{place}]: {name!r} is there twice, as is [{first[name]}]"
            )
    return [row_of[name] for name in names]


def _places(file: Path, where: str, value: Any, count: int) -> list[int]:
    """Images, as places in the file; they are called ids, but are none."""
    sound = isinstance(value, list) and all(type(place) is int for place in value)
    if not sound:
        raise InputError(f"{file}: {where}: must be a list of places in images.file_name")
    for place in value:
        if not 0 <= place < count:
            raise InputError(
                f"{file}: {where}: {place} is no place in images.file_name, which has {count}"
            )
    return list(value)


def _boxes(file: Path, where: str, value: Any, width: int) -> NDArray[np.float64]:
    """Rows of ``width`` numbers, float64 (n, width)."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        array = np.full((1, 1), np.nan)
    if isinstance(value, list) and array.shape == (0,):
        return np.empty((0, width))
    if array.shape == (width,):
        array = array[None]
    if array.ndim != 2 or array.shape[1] != width or not np.isfinite(array).all():
        raise InputError(f"{file}: {where}: must be a list of boxes, {width} numbers each")
    return array


def _inside(
    file: Path, where: str, boxes: NDArray[np.float64], size: NDArray[np.int32]
) -> NDArray[np.float32]:
    """From x, y, width, height to x1 y1 x2 y2 inside an image of this width and height."""
    limit = np.concatenate([size, size])
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    wrong = (boxes[:, 2:] <= 0).any(1) | ((corners < -SLACK) | (corners > limit + SLACK)).any(1)
    if wrong.any():
        place = int(wrong.argmax())
        what = "has no area" if (boxes[place, 2:] <= 0).any() else "is outside its image"
        box = ", ".join(f"{value:g}" for value in boxes[place])
        raise InputError(
            f"{file}: {where}[{place}]: box [{box}] {what} of {size[0]} x {size[1]} px"
        )
    inside: NDArray[np.float32] = np.clip(corners, 0, limit).astype(np.float32)
    return inside
