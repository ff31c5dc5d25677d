"""Proposals from a detector's results, a JSON list of {"image_id", "bbox", "score"}."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from pretrain.core.errors import InputError
from pretrain.core.files import sha256
from pretrain.data.index import Index
from pretrain.datasets.proposals.proposer import Proposals

CHUNK = 1 << 20
MAX_ENTRY = 64 << 20
"""Characters that one entry may have; what does not end before that is no JSON."""


@dataclass(frozen=True, eq=False)
class Detector:
    """Boxes read from a results file in COCO's format, by descending score.

    Equal scores stay in the order of the file.

    Attributes:
        sha256: of the file.
        min_score: boxes below were left out.
        offsets: int64 (N + 1,), where each row's boxes start.
        boxes: float32 (n, 4), x1 y1 x2 y2 in px.
        scores: float32 (n,).
        unknown: entries whose image the index lacks.
        empty: entries without area inside their image.
    """

    sha256: str
    min_score: float
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    unknown: int
    empty: int
    needs_image = False

    @classmethod
    def read(cls, file: Path, index: Index, min_score: float = -math.inf) -> Detector:
        """Read a results file.

        Args:
            file: JSON list of objects with ``image_id``, ``bbox`` (x, y, width, height in px)
                and ``score``; whatever else they hold is ignored.
            index: of the images.
            min_score: boxes with less are left out.

        Raises:
            InputError: naming the file and the entry at fault, or no image is of the index.
        """
        rows = {index.image_id(row): row for row in range(len(index))}
        places, values, unknown = array("q"), array("d"), 0
        for number, entry in enumerate(_entries(file)):
            image_id, box, score = _checked(file, number, entry)
            if image_id not in rows:
                unknown += 1
            elif score >= min_score:
                places.append(rows[image_id])
                values.extend((*box, score))
        if unknown and not places:
            raise InputError(
                f"{file}: none of its {unknown} entries is of an image of {index.folder}; are they "
                "results on other images?"
            )
        where = np.array(places, np.int64)
        table = np.array(values, np.float64).reshape(-1, 5)
        sizes = np.array([index.size(row) for row in range(len(index))], np.float64)
        limits = np.concatenate([sizes, sizes], 1)[where]
        corners = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], 1)
        boxes = np.clip(corners, 0, limits).astype(np.float32)
        good = (boxes[:, 2:] > boxes[:, :2]).all(1)
        where, boxes, scores = where[good], boxes[good], table[good, 4].astype(np.float32)
        order = np.lexsort((-scores, where))
        counts = np.bincount(where, minlength=len(index))
        return cls(
            sha256=sha256(file),
            min_score=min_score,
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            boxes=boxes[order],
            scores=scores[order],
            unknown=unknown,
            empty=int((~good).sum()),
        )

    def identity(self) -> dict[str, Any]:
        """See ``Proposer.identity``."""
        least = self.min_score if math.isfinite(self.min_score) else None
        return {"method": "detector", "sha256": self.sha256, "min_score": least}

    def propose(
        self, row: int, size: tuple[int, int], image: NDArray[np.uint8] | None
    ) -> Proposals:
        """See ``Proposer.propose``."""
        part = slice(self.offsets[row], self.offsets[row + 1])
        return Proposals(self.boxes[part], self.scores[part])


def _checked(file: Path, number: int, entry: Any) -> tuple[int, list[float], float]:
    """Image, box and score of an entry."""
    if not isinstance(entry, dict):
        raise InputError(f"{file}: entry {number} is not an object: {entry!r:.60}")
    missing = [key for key in ("image_id", "bbox", "score") if key not in entry]
    if missing:
        raise InputError(
            f"{file}: entry {number} has no '{missing[0]}'; the file must be a list of results in "
            "COCO's format, not a file of annotations"
        )
    image_id, box, score = entry["image_id"], entry["bbox"], entry["score"]
    if type(image_id) is not int:
        raise InputError(f"{file}: entry {number}: image_id is not an integer: {image_id!r:.40}")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
        raise InputError(f"{file}: entry {number}: bbox is not 4 finite numbers: {box!r:.60}")
    if not _is_finite(score):
        raise InputError(f"{file}: entry {number}: score is not a finite number: {score!r:.40}")
    return image_id, box, score


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _entries(file: Path) -> Iterator[Any]:
    """The entries of a JSON list, one at a time: such a file may be larger than the memory."""
    try:
        with file.open(encoding="utf-8-sig") as text:
            reader = _Reader(file, text)
            reader.expect("[")
            if reader.peek() == "]":
                reader.expect("]")
            else:
                yield reader.value()
                while reader.peek() != "]":
                    reader.expect(",")
                    yield reader.value()
                reader.expect("]")
            reader.expect("")
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check --json") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not JSON in UTF-8 ({error.reason} at {error.start})") from None


class _Reader:
    """JSON a piece at a time."""

    def __init__(self, file: Path, text: TextIO) -> None:
        self.file = file
        self.text = text
        self.buffer = ""
        self.place = 0
        self.count = 0
        self.decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no white space, or nothing at the end."""
        while True:
            while self.place < len(self.buffer):
                if not self.buffer[self.place].isspace():
                    return self.buffer[self.place]
                self.place += 1
            self.buffer, self.place = self.text.read(CHUNK), 0
            if not self.buffer:
                return ""

    def expect(self, wanted: str) -> None:
        """Go past the next character, which must be the wanted one (nothing: the end)."""
        found = self.peek()
        if found != wanted:
            raise InputError(
                f"{self.file}: not a JSON list of results: {found or 'the end'!r} instead of "
                f"{wanted or 'the end'!r} after {self.count} entries; was it written to the end?"
            )
        self.place += 1

    def value(self) -> Any:
        """The next entry."""
        self.peek()
        while True:
            try:
                entry, self.place = self.decoder.raw_decode(self.buffer, self.place)
            except json.JSONDecodeError as error:
                rest = self.buffer[self.place :]
                more = self.text.read(CHUNK) if len(rest) < MAX_ENTRY else ""
                if not more:
                    raise InputError(
                        f"{self.file}: not valid JSON in entry {self.count}: {error.msg}; was it "
                        "written to the end?"
                    ) from None
                self.buffer, self.place = rest + more, 0
            else:
                self.count += 1
                return entry
