"""The sets of one transfer: named on the command line, or by the config's DATASETS."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from downstream.detection.coco.labels import subset
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
