"""The picture of matched regions that ``hcl correspond show`` writes."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from pretrain.core.errors import InputError
from pretrain.data.contact_sheet import as_picture, scaled_into
from pretrain.data.decode import ImageError, read_image
from pretrain.data.index import Index
from pretrain.data.pairs import Pair
from pretrain.data.views import Window

SIDE, WIDE = 200, 290
"""Of a region and height of an image; greatest width of an image, px."""
GAP, LINE, BAR = 12, 22, 120
INK, FAINT, PAPER, GROUND = (30, 30, 30), (115, 115, 115), (255, 255, 255), (238, 238, 238)
QUERY, KEY = (213, 94, 0), (0, 114, 178)
"""Of the image's region and of its neighbor's: told apart by the color-blind too."""


@dataclass(frozen=True)
class Match:
    """One pair of regions to be shown.

    Attributes:
        row: of the image.
        pair: its region, its neighbor and the neighbor's region.
        place: what pair it is, in words.
        similarity: cosine of the features, where it is known.
    """

    row: int
    pair: Pair
    place: str
    similarity: float | None


def sheet(index: Index, matches: list[Match]) -> Image.Image:
    """The matches one below the other."""
    width = 5 * GAP + 2 * (WIDE + SIDE)
    height = LINE + GAP + len(matches) * (SIDE + LINE + 2 * GAP)
    picture = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(picture)
    lefts = [GAP, 2 * GAP + WIDE, 3 * GAP + 2 * WIDE, 4 * GAP + 2 * WIDE + SIDE]
    heads = ("image", "its neighbor", "region", "region that matches")
    for left, head, color in zip(lefts, heads, (QUERY, KEY, QUERY, KEY), strict=True):
        pen.text((left, GAP // 2), head, color, _font(15))
    for place, match in enumerate(matches):
        top = LINE + GAP + place * (SIDE + LINE + 2 * GAP)
        pen.line((GAP, top - GAP // 2, width - GAP, top - GAP // 2), GROUND)
        _caption(pen, index, match, lefts, top)
        for number, (row, box, color) in enumerate(
            [(match.row, match.pair.query, QUERY), (match.pair.row, match.pair.key, KEY)]
        ):
            image = _open(index, row)
            picture.paste(_overview(image, box, color), (lefts[number], top + LINE))
            region = image.crop(box).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            ImageDraw.Draw(region).rectangle((0, 0, SIDE - 1, SIDE - 1), outline=color, width=3)
            picture.paste(region, (lefts[2 + number], top + LINE))
    return picture


def _caption(
    pen: ImageDraw.ImageDraw, index: Index, match: Match, lefts: list[int], top: int
) -> None:
    pen.text((lefts[0], top), _fit(pen, index.file_name(match.row)), INK, _font(12))
    pen.text((lefts[1], top), _fit(pen, index.file_name(match.pair.row)), INK, _font(12))
    pen.text((lefts[2], top), match.place, FAINT, _font(12))
    if match.similarity is None:
        pen.text((lefts[3], top), "cosine not known", FAINT, _font(12))
        return
    pen.text((lefts[3], top), f"cosine {match.similarity:.3f}", INK, _font(12))
    left = lefts[3] + SIDE - BAR
    pen.rectangle((left, top + 4, left + BAR - 1, top + 11), fill=GROUND)
    filled = round(BAR * min(max(match.similarity, 0.0), 1.0))
    if filled:
        pen.rectangle((left, top + 4, left + filled - 1, top + 11), fill=INK)


def _open(index: Index, row: int) -> Image.Image:
    try:
        pixels = read_image(index.path(row), index.size(row))
    except ImageError as error:
        raise InputError(f"{index.path(row)}: {error}") from None
    return as_picture(pixels)


def _overview(image: Image.Image, box: Window, color: tuple[int, int, int]) -> Image.Image:
    """The image in the middle of its cell, with the region framed and the rest paler."""
    small, scale = scaled_into(image, WIDE, SIDE)
    width, height = small.size
    x1, y1, x2, y2 = (round(value * scale) for value in box)
    pale = Image.blend(small, Image.new("RGB", small.size, PAPER), 0.3)
    pale.paste(small.crop((x1, y1, x2, y2)), (x1, y1))
    pen = ImageDraw.Draw(pale)
    # Around the region as far as there is room, so that it hides little of a small one.
    frame = (max(0, x1 - 3), max(0, y1 - 3), min(width - 1, x2 + 2), min(height - 1, y2 + 2))
    pen.rectangle(frame, outline=color, width=3)
    cell = Image.new("RGB", (WIDE, SIDE), GROUND)
    cell.paste(pale, ((WIDE - width) // 2, (SIDE - height) // 2))
    return cell


def _fit(pen: ImageDraw.ImageDraw, text: str) -> str:
    """Shorten a text from the left to the width of an image."""
    whole = text
    while len(text) > 1 and pen.textlength(text, _font(12)) > WIDE:
        text = text[1:]
    return text if text == whole else f"…{text[1:]}"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
