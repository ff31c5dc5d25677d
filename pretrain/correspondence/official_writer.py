"""Writing a table of pairs in the format of the published ORL code's second stage."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.core.errors import InputError
from pretrain.correspondence.pipeline import PAIRS, REGIONS
from pretrain.correspondence.regions import Regions
from pretrain.correspondence.shard_files import manifest, replacing
from pretrain.data.index import Index
from pretrain.data.pairs import PairTable


def write_official(file: Path, index: Index, folder: Path) -> None:
    """Write ``train2017_10nn_instance_correspondence.json`` of a folder of correspondences.

    Raises:
        InputError: the table is of another index, or the file cannot be written.
    """
    table, regions = PairTable.open(folder / PAIRS), Regions.open(folder / REGIONS)
    if table.fingerprint != index.fingerprint:
        raise InputError(f"{folder / PAIRS}: is of another index than {index.folder}")
    rows = range(len(index))
    ids = [index.image_id(row) for row in rows]
    document = {
        "info": _info(folder),
        "images": {"file_name": [index.file_name(row) for row in rows], "id": ids},
        "pseudo_annotations": {
            "image_id": ids,
            "bbox": [_plain(regions.of(row)) for row in rows],
            "knn_image_id": [table.neighbours[_span(table, row)].tolist() for row in rows],
            "knn_bbox_pair": [_pairs(table, row) for row in rows],
        },
    }
    with replacing(file) as stream:
        stream.write(json.dumps(document).encode())


def _info(folder: Path) -> dict[str, Any]:
    """The settings under the names of the published code, as far as they are known."""
    held = manifest(folder)
    if "info" in held["facts"]:
        return dict(held["facts"]["info"])
    settings = held["settings"]
    return {
        "intra_bbox_num": settings["max_regions"],
        "knn_image_num": settings["neighbours"],
        "knn_bbox_pair_ratio": settings["share"],
    }


def _span(table: PairTable, row: int) -> slice:
    start, stop = table.neighbour_offsets[row : row + 2]
    return slice(int(start), int(stop))


def _pairs(table: PairTable, row: int) -> list[Any]:
    span = _span(table, row)
    ends = table.pair_offsets[span.start : span.stop + 1]
    return [
        [
            [*query, *key]
            for query, key in zip(
                _plain(table.query[start:stop]), _plain(table.key[start:stop]), strict=True
            )
        ]
        for start, stop in itertools.pairwise(ends)
    ]


def _plain(boxes: NDArray[np.float32]) -> list[list[float]]:
    """X, y, width, height; whole numbers as such, which is what the published files hold."""
    corners = boxes.astype(np.float64)
    values = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    whole = bool((values == np.rint(values)).all())
    plain: list[list[float]] = (values.astype(np.int64) if whole else values).tolist()
    return plain
