"""Which labeled crops take part in a probe: bank and queries, and every process' share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pretrain.core.errors import InputError
from pretrain.data.index import Index
from pretrain.data.pack import Pack, open_pack
from pretrain.datasets.records import Flag
from pretrain.datasets.source import DataSettings, open_index

EVERY = 5
"""One image in so many is classified where there is no set for it."""

UNKNOWN = -1
"""The label of a query whose category the bank does not know."""


@dataclass(frozen=True)
class Items:
    """N labeled regions, image by image in the order of the index.

    Attributes:
        index: of the images.
        pack: of the same images, or None.
        rows: int64 (N,), rows of the index.
        boxes: float32 (N, 4), x1 y1 x2 y2 in px.
        labels: int64 (N,), positions in ``categories``, or ``UNKNOWN``.
        categories: names.
    """

    index: Index
    pack: Pack | None
    rows: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    categories: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Items:
        """Some of them, in order."""
        return replace(
            self, rows=self.rows[chosen], boxes=self.boxes[chosen], labels=self.labels[chosen]
        )

    def thinned(self, limit: int) -> Items:
        """At most ``limit`` of them, spread evenly."""
        count = min(limit, len(self))
        return self.take(np.arange(count, dtype=np.int64) * len(self) // max(count, 1))

    def shares(self, size: int) -> list[Items]:
        """Divided over ``size`` processes; the items of one image stay together."""
        parts = np.array_split(np.unique(self.rows), size)
        return [self.take(np.isin(self.rows, part)) for part in parts]


def choose_items(
    data: DataSettings,
    test: DataSettings | None,
    crops: Literal["object", "image"],
    limit: int,
    *,
    names: tuple[str, str] = ("probe.data", "probe.test"),
) -> tuple[Items, Items]:
    """The bank and the queries; no image is on both sides.

    Args:
        data: of the bank.
        test: of the queries; None: every fifth labeled image of ``data``.
        crops: what an item is.
        limit: items at most on each side.
        names: of the two in messages.

    Raises:
        InputError: a set cannot be read or has no labels of use, or both sides share images.
    """
    found = _labeled(data, crops, names[0])
    if test is None:
        images = np.unique(found.rows)
        if len(images) < EVERY:
            raise InputError(
                f"{names[0]}: {found.index.images}: only {len(images)} labeled images, too few to "
                f"keep every fifth for queries; give more, or a set of its own as {names[1]}"
            )
        is_query = np.isin(found.rows, images[EVERY - 1 :: EVERY])
        bank, queries = found.take(~is_query), found.take(is_query)
    else:
        bank, queries = found, _renamed(_labeled(test, crops, names[1]), found.categories, names)
        _refuse_shared_images(bank, queries, names)
    return bank.thinned(limit), queries.thinned(limit)


def _labeled(data: DataSettings, crops: Literal["object", "image"], where: str) -> Items:
    try:
        index = open_index(data)
        pack = open_pack(data.pack, index)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    counts = np.diff(index.column("box_offsets"))
    # A proposal is computed; nobody has said what it shows.
    labeled = (index.column("flags") & Flag.PROPOSAL) == 0
    rows = np.repeat(np.arange(len(index), dtype=np.int64), counts)[labeled]
    labels = index.column("labels")[labeled].astype(np.int64)
    items = Items(index, pack, rows, index.column("boxes")[labeled], labels, index.categories)
    if crops == "image":
        items = _whole_images(items)
    if len(np.unique(items.labels)) < 2:
        kind = "labeled boxes" if crops == "object" else "images of one category"
        have = f"{len(items)} {kind}" + (", all of the same category" if len(items) else "")
        raise InputError(
            f"{where}: {index.meta['source']['path']}: {have}; a probe needs labels of two "
            "categories: give annotations with categories, or a folder with class_folders=true"
        )
    return items


def _whole_images(items: Items) -> Items:
    """One item for each image whose boxes have one category: the whole of it."""
    rows, first = np.unique(items.rows, return_index=True)
    if not len(rows):
        return items
    lowest = np.minimum.reduceat(items.labels, first)
    one = lowest == np.maximum.reduceat(items.labels, first)
    sizes = items.index.column("sizes")[rows]
    boxes = np.concatenate([np.zeros_like(sizes), sizes], axis=1).astype(np.float32)
    return replace(items, rows=rows[one], boxes=boxes[one], labels=lowest[one])


def _renamed(queries: Items, categories: tuple[str, ...], names: tuple[str, str]) -> Items:
    """With the labels of the bank, by the categories' names."""
    place = {name: label for label, name in enumerate(categories)}
    translation = np.array([place.get(name, UNKNOWN) for name in queries.categories], np.int64)
    labels = translation[queries.labels]
    if (labels == UNKNOWN).all():
        raise InputError(
            f"{names[1]}: {queries.index.meta['source']['path']}: shares no category with "
            f"{names[0]} ('{queries.categories[0]}' is none of its {len(categories)}); give sets "
            "with the same categories"
        )
    return replace(queries, labels=labels, categories=categories)


def _refuse_shared_images(bank: Items, queries: Items, names: tuple[str, str]) -> None:
    known = {str(bank.index.path(int(row)).resolve()) for row in np.unique(bank.rows)}
    for row in np.unique(queries.rows):
        path = queries.index.path(int(row))
        if str(path.resolve()) in known:
            raise InputError(
                f"{names[1]}: {path}: this image is also in {names[0]}; give sets without common "
                f"images, or leave {names[1]} out to have the one set divided"
            )
