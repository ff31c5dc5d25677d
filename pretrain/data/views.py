"""Which part of an image each view shows, and the cutting of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from pretrain.core.settings import Settings
from pretrain.data import random_streams
from pretrain.data.jitter import jitter
from pretrain.data.plan import PAIR_REGIONS, ViewPlan

Window = tuple[int, int, int, int]
"""Whole pixels x1 y1 x2 y2, the last two exclusive."""

ATTEMPTS = 10
"""Tries of a random resized crop before it settles for the center, as in torchvision."""

RANDOM_OBJECT_AREA = (0.1, 0.4)
"""Share of the image that stands in for an object where the image has no valid box."""


class ViewSettings(Settings):
    """How regions are chosen and cropped.

    Attributes:
        size: side of a view, px.
        scale: share of the region's area that a random crop takes.
        ratio: width to height of a random crop.
        min_box_area: smaller boxes are no objects, px² of the image file.
        context: side in px up to which the box of a small object is extended at random; a box of
            at least context² px² stays as it is.
        min_boxes: images with fewer valid boxes use the fallback.
        random_regions: train on data without any valid box too, on random rectangles; without it
            such data are refused where the views are cut from boxes. No view depends on it.
        scene_boxes: least and greatest number of boxes in the scene, the object's included.
        official_window_bug: extend a small box downwards by what its *width* lacks, as the
            published HCL code does.
        official_scene_count: draw the number of boxes in the scene below the second of
            ``scene_boxes`` (or of the valid boxes, where those are fewer), and then the object's
            on top where it is not among them, as the published HCL code does.
        resample_weak_images: put a random image in the place of one with fewer than ``min_boxes``
            valid boxes, as the published HCL code does, instead of the fallback.
    """

    size: Annotated[int, Field(ge=1)] = 224
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    min_box_area: Annotated[float, Field(ge=0)] = 3136.0
    context: Annotated[int, Field(ge=1)] = 256
    min_boxes: Annotated[int, Field(ge=1)] = 2
    random_regions: bool = False
    scene_boxes: tuple[int, int] = (2, 6)
    official_window_bug: bool = False
    official_scene_count: bool = False
    resample_weak_images: bool = False

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError("scale must be two growing shares in (0, 1]")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ValueError("ratio must be two growing positive numbers")
        if not 1 <= self.scene_boxes[0] <= self.scene_boxes[1]:
            raise ValueError("scene_boxes must be two growing numbers of at least 1")
        if self.min_boxes < self.scene_boxes[0]:
            raise ValueError("min_boxes must be at least the first of scene_boxes")
        return self


@dataclass(frozen=True)
class Regions:
    """What the views of one row are cut from.

    Attributes:
        object: the box of the object.
        object_context: that box extended.
        scene: the union of boxes.
        fallback: there were too few boxes for a scene.
        count: valid boxes.
    """

    object: Window
    object_context: Window
    scene: Window
    fallback: bool
    count: int


@dataclass(frozen=True)
class Views:
    """The views of one row.

    Attributes:
        images: per crop name, uint8 (3, S, S) with the crop's own S.
        windows: per crop name, the pixels of the image it shows.
        generators: per crop name, its random stream after the crop has been drawn, for the
            parameters of the augmentation.
        fallback: the image had too few valid boxes, or no pair, for what the plan asks.
    """

    images: dict[str, Tensor]
    windows: dict[str, Window]
    generators: dict[str, np.random.Generator]
    fallback: bool


def choose_regions(
    boxes: NDArray[np.float32],
    size: tuple[int, int],
    settings: ViewSettings,
    rng: np.random.Generator,
) -> Regions:
    """Choose the object, its context and the scene of an image (HCL, section on data).

    The object is uniform over the valid boxes. The scene is the union of its box and of k-1
    other valid boxes, k uniform in ``scene_boxes`` (at most all valid boxes). With fewer than
    ``min_boxes`` valid boxes the scene is the whole image; with none the object is a random
    rectangle of 10-40 % of the image.

    Args:
        boxes: float32 (n, 4), x1 y1 x2 y2 in px.
        size: width and height of the image, px.
        settings: of the views.
        rng: the row's stream for regions.
    """
    width, height = size
    valid = whole_pixels(boxes[large_enough(boxes, settings)], size)
    count = len(valid)
    if count == 0:
        chosen = _random_rectangle(size, rng)
    else:
        first = int(rng.integers(count))
        chosen = _window(valid[first])
    fallback = count < settings.min_boxes
    if fallback:
        scene = (0, 0, width, height)
    else:
        together = valid[[first, *_others(first, count, settings, rng)]]
        scene = _window(np.concatenate([together[:, :2].min(0), together[:, 2:].max(0)]))
    return Regions(chosen, _extend(chosen, size, settings, rng), scene, fallback, count)


def boxes_needed(plan: ViewPlan, settings: ViewSettings) -> int:
    """Valid boxes without which an image is a fallback in this plan; 0: the plan needs none."""
    own = {crop.region for crop in plan.crops} - PAIR_REGIONS - {"image"}
    return settings.min_boxes if "scene" in own else int(bool(own))


def count_objects(boxes: NDArray[np.float32], settings: ViewSettings) -> int:
    """How many of the boxes are large enough to be objects."""
    return int(large_enough(boxes, settings).sum())


def whole_pixels(boxes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.int64]:
    """The smallest windows of whole pixels that hold the boxes: int64 (n, 4).

    Left and top are rounded down, right and bottom up, all inside the image and at least 1 px.
    """
    limit = np.array([size[0], size[1]], np.int64)
    start = np.clip(np.floor(boxes[:, :2]).astype(np.int64), 0, limit - 1)
    stop = np.clip(np.ceil(boxes[:, 2:]).astype(np.int64), start + 1, limit)
    return np.concatenate([start, stop], axis=1)


def whole_window(box: NDArray[np.float32], size: tuple[int, int]) -> Window:
    """``whole_pixels`` of a single box (4,)."""
    return _window(whole_pixels(box[None], size)[0])


def random_resized(region: Window, settings: ViewSettings, rng: np.random.Generator) -> Window:
    """A random part of the region, distributed as torchvision's RandomResizedCrop."""
    x1, y1, x2, y2 = region
    width, height = x2 - x1, y2 - y1
    low, high = settings.ratio
    for _ in range(ATTEMPTS):
        area = width * height * rng.uniform(*settings.scale)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = x1 + int(rng.integers(width - w, endpoint=True))
            top = y1 + int(rng.integers(height - h, endpoint=True))
            return left, top, left + w, top + h
    w, h = width, height
    if width < low * height:
        h = max(1, round(width / low))
    elif width > high * height:
        w = max(1, round(height * high))
    left, top = x1 + (width - w) // 2, y1 + (height - h) // 2
    return left, top, left + w, top + h


