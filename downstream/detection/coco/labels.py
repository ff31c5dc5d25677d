"""COCO with a few labels: which images keep theirs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pretrain.core.errors import InputError

Content = dict[str, Any]


def choose(images: list[Content], percent: float, seed: int) -> set[int]:
    """Ids of ``percent`` of the images, rounded, at least one.

    The choice depends on ids and seed alone, and the smaller share is a part of the larger.

    Raises:
        InputError: ``percent`` is not in (0, 100].
    """
    if not 0 < percent <= 100:
        raise InputError(f"HCL.LABELS.PERCENT is {percent:g}: it must be above 0 and at most 100")
    count = max(1, round(len(images) * percent / 100))
    ranked = sorted(
        (hashlib.sha256(f"{seed}:{image['id']}".encode()).digest(), image["id"]) for image in images
    )
    return {number for _, number in ranked[:count]}


def listed(path: Path, images: list[Content]) -> set[int]:
    """Ids of the images in a published list.

    Args:
        path: a COCO instances file with those images, a JSON list of ids or file names, or a text
            file with one id or file name a line.
        images: of the whole set.

    Raises:
        InputError: the list cannot be read, is empty, or has an image that the set has not.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no readable list of images ({error})") from None
    try:
        content: Any = json.loads(text)
    except ValueError:
        content = text.split()
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        content = [image.get("id") for image in content["images"] if isinstance(image, dict)]
    entries = content if isinstance(content, list) else [content]
    names = {str(image["id"]): image["id"] for image in images}
    names |= {Path(image["file_name"]).name: image["id"] for image in images}
    unknown = [entry for entry in entries if str(entry) not in names]
    if unknown or not entries:
        what = f"image '{unknown[0]}' is not in the training set" if unknown else "it is empty"
        raise InputError(
            f"{path}: {what}; a list has image ids or file names, or is a COCO instances file"
        )
    return {names[str(entry)] for entry in entries}


def subset(
    content: Any, annotations: Path, *, percent: float, seed: int, chosen: Path | None
) -> Content:
    """A COCO set without the images that lose their labels.

    Args:
        content: of the whole set.
        annotations: its file, for messages.
        percent: of the images, where there is no list.
        seed: of the choice.
        chosen: a published list.

    Raises:
        InputError: the annotations or the list cannot be used.
    """
    try:
        images, objects = content["images"], content["annotations"]
        keep = listed(chosen, images) if chosen else choose(images, percent, seed)
        return {
            **content,
            "images": [image for image in images if image["id"] in keep],
            "annotations": [entry for entry in objects if entry["image_id"] in keep],
        }
    except (KeyError, TypeError) as error:
        raise InputError(f"{annotations}: not a COCO instances file: {error!r}") from None
