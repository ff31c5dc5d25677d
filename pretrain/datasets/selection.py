"""The multi-object subset of the HCL paper, as a rule on an index."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.core.errors import InputError
from pretrain.data.index import Index
from pretrain.datasets.index_writer import IndexWriter
from pretrain.datasets.records import Record, Stream

LIST = "selection.txt"
"""The chosen images, one a line, in the order of the rows: ImageIDs for OpenImages."""

PAPER = {"images": 212_753, "classes": 208}
"""Published counts of the subset of OpenImages (arXiv 2112.00319, README; used by HCL)."""


@dataclass(frozen=True)
class Rule:
    """Keep images of several classes, and classes of many images.

    Attributes:
        min_classes: distinct classes an image needs.
        min_images: images a class needs.
    """

    min_classes: int = 2
    min_images: int = 900


PAPER_RULE = Rule()


@dataclass(frozen=True)
class Selection:
    """What a rule leaves.

    Attributes:
        rows: int64, of the index, ascending.
        labels: int64, labels of the index, ascending.
        rounds: until nothing changed any more.
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    rounds: int


def choose(index: Index, rule: Rule) -> Selection:
    """Apply the rule until nothing changes.

    An image left out may bring a class below its limit, and a class left out an image below
    its. What remains is the largest set in which every image has ``min_classes`` classes of the
    set and every class ``min_images`` images of the set; it does not depend on the order.
    """
    count = max(len(index.categories), 1)
    rows = np.repeat(np.arange(len(index)), np.diff(index.column("box_offsets")))
    pairs = np.unique(rows * count + index.column("labels"))
    rows, labels = pairs // count, pairs % count
    rounds = 0
    while True:
        rounds += 1
        per_class = np.bincount(labels, minlength=count)
        kept = per_class[labels] >= rule.min_images
        rows, labels = rows[kept], labels[kept]
        per_image = np.bincount(rows, minlength=len(index))
        stays = per_image[rows] >= rule.min_classes
        rows, labels = rows[stays], labels[stays]
        if kept.all() and stays.all():
            return Selection(np.unique(rows), np.unique(labels), rounds)


def select(index: Index, folder: Path, rule: Rule) -> Index:
    """Write the selection as an index of its own, with the list of its images.

    Boxes of classes that are left out are left out too. The new index tells in
    ``meta["selection"]`` the rule, the counts, the fingerprint of the index it comes from and the
    sha256 of the list.

    Raises:
        InputError: nothing is left, or the folder cannot be written.
    """
    chosen = choose(index, rule)
    if not len(chosen.rows):
        raise InputError(
            f"{index.folder}: no image has {rule.min_classes} classes of at least "
            f"{rule.min_images} images; lower --min-classes or --min-images"
        )
    new_label = np.full(max(len(index.categories), 1), -1, np.int32)
    new_label[chosen.labels] = np.arange(len(chosen.labels))
    rows = chosen.rows.tolist()
    listed = "".join(f"{Path(index.file_name(row)).stem}\n" for row in rows)
    inside, written = int(np.diff(index.column("box_offsets"))[rows].sum()), 0
    with IndexWriter(folder, index.images) as writer:
        for row in rows:
            labels = new_label[index.labels(row)]
            kept = labels >= 0
            written += int(kept.sum())
            boxes, flags = index.boxes(row)[kept], index.flags(row)[kept]
            name, size, number = index.file_name(row), index.size(row), index.image_id(row)
            writer.append(Record(name, *size, boxes, labels[kept], number, flags))
        source = Stream(
            annotations=index.folder,
            images=index.images,
            categories=tuple(index.categories[n] for n in chosen.labels),
            category_ids=tuple(index.category_ids[n] for n in chosen.labels),
            dropped={
                "of images not chosen": index.box_count - inside,
                "of classes not chosen": inside - written,
            },
        )
        writer.finish(
            source,
            index.meta["options"],
            extra={
                "source": index.meta["source"],
                "selection": {
                    "rule": vars(rule),
                    "images": len(rows),
                    "classes": len(chosen.labels),
                    "rounds": chosen.rounds,
                    "list_sha256": hashlib.sha256(listed.encode()).hexdigest(),
                    "from_fingerprint": index.fingerprint,
                },
            },
            files={LIST: listed},
        )
    return Index.open(folder)


def compare_with_paper(selection: dict[str, Any]) -> str:
    """A line that sets the counts of ``meta["selection"]`` beside the published ones."""
    same = all(selection[name] == count for name, count in PAPER.items())
    verdict = "the same" if same else "NOT the same: the release or its filters differ"
    return (
        f"{selection['images']} images, {selection['classes']} classes; published for OpenImages: "
        f"{PAPER['images']} images, {PAPER['classes']} classes ({verdict})"
    )