def choose_windows(
    boxes: NDArray[np.float32],
    size: tuple[int, int],
    plan: ViewPlan,
    settings: ViewSettings,
    *,
    seed: int,
    epoch: int,
    row: int,
    pair: tuple[Window, Window] | None = None,
) -> tuple[dict[str, Window], dict[str, np.random.Generator], bool]:
    """The window and the further random stream of every crop, and whether it is a fallback.

    It is one where the image has fewer than ``min_boxes`` valid boxes and the plan asks for a
    scene, or none and the plan asks for an object; and where the plan asks for a pair and there is
    none: both its regions are then the object's box. ``pair`` is of this image and another, and
    the windows of ``pair_key`` are in pixels of the other.
    """
    rng = random_streams.generator(seed, epoch, row, random_streams.REGIONS)
    regions = choose_regions(boxes, size, settings, rng)
    query, key = pair or (regions.object, regions.object)
    chosen: dict[str, Window] = {
        "image": (0, 0, *size),
        "object": regions.object,
        "object_context": regions.object_context,
        "scene": regions.scene,
        "pair_query": query,
        "pair_key": key,
    }
    windows: dict[str, Window] = {}
    generators: dict[str, np.random.Generator] = {}
    for number, crop in enumerate(plan.crops):
        rng = random_streams.generator(seed, epoch, row, 1 + number)
        jittered = crop.region == "object_jittered"
        region = jitter(regions.object, size, rng) if jittered else chosen[crop.region]
        if crop.random_resized:
            region = random_resized(region, settings, rng)
        windows[crop.name] = region
        generators[crop.name] = rng
    needed = boxes_needed(plan, settings)
    fallback = regions.count < needed or (pair is None and plan.pairs)
    return windows, generators, fallback


def cut(
    image: Tensor,
    boxes: NDArray[np.float32],
    plan: ViewPlan,
    settings: ViewSettings,
    *,
    seed: int,
    epoch: int,
    row: int,
    pair: tuple[Window, Window] | None = None,
    partner: Tensor | None = None,
) -> Views:
    """Cut every view of the plan: a pure function of the images and of (seed, epoch, row).

    Args:
        image: uint8 (3, H, W), RGB.
        boxes: float32 (n, 4), x1 y1 x2 y2 in px.
        plan: the views wanted.
        settings: of the views.
        seed: of the run.
        epoch: number of the pass over the data.
        row: of the index.
        pair: windows of this image and of the partner, for a plan that asks for pairs.
        partner: uint8 (3, H', W'), the image that the second window is of; None: this one.
    """
    size = (image.shape[2], image.shape[1])
    windows, generators, fallback = choose_windows(
        boxes, size, plan, settings, seed=seed, epoch=epoch, row=row, pair=pair
    )
    sources = dict.fromkeys(plan.of_partner, image if partner is None else partner)
    images = {
        crop.name: resize(sources.get(crop.name, image), windows[crop.name], plan.side(crop))
        for crop in plan.crops
    }
    return Views(images, windows, generators, fallback)


