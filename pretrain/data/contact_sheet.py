"""A picture of what a method sees: images with boxes and windows, and the views cut from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pretrain.core.errors import InputError
from pretrain.data.augment import AugmentSettings, apply, draw
from pretrain.data.decode import ImageError, read_image
from pretrain.data.index import Index
from pretrain.data.pairs import PairTable, choose_pair, pair_stream
from pretrain.data.plan import ViewPlan
from pretrain.data.views import ViewSettings, Window, cut

CELL = 176
"""Side of a view on the sheet, px; the image has half as much again in width."""
WIDE = CELL * 3 // 2
GAP, LINE = 6, 16

INK, PAPER, FAINT, WARNING = (20, 20, 20), (255, 255, 255), (110, 110, 110), (200, 0, 0)
COLORS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
)
"""Of the crops, by number: the palette of Okabe and Ito, told apart by the color-blind too."""


@dataclass(frozen=True)
class Sample:
    """One row of the sheet; without an image where it could not be read.

    Attributes:
        title: what stands above it.
        fault: why there is no image, or "".
        fallback: the image had too few boxes, or no pair, for the plan.
        image: uint8 (3, H, W).
        boxes: float32 (n, 4), x1 y1 x2 y2 in px.
        windows: per crop name.
        before: per crop name, uint8 (3, S, S), as cut.
        after: per crop name, uint8 (3, S, S), augmented.
        partner: uint8 (3, H, W), the image that the crops of ``plan.of_partner`` are cut from;
            None: the row's own.
    """

    title: str
    fault: str
    fallback: bool
    image: Tensor
    boxes: NDArray[np.float32]
    windows: dict[str, Window]
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    partner: Tensor | None = None


def sample(
    index: Index,
    plan: ViewPlan,
    views: ViewSettings,
    augment: AugmentSettings,
    *,
    seed: int,
    epoch: int,
    row: int,
    pairs: PairTable | None = None,
) -> Sample:
    """What a run with this seed gets of a row in an epoch; ``pairs`` for a plan that asks for them.

    Raises:
        InputError: ``augment.views`` names a view that the plan lacks.
    """
    colors = augment.by_view(list(plan.sides))
    boxes, size = index.boxes(row), index.size(row)
    title = f"row {row}  {index.file_name(row)}  {size[0]} x {size[1]}  {len(boxes)} boxes"
    try:
        image = read_image(index.path(row), size)
    except ImageError as error:
        blank = torch.zeros(3, 1, 1, dtype=torch.uint8)
        return Sample(title, str(error), False, blank, boxes, {}, {}, {})
    windows, partner = None, None
    if plan.pairs and pairs is not None:
        pair = choose_pair(pairs, row, index.size, pair_stream(seed, epoch, row))
        if pair is not None:
            title += f"  paired with row {pair.row}"
            windows = (pair.query, pair.key)
            try:
                partner = read_image(index.path(pair.row), index.size(pair.row))
            except ImageError as error:
                title += f", which is unreadable: {error}"
                windows = (pair.query, pair.query)
    found = cut(
        image, boxes, plan, views, seed=seed, epoch=epoch, row=row, pair=windows, partner=partner
    )
    after = {}
    for name, view in found.images.items():
        own = colors[name]
        parameters = torch.from_numpy(draw(found.generators[name], own, view.shape[-1]))
        after[name] = denormalized(apply(view[None], parameters[None], own)[0], own)
    return Sample(
        title, "", found.fallback, image, boxes, found.windows, found.images, after, partner
    )


def denormalized(view: Tensor, settings: AugmentSettings) -> Tensor:
    """A normalized float view as uint8 again."""
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (settings.mean, settings.std))
    return ((view * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def sheet(samples: Sequence[Sample], plan: ViewPlan, heading: str) -> Image.Image:
    """The samples one below the other: image, views as cut, views as augmented.

    Where the plan cuts from a partner, it stands beside the image.
    """
    count = len(plan.crops)
    width = _column(2 * count, plan)
    row_height = LINE + CELL + 2 * GAP
    picture = Image.new("RGB", (width, 3 * LINE + GAP + len(samples) * row_height), PAPER)
    pen = ImageDraw.Draw(picture)
    _text(pen, (GAP, 2), heading, INK)
    for number, crop in enumerate(plan.crops):
        how = "random part of " if crop.random_resized else ""
        for block, when in enumerate(("", ", augmented")):
            x = _column(number + block * count, plan)
            pen.rectangle((x, LINE + 5, x + CELL - 1, LINE + 8), fill=_color(number))
            _text(pen, (x, LINE + 10), f"{crop.name}{when}", INK)
            side = "" if crop.size is None else f", {crop.size} px"
            _text(pen, (x, 2 * LINE + 8), f"{how}{crop.region}{side}", FAINT)
    for number, one in enumerate(samples):
        _row(picture, pen, 3 * LINE + GAP + number * row_height, one, plan)
    return picture


def _column(number: int, plan: ViewPlan) -> int:
    """Left edge of a view; a wider gap stands between those as cut and those augmented."""
    images = 2 if plan.of_partner else 1
    start = GAP + images * (WIDE + GAP)
    return start + number * (CELL + GAP) + (GAP if number >= len(plan.crops) else 0)


def _row(
    picture: Image.Image, pen: ImageDraw.ImageDraw, top: int, one: Sample, plan: ViewPlan
) -> None:
    lack = "no pair, or too few boxes large enough" if plan.pairs else "too few boxes large enough"
    title = one.title + (f"  FALLBACK: {lack}" if one.fallback else "")
    _text(pen, (GAP, top), title, WARNING if one.fallback or one.fault else INK)
    top += LINE
    if one.fault:
        _text(pen, (GAP, top + CELL // 2), one.fault, WARNING)
        return
    overview = _overview(one, plan)
    picture.paste(overview, (GAP, top))
    if one.partner is not None:
        windows = {name: one.windows[name] for name in plan.of_partner}
        picture.paste(_framed(one.partner, (), windows, plan), (2 * GAP + WIDE, top))
    if one.fallback:
        frame = (GAP - 3, top - 1, GAP + overview.width + 2, top + overview.height)
        pen.rectangle(frame, outline=WARNING, width=3)
    for number, crop in enumerate(plan.crops):
        for block, views in enumerate((one.before, one.after)):
            x = _column(number + block * len(plan.crops), plan)
            view = as_picture(views[crop.name]).resize((CELL, CELL), Image.Resampling.BILINEAR)
            picture.paste(view, (x, top))


def _overview(one: Sample, plan: ViewPlan) -> Image.Image:
    """The row's image with its boxes and the windows of the crops cut from it."""
    others = plan.of_partner if one.partner is not None else ()
    windows = {name: window for name, window in one.windows.items() if name not in others}
    return _framed(one.image, one.boxes.tolist(), windows, plan)


