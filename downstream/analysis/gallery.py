"""The hardest negatives of a few anchors by two rankings, those framed that only one has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from downstream.analysis import draw
from downstream.analysis.embeddings import TestSet
from downstream.analysis.negative_stats import Anchor
from downstream.figures.style import short
from downstream.retrieval.finetune.images import CenteredImages, sound
from downstream.retrieval.spaces import Rows

SIDE = 112
# In units of a picture's side.
GAP, CAPTION, HEADING, BETWEEN = 0.12, 0.2, 0.22, 0.3
_INCHES = 0.95


def only_in(first: Rows, second: Rows) -> NDArray[np.bool_]:
    """Which entries of ``first`` (A, K) are not in the same row of ``second`` (A, K)."""
    return np.asarray(~(first[:, :, None] == second[:, None, :]).any(axis=2))


def gallery(
    tested: TestSet,
    anchors: Sequence[Anchor],
    first: tuple[str, Rows],
    second: tuple[str, Rows],
) -> draw.NamedFigure:
    """A block for each anchor: it and a positive, then both lists, the hardest first.

    Args:
        tested: the images.
        anchors: a few.
        first: name of a ranking and its hardest negatives (A, K), of at least these anchors.
        second: likewise.
    """
    lists = [(name, rows[: len(anchors)]) for name, rows in (first, second)]
    framed = [only_in(lists[0][1], lists[1][1]), only_in(lists[1][1], lists[0][1])]
    length = lists[0][1].shape[1]
    step, line = 1 + GAP, 1 + CAPTION
    block = 2 * (HEADING + line) + BETWEEN
    width, height = (length + 1) * step + GAP, len(anchors) * block
    with draw.figure_style():
        figure = Figure(figsize=(width * _INCHES, height * _INCHES))
        axes: Any = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        for number, anchor in enumerate(anchors):
            for place, (name, rows) in enumerate(lists):
                top = number * block + place * (HEADING + line) + HEADING
                left = step + 2 * GAP
                axes.text(left, top - 0.05, f"hardest negatives: {name}", fontsize=7, va="bottom")
                row, who = (anchor.row, "anchor") if place == 0 else (anchor.positive, "positive")
                _picture(axes, tested, row, (GAP, top))
                axes.text(GAP, top - 0.05, who, fontsize=7, va="bottom", weight="bold")
                for column in range(length):
                    alone = bool(framed[place][number, column])
                    x = left + column * step
                    _picture(axes, tested, int(rows[number, column]), (x, top), framed=alone)
        axes.set_xlim(0, width + GAP)
        axes.set_ylim(height, 0)
        axes.set_aspect("equal")
    caption = (
        "Hardest negatives, from left to right: those framed in red are not among the other "
        f"ranking's first {length}. The anchors are drawn without regard to the outcome."
    )
    return draw.NamedFigure("gallery", caption, figure)


def _picture(
    axes: Any, tested: TestSet, row: int, corner: tuple[float, float], *, framed: bool = False
) -> None:
    """One image as the network saw it, but at the gallery's size, and the name of its class."""
    left, top = corner
    size = tested.settings.model.size
    resize = tested.settings.test.resize or size
    shown = CenteredImages(tested.images, size=SIDE, resize=round(SIDE * resize / size))
    at = int(tested.rows[row])
    pixels = sound(shown[at]).permute(1, 2, 0).numpy()
    axes.imshow(pixels, extent=(left, left + 1, top + 1, top), interpolation="antialiased")
    if framed:
        axes.add_patch(
            Rectangle((left, top), 1, 1, fill=False, ec=draw.FRAME, lw=2.5, gid=f"framed-{at}")
        )
    name = short(tested.images.classes[tested.images.labels[at]])[:16]
    axes.text(left, top + 1.04, name, fontsize=6, va="top")
