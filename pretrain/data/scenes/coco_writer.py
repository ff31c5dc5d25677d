"""A set of scenes on disk: images and annotations in COCO format."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from pretrain.data.scenes.compose import compose
from pretrain.data.scenes.contexts import CATEGORIES, CONTEXTS
from pretrain.data.scenes.procedural import ProceduralSource
from pretrain.data.scenes.rle import bounds, encode
from pretrain.errors import InputError

GENERATOR = "hcl data scenes"
VERSION = "1"
"""Of what the generator draws: it changes whenever the same seed gives other bytes."""
MIN_SIZE = 64
MAX_SIZE = 2048
JPEG_QUALITY = 92
Record = dict[str, Any]
Outcome = Literal["made", "present"]


@dataclass(frozen=True)
class SceneSet:
    """What to generate.

    Attributes:
        images: number of training images.
        val: number of validation images.
        seed: of everything random.
        size: side of the square images in pixels.
        out_of_context: share of scenes with one foreign object.
    """

    images: int
    val: int
    seed: int
    size: int = 256
    out_of_context: float = 0.15

    def __post_init__(self) -> None:
        faults = []
        if self.images < 1:
            faults.append(f"--images must be at least 1, got {self.images}")
        if self.val < 0:
            faults.append(f"--val must be 0 or more, got {self.val}")
        if self.seed < 0:
            faults.append(f"--seed must be 0 or more, got {self.seed}")
        if not MIN_SIZE <= self.size <= MAX_SIZE:
            faults.append(f"--size must be {MIN_SIZE} to {MAX_SIZE} pixels, got {self.size}")
        if not 0.0 <= self.out_of_context <= 1.0:
            faults.append(f"--out-of-context must be 0 to 1, got {self.out_of_context}")
        if faults:
            raise InputError("; ".join(faults))

    def splits(self) -> list[tuple[str, int, int]]:
        """Name, first image id and number of images of each split."""
        splits = [("train", 1, self.images)]
        return [*splits, ("val", 1 + self.images, self.val)] if self.val else splits

    def info(self) -> Record:
        """The ``info`` of the annotation files: all that determines the set."""
        return {
            "description": "Procedural scenes of many objects",
            "generator": GENERATOR,
            "version": VERSION,
            "source": ProceduralSource.name,
            "seed": self.seed,
            "images": self.images,
            "val": self.val,
            "size": self.size,
            "out_of_context": self.out_of_context,
            "contexts": {name: [c.name for c in members] for name, members in CONTEXTS.items()},
        }


def annotation_file(folder: Path, split: str) -> Path:
    """Where the annotations of a split are."""
    return folder / "annotations" / f"instances_{split}.json"


def write(wanted: SceneSet, folder: Path, workers: int, overwrite: bool) -> Outcome:
    """Make the set, unless ``folder`` holds it already.

    The set is made beside ``folder`` and put in place when it is complete.

    Raises:
        InputError: ``folder`` holds something else, or cannot be written.
    """
    if workers < 1:
        raise InputError(f"--workers must be at least 1, got {workers}")
    folder = folder.expanduser().resolve()
    old = _look(wanted, folder, overwrite)
    if old == "same":
        return "present"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from None
    try:
        made = temporary / "set"
        _generate(wanted, made, workers)
        if old == "replaceable":
            folder.rename(temporary / "old")
        made.rename(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return "made"


def _look(wanted: SceneSet, folder: Path, overwrite: bool) -> Literal["free", "same", "replaceable"]:
    """What ``folder`` holds."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return "free"
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file, not a folder; choose another folder")
    held = _info(annotation_file(folder, "train"))
    if held is None or held.get("generator") != GENERATOR:
        raise InputError(
            f"{folder}: holds something other than generated scenes, which is never overwritten; "
            "choose another folder"
        )
    fault = _difference(wanted, folder, held)
    if fault is None:
        return "same"
    if not overwrite:
        raise InputError(f"{folder}: {fault}; choose another folder or add --overwrite")
    return "replaceable"


def _info(path: Path) -> Record | None:
    try:
        info = json.loads(path.read_text(encoding="utf-8"))["info"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return info if isinstance(info, dict) else None


def _difference(wanted: SceneSet, folder: Path, held: Record) -> str | None:
    """How the set in ``folder`` differs from the wanted one; None if it does not."""
    info = wanted.info()
    other = [
        f"{key} {held.get(key)!r} instead of {value!r}"
        for key, value in info.items()
        if held.get(key) != value and key not in ("contexts", "description")
    ]
    if other:
        return f"holds other scenes ({', '.join(other)})"
    for split, first, count in wanted.splits():
        if _info(annotation_file(folder, split)) != info:
            return f"annotations/instances_{split}.json is missing or of another set"
        try:
            present = set(os.listdir(folder / split))
        except OSError:
            present = set()
        missing = [
            name for i in range(count) if (name := _file_name(first + i)) not in present
        ]
        if missing:
            return f"{len(missing)} images of '{split}' are missing, the first {missing[0]}"
    return None


def _file_name(image_id: int) -> str:
    return f"{image_id:012d}.jpg"


def _generate(wanted: SceneSet, folder: Path, workers: int) -> None:
    (folder / "annotations").mkdir(parents=True)
    numbers = {category.name: i for i, category in enumerate(CATEGORIES, start=1)}
    categories = [
        {
            "id": numbers[category.name],
            "name": category.name,
            "supercategory": category.contexts[0],
            "contexts": list(category.contexts),
        }
        for category in CATEGORIES
    ]
    next_id = 1
    with _mapper(workers) as apply:
        for stream, (split, first, count) in enumerate(wanted.splits()):
            (folder / split).mkdir()
            images, annotations = [], []
            draw = partial(_draw, wanted, folder / split, stream, first)
            for image, objects in apply(draw, range(count)):
                for record in objects:
                    record["id"] = next_id
                    record["category_id"] = numbers[record.pop("category")]
                    if record["out_of_context"]:
                        image["out_of_context"] = next_id
                    next_id += 1
                images.append(image)
                annotations += objects
            content = {
                "info": wanted.info(),
                "licenses": [],
                "images": images,
                "annotations": annotations,
                "categories": categories,
            }
            text = json.dumps(content, separators=(",", ":")) + "\n"
            annotation_file(folder, split).write_text(text, encoding="utf-8")


@contextmanager
def _mapper(workers: int) -> Iterator[Any]:
    """An ordered map: in this process, or over a pool of fresh ones (safe on every platform)."""
    if workers == 1:
        yield map
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield partial(pool.imap, chunksize=4)


def _draw(
    wanted: SceneSet, folder: Path, stream: int, first: int, index: int
) -> tuple[Record, list[Record]]:
    """Draw and save one image; its random stream depends on nothing but its own numbers."""
    rng = np.random.default_rng([wanted.seed, stream, index])
    scene = compose(ProceduralSource(), wanted.size, wanted.out_of_context, rng)
    image_id = first + index
    name = _file_name(image_id)
    Image.fromarray(scene.image).save(folder / name, quality=JPEG_QUALITY)
    image = {
        "id": image_id,
        "file_name": name,
        "width": wanted.size,
        "height": wanted.size,
        "context": scene.context,
        "out_of_context": None,
    }
    objects = [
        {
            "id": 0,
            "image_id": image_id,
            "category": item.category.name,
            "bbox": list(bounds(item.mask)),
            "area": int(item.mask.sum()),
            "segmentation": {"size": [wanted.size, wanted.size], "counts": encode(item.mask)},
            "iscrowd": 0,
            "out_of_context": item.foreign,
        }
        for item in scene.objects
    ]
    return image, objects
