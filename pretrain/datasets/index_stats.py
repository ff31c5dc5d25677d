"""What is in a data set, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.data.index import Index
from pretrain.datasets.records import Flag

SMALL, MEDIUM = 32.0**2, 96.0**2
"""Px²: COCO calls boxes below the first small, below the second medium, others large."""

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def stats(index: Index, *, min_box_area: float, min_boxes: int) -> dict[str, Any]:
    """Counts and distributions, of plain values.

    Args:
        index: to describe.
        min_box_area: px² from which a box counts as an object (``views.min_box_area``).
        min_boxes: objects an image needs for a scene (``views.min_boxes``).
    """
    counts = np.diff(index.column("box_offsets"))
    rows = np.repeat(np.arange(len(index)), counts)
    # Every (row, label) that occurs, once.
    categories = max(len(index.categories), 1)
    pairs = np.unique(rows * categories + index.column("labels"))
    corners = np.asarray(index.column("boxes"))
    widths, heights = (corners[:, n + 2].astype(np.float64) - corners[:, n] for n in (0, 1))
    areas = widths * heights
    objects = np.bincount(rows[areas >= min_box_area], minlength=len(index))
    boxes, flags = len(areas), np.asarray(index.column("flags"))
    return {
        "images": len(index),
        "boxes": boxes,
        "categories": len(index.categories),
        "image_width": _quantiles(index.column("sizes")[:, 0]),
        "image_height": _quantiles(index.column("sizes")[:, 1]),
        "boxes_per_image": {
            "mean": float(counts.mean()) if len(counts) else 0.0,
            "without": int((counts == 0).sum()),
            "one": int((counts == 1).sum()),
            "two_or_more": int((counts > 1).sum()),
            **_quantiles(counts),
        },
        "box_side": _quantiles(np.sqrt(areas)),
        "box_aspect": _quantiles(widths[heights > 0] / heights[heights > 0]),
        "box_sizes": {
            "small": int((areas < SMALL).sum()),
            "medium": int(((areas >= SMALL) & (areas < MEDIUM)).sum()),
            "large": int((areas >= MEDIUM).sum()),
        },
        "flags": {
            str(flag.name).lower(): int(((flags & np.uint8(flag)) != 0).sum()) for flag in Flag
        },
        "classes": _classes(index, pairs),
        "classes_per_image": _quantiles(np.bincount(pairs // categories, minlength=len(index))),
        "usable": {
            "min_box_area": min_box_area,
            "min_boxes": min_boxes,
            "boxes": int((areas >= min_box_area).sum()),
            "images": int((objects >= min_boxes).sum()),
            "share": float((objects >= min_boxes).mean()) if len(index) else 0.0,
        },
        "dropped": index.meta["dropped"],
        "clipped": index.meta["clipped"],
        "fingerprint": index.fingerprint,
    }


def text(found: dict[str, Any], top: int) -> str:
    """The same for people; of the classes the ``top`` most frequent."""
    per_image, sizes, usable = found["boxes_per_image"], found["box_sizes"], found["usable"]
    classes = found["classes"]
    boxes = max(found["boxes"], 1)
    images = max(found["images"], 1)
    share = {name: f"{count} ({count / boxes:.1%})" for name, count in sizes.items()}
    flags = ", ".join(f"{count} {name}" for name, count in found["flags"].items() if count)
    dropped = ", ".join(f"{count} {reason}" for reason, count in found["dropped"].items())
    lines = [
        f"images            {found['images']}",
        f"  width           {_spread(found['image_width'])}",
        f"  height          {_spread(found['image_height'])}",
        f"boxes             {found['boxes']} in {found['categories']} categories",
        f"  per image       mean {per_image['mean']:.2f}; {_spread(per_image)}",
        f"  images with     no box {per_image['without']}, one {per_image['one']}, "
        f"two or more {per_image['two_or_more']}",
        f"  side (√area)    {_spread(found['box_side'])} px",
        f"  width/height    {_spread(found['box_aspect'])}",
        f"  small (< 32²)   {share['small']}",
        f"  medium (< 96²)  {share['medium']}",
        f"  large           {share['large']}",
        f"  flags           {flags or 'none'}",
        f"classes           {len(classes)} with boxes; per image "
        f"{_spread(found['classes_per_image'])}",
    ]
    for entry in classes[:top]:
        lines.append(
            f"  {entry['name']:<22} {entry['boxes']:>9} boxes ({entry['boxes'] / boxes:6.1%}) in "
            f"{entry['images']:>8} images ({entry['images'] / images:6.1%})"
        )
    if len(classes) > top:
        lines.append(f"  and {len(classes) - top} more")
    lines += [
        f"usable for HCL    {usable['images']} images ({usable['share']:.1%}) with at least "
        f"{usable['min_boxes']} boxes of {usable['min_box_area']:g} px²; the others use the "
        "fallback",
        f"left out          {dropped or 'nothing'}; clipped {found['clipped']}",
    ]
    return "\n".join(lines)


def _quantiles(values: NDArray[Any]) -> dict[str, float]:
    if not len(values):
        return {}
    found = np.quantile(np.asarray(values, np.float64), QUANTILES)
    return {f"{share:.0%}": float(value) for share, value in zip(QUANTILES, found, strict=True)}


def _spread(values: dict[str, Any]) -> str:
    if "50%" not in values:
        return "none"
    least, low, middle, high, most = (values[q] for q in ("0%", "5%", "50%", "95%", "100%"))
    return f"{least:.4g} [{low:.4g} {middle:.4g} {high:.4g}] {most:.4g}  (least, 5 50 95 %, most)"


def _classes(index: Index, pairs: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Boxes and images of every class that occurs, the most frequent first."""
    count = len(index.categories)
    boxes = np.bincount(index.column("labels"), minlength=count)
    images = np.bincount(pairs % max(count, 1), minlength=count)
    order = np.argsort(-boxes, kind="stable")
    return [
        {"name": index.categories[n], "boxes": int(boxes[n]), "images": int(images[n])}
        for n in order
        if boxes[n]
    ]
