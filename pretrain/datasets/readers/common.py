"""What all readers share: options, the judgment of boxes, the form of messages."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pretrain.core.errors import InputError
from pretrain.datasets.records import Flag, Record, Stream

OnBad = Literal["error", "drop"]
FlagName = Literal["group", "depiction", "occluded", "truncated", "difficult", "inside", "proposal"]

TOLERANCE = 1.0
"""Boxes may reach this many px over the border (rounding of the annotators' tools)."""

DEGENERATE, OUTSIDE = "without area", "outside the image"
"""Reasons for leaving out a box."""

MISSING, UNREADABLE = "images missing", "images unreadable"
"""Reasons for leaving out an image."""

NAMED = 3
"""Entries named in a message; of the others only the number is given."""

DROP_BOXES = "mend it, or set on_bad_box=drop to leave such boxes out"
DROP_IMAGES = "finish the download, or set on_bad_image=drop to leave such images out"


@dataclass(frozen=True)
class Options:
    """How a reader treats what it does not like.

    Attributes:
        on_bad_box: boxes without area, not finite, or outside their image.
        on_bad_image: images that are missing, or whose header cannot be read where a reader has
            to read it.
        leave_out: boxes with one of these flags are left out and counted.
    """

    on_bad_box: OnBad = "error"
    on_bad_image: OnBad = "error"
    leave_out: tuple[FlagName, ...] = ("group",)

    @property
    def unwanted(self) -> int:
        """The flags of ``leave_out`` as bits."""
        return flag_bits(self.leave_out)


DEFAULT = Options()
NO_BOXES = np.empty((0, 4), np.float32)


def flag_bits(names: tuple[FlagName, ...]) -> int:
    """The union of the named flags."""
    return sum(Flag[name.upper()] for name in set(names))


@dataclass(frozen=True)
class BoxCheck:
    """Boxes after comparison with their image.

    Attributes:
        boxes: float32 (n, 4), clipped to the image.
        outside: bool (n,), further outside than the tolerance.
        degenerate: bool (n,), not finite or without area, and not outside.
        moved: bool (n,), clipping has changed it.
    """

    boxes: NDArray[np.float32]
    outside: NDArray[np.bool_]
    degenerate: NDArray[np.bool_]
    moved: NDArray[np.bool_]

    @property
    def good(self) -> NDArray[np.bool_]:
        """The boxes to keep, bool (n,)."""
        return ~(self.outside | self.degenerate)


def judge(corners: NDArray[np.float64], sizes: NDArray[np.int64]) -> BoxCheck:
    """Compare boxes with their images.

    Args:
        corners: (n, 4), x1 y1 x2 y2, px.
        sizes: (n, 2) or (2,), width and height of the image, px.
    """
    limits = np.broadcast_to(np.asarray(sizes, np.float64), (len(corners), 2))
    with np.errstate(invalid="ignore", over="ignore"):
        clipped = np.clip(corners, 0, np.concatenate([limits, limits], 1))
        boxes = clipped.astype(np.float32)
        finite = _all(np.isfinite(corners))
        outside = finite & ~_all(np.abs(clipped - corners) <= TOLERANCE)
        # Judged in float32, as stored, so that no box loses its area on the way.
        area = _all(boxes[:, 2:] > boxes[:, :2]) & _all(corners[:, 2:] > corners[:, :2])
        moved = ~_all(clipped == corners)
    return BoxCheck(boxes, outside, ~outside & ~(finite & area), moved)


def _all(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.logical_and.reduce(mask, axis=1)
    return found


def checked_record(
    source: Stream,
    options: Options,
    record: Record,
    corners: NDArray[np.float64],
    *,
    at: str,
    describe: Callable[[int], str],
) -> Record:
    """The record with its good boxes; those left out are counted.

    Args:
        source: counts.
        options: of all readers.
        record: with labels and flags for all boxes, but without the boxes.
        corners: (n, 4), x1 y1 x2 y2, px.
        at: where the boxes stand, for messages.
        describe: a box by its number, for messages.

    Raises:
        InputError: a box is at fault and none may be left out.
    """
    judged = judge(corners, np.array([record.width, record.height], np.int64))
    for reason, bad in ((DEGENERATE, judged.degenerate), (OUTSIDE, judged.outside)):
        for what in map(describe, np.flatnonzero(bad).tolist()):
            if options.on_bad_box == "error":
                raise InputError(f"{at}: box {reason}: {what}; {DROP_BOXES}")
            source.drop(reason, record.file_name, what)
    good = judged.good
    source.clipped += int(judged.moved[good].sum())
    assert record.flags is not None, "the readers that call this know flags"
    labels, flags = record.labels[good], record.flags[good]
    return replace(record, boxes=judged.boxes[good], labels=labels, flags=flags)


def is_inside(name: Any) -> bool:
    """Whether this is a file name below the folder it is relative to."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def listing(folder: Path) -> set[str]:
    """Names in a folder; none if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def need_folder(folder: Path, setting: str) -> None:
    """Refuse a folder that is none.

    Raises:
        InputError: naming the setting.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "no such image folder"
        raise InputError(f"{folder}: {what}; check {setting}")


def fault(file: Path, what: str, entries: list[str], remedy: str) -> InputError:
    """An error about entries of a file, of which the first are named."""
    more = f" ({len(entries)} in all)" if len(entries) > NAMED else ""
    return InputError(f"{file}: {what}: {'; '.join(entries[:NAMED])}{more}; {remedy}")


def shown(text: str) -> str:
    """Text of a file for messages: in one line, and not too long."""
    return repr(text)[1:-1][:80]


def numbers(box: NDArray[Any]) -> str:
    """A box for messages."""
    return f"[{', '.join(f'{value:g}' for value in box)}]"
