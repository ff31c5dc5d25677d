"""Pictures of detections, for the report."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from downstream.detection.coco.coco_results import Detection
from downstream.detection.coco.sets import CocoSet, Record

SIDE = 480
IMAGES = 4


def draw_detections(val: CocoSet, detections: Sequence[Detection], folder: Path) -> list[Path]:
    """Draw the best detections on a few validation images: as many as each has objects.

    Args:
        val: the validation set; images with objects are taken evenly from it.
        detections: in COCO's result format.
        folder: gets ``<image id>.jpg``.

    Returns:
        The files written.
    """
    counts = {record["image_id"]: 0 for record in val.records}
    for record, _ in val.objects():
        counts[record["image_id"]] += 1
    with_objects = [record for record in val.records if counts[record["image_id"]]]
    count = min(IMAGES, len(with_objects))
    chosen = [with_objects[i * len(with_objects) // count] for i in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    names = dict(zip(val.category_ids, val.category_names, strict=True))
    written = []
    for record in chosen:
        number = record["image_id"]
        found = [d for d in detections if d["image_id"] == number]
        best = sorted(found, key=lambda d: -d["score"])[: counts[number]]
        path = folder / f"{number:012d}.jpg"
        _draw(record, best, names).save(path, quality=90)
        written.append(path)
    return written


def _draw(record: Record, detections: Sequence[Detection], names: dict[int, str]) -> Any:
    """The image, enlarged to a longer side of ``SIDE``, with masks, boxes and captions."""
    import numpy as np
    import pycocotools.mask
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    with Image.open(record["file_name"]) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    scale = SIDE / max(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    image = image.resize(size, Image.Resampling.BICUBIC)
    for detection in detections:
        if "segmentation" in detection:
            mask = pycocotools.mask.decode(detection["segmentation"]).astype(np.uint8) * 110
            alpha = Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR)
            image.paste(_color(detection["category_id"]), (0, 0), alpha)
    canvas = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=14)
    for detection in reversed(detections):
        color = _color(detection["category_id"])
        x, y, width, height = (scale * value for value in detection["bbox"])
        canvas.rectangle((x, y, x + width, y + height), outline=color, width=2)
        caption = f"{names[detection['category_id']]} {detection['score']:.2f}"
        # Captions stand above the box, inside the image.
        left, top = x, max(y - 17, 0)
        area = canvas.textbbox((left + 2, top), caption, font=font)
        canvas.rectangle((left, top, area[2] + 2, top + 17), fill=color)
        canvas.text((left + 2, top), caption, fill=(0, 0, 0), font=font)
    return image


def _color(category: int) -> tuple[int, int, int]:
    # Steps of the golden angle keep neighboring categories apart.
    red, green, blue = colorsys.hsv_to_rgb(category * 0.618034 % 1.0, 0.65, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
