"""COCO's compressed run-length encoding of masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def encode(mask: NDArray[np.bool_]) -> str:
    """The ``counts`` string of a mask (h, w), as pycocotools decodes it.

    Runs of 0 and 1 alternate in column-major order, beginning with 0. From the fourth on, each run
    is given as the difference to the run two before; each number is written in groups of 5 bits,
    lowest first, bit 6 saying that more follow, and shifted into printable ASCII by 48.
    """
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    if flat.size and flat[0]:
        runs.insert(0, 0)
    text = bytearray()
    for i, run in enumerate(runs):
        rest = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            bits = rest & 0x1F
            rest >>= 5
            # The last group's bit 5 is the sign: done once the rest repeats it.
            more = rest != (-1 if bits & 0x10 else 0)
            text.append((bits | (0x20 if more else 0)) + 48)
    return text.decode("ascii")


def bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The exact box of a mask that is not empty: x, y, width, height in pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert rows.size, "an empty mask has no box"
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1
