"""Ground truth and saved detections as evaluation wants them: checked, numbered, one kind each."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from downstream.detection.coco.sets import usable_segmentation
from pretrain.core.errors import InputError

Detection = dict[str, Any]
Truth = dict[str, Any]


def read_truth(annotations: Path | Truth) -> Truth:
    """A set in COCO's format with every field that evaluation reads; the argument is not changed.

    Annotations are numbered from 1: COCO's evaluation takes id 0 for 'no match'.

    Raises:
        InputError: it is not COCO's format, or an annotation is of no known image or category.
    """
    where, content = _load(annotations, "annotations")
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in keys):
        raise InputError(f"{where}: not a COCO instances file: it needs lists {keys}")
    try:
        sizes = {image["id"]: image for image in content["images"]}
        categories = sorted(content["categories"], key=lambda category: category["id"])
        known = {category["id"] for category in categories}
        entries = []
        for number, entry in enumerate(content["annotations"], start=1):
            at = f"{where}: annotation {entry.get('id', number)}"
            if entry["image_id"] not in sizes or entry["category_id"] not in known:
                raise InputError(f"{at}: its image_id or category_id is not in the file")
            box = [float(value) for value in entry["bbox"]]
            more = {"id": number, "bbox": box, "iscrowd": int(entry.get("iscrowd", 0))}
            more["area"] = float(entry.get("area", box[2] * box[3]))
            segmentation = usable_segmentation(
                entry.get("segmentation"), sizes[entry["image_id"]], at
            )
            plain = {key: value for key, value in entry.items() if key != "segmentation"}
            mask = {} if segmentation is None else {"segmentation": segmentation}
            entries.append({**plain, **more, **mask})
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: not a COCO instances file: {error!r}") from None
    images = [
        {key: image[key] for key in ("id", "width", "height") if key in image}
        for _, image in sorted(sizes.items())
    ]
    return {"images": images, "annotations": entries, "categories": categories}


def read_detections(detections: Path | Sequence[Detection], truth: Truth) -> list[Detection]:
    """Entries of COCO's result format, checked against the set they are of.

    Raises:
        InputError: naming the first entry that is not usable.
    """
    where, content = _load(detections, "detections")
    if not isinstance(content, list | tuple):
        raise InputError(f"{where}: not a list of detections in COCO's result format")
    images = {image["id"] for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    for place, entry in enumerate(content):
        try:
            usable = math.isfinite(entry["score"])
            if "bbox" in entry:
                usable &= len(entry["bbox"]) == 4 and all(map(math.isfinite, entry["bbox"]))
            known = entry["image_id"] in images and entry["category_id"] in categories
        except (KeyError, TypeError):
            raise InputError(
                f"{where}: entry {place} lacks image_id, category_id or score; write it again "
                "with `hcl detect`"
            ) from None
        if not known:
            raise InputError(
                f"{where}: entry {place}: image {entry['image_id']} or category "
                f"{entry['category_id']} is not in the annotations; give those it was made on"
            )
        if not usable:
            raise InputError(f"{where}: entry {place}: score and bbox must be finite numbers")
    return list(content)


def of_kind(truth: Truth, detections: Sequence[Detection], kind: str) -> list[Detection]:
    """The detections with the one shape that is measured, numbered from 1.

    With a box in the entry, COCO would take the box's area for the mask's size class.

    Raises:
        InputError: a detection or an object has no box or mask.
    """
    key, other = ("bbox", "segmentation") if kind == "bbox" else ("segmentation", "bbox")
    for name, entries in (("detection", detections), ("annotation", truth["annotations"])):
        for place, entry in enumerate(entries):
            if key not in entry:
                raise InputError(
                    f"{name} {place} has no {key}: {kind} cannot be measured; leave {kind} out"
                )
    return [
        {**{k: v for k, v in entry.items() if k != other}, "id": number}
        for number, entry in enumerate(detections, start=1)
    ]


def _load(source: Any, name: str) -> tuple[str, Any]:
    if not isinstance(source, Path):
        return name, source
    try:
        return str(source), json.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{source}: no readable file of {name} ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{source}: not JSON: {error}") from None
