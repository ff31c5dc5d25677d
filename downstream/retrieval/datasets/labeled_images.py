"""Labeled images of a retrieval data set, whatever files it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretrain.core.errors import InputError

Split = Literal["train", "test", "query", "gallery"]
SPLITS: tuple[Split, ...] = ("train", "test", "query", "gallery")


class Item(NamedTuple):
    """One labeled image, or one object of an image.

    Attributes:
        path: of the image, relative to the set's root.
        label: class, as its source calls it.
        split: which part of the set it belongs to.
        box: x1 y1 x2 y2 in px; None: the whole image.
        size: width and height of the image by the annotations, given where ``box`` is.
        group: the coarse class that ``label`` belongs to; None: the set has none.
        tested_as: its part of the set where its class is tested.
    """

    path: str
    label: str
    split: Split
    box: tuple[int, int, int, int] | None = None
    size: tuple[int, int] | None = None
    group: str | None = None
    tested_as: Split = "test"


@dataclass(frozen=True)
class LabeledImages:
    """N images, or objects of images, of one data set.

    A set is searched either among its ``test`` images, each a query and the rest its gallery, or
    from its ``query`` images in its ``gallery``.

    Attributes:
        name: of the set.
        root: folder the paths are relative to.
        paths: (N,), of images.
        boxes: int64 (N, 4) x1 y1 x2 y2 in px, or None where every image is taken whole.
        sizes: int64 (N, 2) width and height of the images by the annotations, beside ``boxes``.
        labels: int64 (N,), positions in ``classes``; one numbering for all splits.
        classes: names as in the source, in order of first appearance.
        splits: (N,), each one of ``SPLITS``.
        tested_as: (N,), the splits that images have where their classes are tested.
        groups: coarse class of each of ``classes``; None where the set has none.
    """

    name: str
    root: Path
    paths: tuple[str, ...]
    boxes: NDArray[np.int64] | None
    sizes: NDArray[np.int64] | None
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    splits: NDArray[np.str_]
    tested_as: NDArray[np.str_]
    groups: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def has_gallery(self) -> bool:
        """Whether queries and gallery are different images."""
        return bool((self.splits == "query").any())

    def rows(self, *splits: Split) -> NDArray[np.int64]:
        """The rows of some splits, in order."""
        return np.flatnonzero(np.isin(self.splits, splits)).astype(np.int64)

    def tested(self, split: Split = "test") -> tuple[NDArray[np.int64], ...]:
        """Rows that a ranking is of, and positions among them of its queries and its gallery.

        Without a gallery, or of another split than ``test``, all images of the split are both.
        """
        if split == "test" and self.has_gallery:
            rows = self.rows("query", "gallery")
            kinds = self.splits[rows]
            return rows, *(np.flatnonzero(kinds == kind) for kind in ("query", "gallery"))
        rows = self.rows(split)
        return rows, np.arange(len(rows)), np.arange(len(rows))

    def counts(self) -> dict[Split, tuple[int, int]]:
        """Images and classes of each split that has any."""
        found: dict[Split, tuple[int, int]] = {}
        for split in SPLITS:
            labels = self.labels[self.splits == split]
            if len(labels):
                found[split] = (len(labels), len(np.unique(labels)))
        return found

    @property
    def fingerprint(self) -> str:
        """sha256 of what the set says: paths, boxes, labels and splits."""
        digest = hashlib.sha256("\n".join(self.paths).encode())
        digest.update(b"" if self.boxes is None else self.boxes.tobytes())
        digest.update(self.labels.tobytes())
        digest.update("\n".join([*self.classes, *self.splits.tolist()]).encode())
        return digest.hexdigest()

    def check_files(self, remedy: str) -> None:
        """Look whether every image is there.

        Raises:
            InputError: naming the first that is not, how many are not, and ``remedy``.
        """
        missing = [path for path in dict.fromkeys(self.paths) if not (self.root / path).is_file()]
        if missing:
            raise InputError(
                f"{self.root / missing[0]}: not there, as {len(missing)} of "
                f"{len(set(self.paths))} images; {remedy}"
            )


def collect(name: str, root: Path, items: Sequence[Item]) -> LabeledImages:
    """Make a set of its items, in their order."""
    numbers: dict[str, int] = {}
    labels = [numbers.setdefault(item.label, len(numbers)) for item in items]
    boxes = [item.box for item in items if item.box is not None]
    sizes = [item.size for item in items if item.size is not None]
    assert {len(boxes), len(sizes)} in ({0}, {len(items)}), "boxes and sizes for all, or none"
    return LabeledImages(
        name,
        root,
        tuple(item.path for item in items),
        np.array(boxes, np.int64) if boxes else None,
        np.array(sizes, np.int64) if sizes else None,
        np.array(labels, np.int64),
        tuple(numbers),
        np.array([item.split for item in items], dtype=str),
        np.array([item.tested_as for item in items], dtype=str),
        _groups(items),
    )


def _groups(items: Sequence[Item]) -> tuple[str, ...] | None:
    above = {item.label: item.group for item in items}
    found = tuple(group for group in above.values() if group is not None)
    assert len(found) in (0, len(above)), "groups for all classes, or none"
    return found or None


def coarse(images: LabeledImages) -> LabeledImages:
    """The same images in the same parts, labeled with their coarse classes."""
    assert images.groups is not None, "checked by the settings"
    numbers = {name: number for number, name in enumerate(dict.fromkeys(images.groups))}
    above = np.array([numbers[name] for name in images.groups], np.int64)
    return replace(images, labels=above[images.labels], classes=tuple(numbers), groups=None)


def within_training(images: LabeledImages) -> LabeledImages:
    """The training images alone: the first half of their classes to train on, the others to test.

    For choosing settings without a look at the test classes. Classes of one coarse class stay
    together.

    Raises:
        InputError: the training classes cannot be divided so.
    """
    rows = images.rows("train")
    kept = np.unique(images.labels[rows])
    groups = [
        images.classes[label] if images.groups is None else images.groups[label] for label in kept
    ]
    count = first_half(groups)
    if not count:
        raise InputError(
            f"{images.root}: {len(kept)} classes to train on cannot be divided; data.validation "
            "needs two or more, not all of one coarse class"
        )
    labels = np.searchsorted(kept, images.labels[rows])
    return replace(
        images,
        paths=tuple(images.paths[row] for row in rows),
        boxes=None if images.boxes is None else images.boxes[rows],
        sizes=None if images.sizes is None else images.sizes[rows],
        labels=labels,
        classes=tuple(images.classes[label] for label in kept),
        splits=np.where(labels < count, "train", images.tested_as[rows]),
        tested_as=images.tested_as[rows],
        groups=None if images.groups is None else tuple(groups),
    )


def first_half(groups: Sequence[str]) -> int:
    """How many of the first classes make at most half of them without dividing a group.

    Args:
        groups: the group of each class, in order; classes of a group follow each other.
    """
    count = len(groups) // 2
    while count and groups[count - 1] == groups[count]:
        count -= 1
    return count


def halves(classes: Sequence[str], train_classes: int | None, source: Path) -> dict[str, Split]:
    """Which classes are trained on: the first ``train_classes``, by default half of them.

    Raises:
        InputError: nothing would remain to train on or to test.
    """
    count = len(classes) // 2 if train_classes is None else train_classes
    if not 0 < count < len(classes):
        raise InputError(
            f"{source}: {count} of its {len(classes)} classes to train on leaves nothing to train "
            "on or nothing to test; set data.train_classes"
        )
    return {label: "train" if place < count else "test" for place, label in enumerate(classes)}


def find_root(root: Path, folder: str, marker: str, remedy: str) -> Path:
    """The folder in which ``marker`` lies: ``root`` itself, or ``root/folder``.

    Raises:
        InputError: it lies in neither.
    """
    for place in (root, root / folder):
        if (place / marker).exists():
            return place
    raise InputError(f"{root / folder / marker}: not there; {remedy}")