def resize(image: Tensor, window: Window, size: int, out: Tensor | None = None) -> Tensor:
    """The window of the image as uint8 (3, size, size): cropped first, then resized.

    Antialiased bilinear, within 1 of 255 of Pillow's; no pixel outside the window takes part.
    The three values of a pixel lie together in the result, as torch's kernel for bytes wants it.

    Args:
        image: uint8 (3, H, W); nothing is copied where its pixels lie together too.
        window: in whole pixels of the image.
        size: side of the view, px.
        out: what to write to: a view of a contiguous (size, size, 3); None: a new tensor.
    """
    x1, y1, x2, y2 = window
    if out is None:
        out = blank_views(1, size)[0]
    part = image[None, :, y1:y2, x1:x2]
    if part.shape[2:] == (size, size):
        return out.copy_(part[0])
    part = part.contiguous(memory_format=torch.channels_last)
    # What F.interpolate calls, which cannot write to a tensor that is there.
    torch.ops.aten._upsample_bilinear2d_aa.out(part, (size, size), False, None, None, out=out[None])
    return out


def scaled(window: Window, size: tuple[int, int], to: tuple[int, int]) -> Window:
    """The window of an image of one (width, height) in the same image of another.

    Rounded to whole pixels, inside the image and at least 1 px wide and high.
    """
    if size == to:
        return window
    start = [
        min(round(value * new / old), new - 1)
        for value, old, new in zip(window[:2], size, to, strict=True)
    ]
    stop = [
        max(round(value * new / old), first + 1)
        for value, old, new, first in zip(window[2:], size, to, start, strict=True)
    ]
    return start[0], start[1], stop[0], stop[1]


def blank_views(count: int, size: int) -> Tensor:
    """Memory for views: uint8 (count, 3, size, size), the values of a pixel together."""
    return torch.empty(count, size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)


def large_enough(boxes: NDArray[np.float32], settings: ViewSettings) -> NDArray[np.bool_]:
    """Which boxes are large enough to be objects: bool (n,)."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    large: NDArray[np.bool_] = areas >= settings.min_box_area
    return large


def _others(
    first: int, count: int, settings: ViewSettings, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Which boxes make up the scene together with the object's, the first."""
    low, high = settings.scene_boxes
    if settings.official_scene_count:
        taken = int(rng.integers(low, max(min(count, high), low + 1)))
        return rng.permutation(count)[:taken]
    taken = int(rng.integers(low, min(count, high), endpoint=True))
    return rng.permutation(np.delete(np.arange(count), first))[: taken - 1]


def _random_rectangle(size: tuple[int, int], rng: np.random.Generator) -> Window:
    """A rectangle of RANDOM_OBJECT_AREA; its aspect varies around that of the image."""
    share = rng.uniform(*RANDOM_OBJECT_AREA)
    aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    w = max(1, round(size[0] * math.sqrt(share * aspect)))
    h = max(1, round(size[1] * math.sqrt(share / aspect)))
    left = int(rng.integers(size[0] - w, endpoint=True))
    top = int(rng.integers(size[1] - h, endpoint=True))
    return left, top, left + w, top + h


def _extend(
    box: Window, size: tuple[int, int], settings: ViewSettings, rng: np.random.Generator
) -> Window:
    """The box of a small object, each side moved outwards at random; a large one as it is."""
    x1, y1, x2, y2 = box
    if (x2 - x1) * (y2 - y1) >= settings.context**2:
        return box
    lacks_width = max(0, settings.context - (x2 - x1))
    lacks_height = max(0, settings.context - (y2 - y1))
    lacks_below = lacks_width if settings.official_window_bug else lacks_height
    return (
        int(rng.integers(max(0, x1 - lacks_width), x1, endpoint=True)),
        int(rng.integers(max(0, y1 - lacks_height), y1, endpoint=True)),
        int(rng.integers(x2, min(size[0], x2 + lacks_width), endpoint=True)),
        int(rng.integers(y2, min(size[1], y2 + lacks_below), endpoint=True)),
    )


def _window(values: NDArray[np.int64]) -> Window:
    x1, y1, x2, y2 = (int(value) for value in values)
    return x1, y1, x2, y2
