"""The sets of one transfer: by the command line, by the config's DATASETS, or with few labels."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from downstream.detection.coco.lvis import is_lvis, read_lvis
from downstream.detection.coco.sets import CocoSet, builtin_paths, from_content, load_instances
from downstream.detection.coco.voc_sets import read_voc
from downstream.detection.options import Paths
from pretrain.core.errors import InputError


def resolve(given: Paths | None, names: Sequence[str], option: str) -> Paths | None:
    """Annotations and images of one split; None where the config names VOC's.

    Raises:
        InputError: neither the command line nor the config says which.
    """
    if given is not None:
        return given
    if names and all(name.startswith("voc_") for name in names):
        return None
    if len(names) != 1:
        raise InputError(
            f"give {option} ANNOTATIONS IMAGES, or one name in DATASETS (it has {len(names)})"
        )
    return builtin_paths(names[0])


def read_set(paths: Paths | None, names: Sequence[str]) -> CocoSet:
    """Read a set in COCO's or LVIS's format, or VOC's sets ``names`` where there are no paths.

    VOC2007 and VOC2012 lie under the folder in the environment variable ``DETECTRON2_DATASETS``.

    Raises:
        InputError: naming file, entry and remedy.
    """
    if paths is None:
        return read_voc(names, Path(os.environ.get("DETECTRON2_DATASETS", "datasets")))
    annotations, images = paths
    return read_content(load_instances(annotations), annotations, images)


def read_labeled(
    paths: Paths | None, *, percent: float, seed: int, chosen: Path | None, target: Path
) -> tuple[CocoSet, str]:
    """The part of a COCO set whose labels are kept.

    Args:
        paths: of the whole set.
        percent: of the images.
        seed: of the choice.
        chosen: a published list of images, in place of percent and seed.
        target: where the part's annotations will be written.

    Returns:
        The part, as read from ``target``, and what is to be written there.

    Raises:
        InputError: set or list are not usable.
    """
    if paths is None:
        raise InputError("few labels are for sets in COCO's format; HCL.LABELS.PERCENT must be 100")
    annotations, images = paths
    content: Any = load_instances(annotations)
    part = subset(content, annotations, percent=percent, seed=seed, chosen=chosen)
    text = json.dumps(part)
    found = read_content(part, annotations, images)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return replace(found, annotations=target, sha256=digest), text


def read_content(content: Any, annotations: Path, images: Path) -> CocoSet:
    """A set in COCO's or LVIS's format from the content of its file.

    Raises:
        InputError: naming file, entry and remedy.
    """
    read = read_lvis if is_lvis(content) else from_content
    return read(content, annotations, images)


def choose(images: list[dict[str, Any]], percent: float, seed: int) -> set[int]:
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


def listed(path: Path, images: list[dict[str, Any]]) -> set[int]:
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
) -> dict[str, Any]:
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
