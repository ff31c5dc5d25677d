"""Contact sheets: a few objects with their nearest neighbors, right and wrong ones framed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from downstream.retrieval.objects import Objects, cut_objects
from downstream.retrieval.spaces import Rows

QUERIES = 6
NEIGHBORS = 6
SIDE = 112
FRAME = 5
GAP = 8
CAPTION = 20
CELL = SIDE + 2 * FRAME + GAP

RIGHT, WRONG, QUERY = "#1a9850", "#d73027", "#444444"
INK, PAPER = "#222222", "#ffffff"


def choose_queries(labels: NDArray[np.int32]) -> Rows:
    """One object of each of the largest categories: the middle one of its category's rows.

    The choice does not look at the ranking, so the sheets show failures as they come.
    """
    sizes = np.bincount(labels)
    largest = np.argsort(-sizes, kind="stable")[:QUERIES]
    rows = [np.flatnonzero(labels == label) for label in largest if sizes[label] > 1]
    return np.array([row[len(row) // 2] for row in rows], dtype=np.int64)


def write_sheet(
    path: Path, objects: Objects, queries: Rows, neighbors: Rows, context: float
) -> None:
    """Write a JPEG: a row per query, the query first, then its neighbors, nearest first.

    Args:
        path: of the file.
        objects: N objects.
        queries: rows of the queries.
        neighbors: (N, K), the ranking.
        context: share of its extent by which a box grows on every side.
    """
    shown = neighbors[queries, :NEIGHBORS]
    cells = np.column_stack([queries, shown])
    crops = cut_objects(objects, cells.ravel(), SIDE, context)
    width, height = cells.shape[1] * CELL + 2 * GAP, len(cells) * (CELL + CAPTION) + CAPTION + GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    headings = ["query", *[f"neighbor {n}" for n in range(1, cells.shape[1])]]
    for column, heading in enumerate(headings):
        draw.text((_left(column), 3), heading, INK, font)
    for number, (row, crop) in enumerate(zip(cells.ravel(), crops, strict=True)):
        line, column = divmod(number, cells.shape[1])
        label = int(objects.labels[row])
        right = label == objects.labels[queries[line]]
        color = QUERY if column == 0 else RIGHT if right else WRONG
        left, top = _left(column), CAPTION + line * (CELL + CAPTION)
        outer = (left, top, left + SIDE + 2 * FRAME - 1, top + SIDE + 2 * FRAME - 1)
        draw.rectangle(outer, fill=color)
        picture = Image.fromarray(crop.permute(1, 2, 0).numpy())
        sheet.paste(picture, (left + FRAME, top + FRAME))
        caption = _fit(draw, objects.categories[label], font)
        draw.text((left, top + SIDE + 2 * FRAME + 2), caption, color, font)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=90)


def _left(column: int) -> int:
    # The query stands a little apart.
    return GAP + column * CELL + (GAP if column else 0)


def _fit(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> str:
    """Shorten ``text`` to the width of a crop."""
    width = SIDE + 2 * FRAME
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"
