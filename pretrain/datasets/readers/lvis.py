"""LVIS v1: COCO's format, except that images are named by the address they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pretrain.datasets.readers import coco
from pretrain.datasets.readers.common import DEFAULT, Options
from pretrain.datasets.records import Stream


def stream(annotations: Path, images: Path, options: Options = DEFAULT) -> Stream:
    """Read ``lvis_v1_train.json`` or ``lvis_v1_val.json``.

    ``coco_url`` ends in the split and the file (``train2017/000000391895.jpg``); validation images
    come from both of COCO's folders. What LVIS says of absent and incompletely annotated
    categories is not kept.

    Args:
        annotations: the JSON file.
        images: the folder that holds ``train2017`` and ``val2017``.
        options: of all readers.
    """
    return coco.stream(annotations, images, options, coco.Dialect("LVIS file", "coco_url", _name))


def _name(url: Any) -> Any:
    """``http://host/train2017/1.jpg`` → ``train2017/1.jpg``; None if it is no address."""
    if not isinstance(url, str):
        return None
    try:
        parts = urlsplit(url).path.split("/")
    except ValueError:
        return None
    return "/".join(parts[-2:]) if len(parts) > 2 else None