def _framed(
    pixels: Tensor, boxes: Sequence[Sequence[float]], windows: Mapping[str, Window], plan: ViewPlan
) -> Image.Image:
    """An image at the sheet's scale, boxes in white, windows in the crops' colors."""
    small, scale = scaled_into(as_picture(pixels), WIDE, CELL)
    pen = ImageDraw.Draw(small)
    for box in boxes:
        _frame(pen, box, scale, (255, 255, 255), 1)
    for number, crop in enumerate(plan.crops):
        if crop.name in windows:
            _frame(pen, windows[crop.name], scale, _color(number), 2)
    return small


def _frame(
    pen: ImageDraw.ImageDraw,
    box: Sequence[float],
    scale: float,
    color: tuple[int, int, int],
    width: int,
) -> None:
    x1, y1, x2, y2 = (value * scale for value in box)
    corners = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
    pen.rectangle(corners, outline=(0, 0, 0), width=width + 1)
    pen.rectangle(corners, outline=color, width=width)


def _color(number: int) -> tuple[int, int, int]:
    return COLORS[number % len(COLORS)]


def as_picture(view: Tensor) -> Image.Image:
    """A picture of uint8 (3, H, W)."""
    return Image.fromarray(view.permute(1, 2, 0).contiguous().numpy())


def scaled_into(image: Image.Image, width: int, height: int) -> tuple[Image.Image, float]:
    """The image as large as it can be within so many px, and its scale."""
    scale = min(width / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3), scale


def save_png(picture: Image.Image, file: Path) -> None:
    """Write a picture; its folder is made where it is missing.

    Raises:
        InputError: it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file, "PNG")
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error})") from None


def _text(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, color: tuple[int, int, int]
) -> None:
    pen.text(place, text, fill=color, font=ImageFont.load_default(11))
