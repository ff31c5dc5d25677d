"""A set of scenes on disk: images and annotations in COCO format."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pretrain.core.errors import InputError
from pretrain.core.files import read_json, scratch_beside
from pretrain.datasets.scenes.compose import compose
from pretrain.datasets.scenes.scene_set import GENERATOR, Record, SceneSet

JPEG_QUALITY = 92
Outcome = Literal["made", "present"]


def annotation_file(folder: Path, split: str) -> Path:
    """Where the annotations of a split are."""
    return folder / "annotations" / f"instances_{split}.json"


def write(
    wanted: SceneSet,
    folder: Path,
    *,
    workers: int = 1,
    fresh: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Make the set, unless ``folder`` holds it already.

    The set is made beside ``folder`` and put in place when it is complete.

    Args:
        wanted: what to make.
        folder: where; it may exist if it is empty.
        workers: processes; the bytes do not depend on their number.
        fresh: replace other generated scenes in ``folder``.
        progress: called with the number of images made so far.

    Raises:
        InputError: ``folder`` holds something else, or cannot be written.
    """
    folder = folder.expanduser().resolve()
    old = _look(wanted, folder, fresh)
    if old == "same":
        return "present"
    try:
        with scratch_beside(folder) as scratch:
            made = scratch / "set"
            _generate(wanted, made, workers, progress)
            if old == "replaceable":
                folder.rename(scratch / "old")
            made.rename(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
    return "made"


def _look(wanted: SceneSet, folder: Path, fresh: bool) -> Literal["free", "same", "replaceable"]:
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
    if not fresh:
        raise InputError(f"{folder}: {fault}; choose another folder or add --fresh")
    extra = {path.name for path in folder.iterdir()} - {"train", "val", "annotations"}
    if extra:
        raise InputError(f"{folder}: also holds '{min(extra)}', which is not overwritten; move it")
    return "replaceable"


def _info(path: Path) -> Record | None:
    content = read_json(path)
    info = content.get("info") if isinstance(content, dict) else None
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
            present = {path.name for path in (folder / split).iterdir()}
        except OSError:
            present = set()
        missing = [name for i in range(count) if (name := _file_name(first + i)) not in present]
        if missing:
            return f"{len(missing)} images of '{split}' are missing, the first {missing[0]}"
    return None


def _file_name(image_id: int) -> str:
    return f"{image_id:012d}.jpg"


def _generate(
    wanted: SceneSet, folder: Path, workers: int, progress: Callable[[int], None] | None
) -> None:
    (folder / "annotations").mkdir(parents=True)
    known = wanted.source.world.categories
    numbers = {category.name: i for i, category in enumerate(known, start=1)}
    categories = [
        {
            "id": numbers[category.name],
            "name": category.name,
            "supercategory": category.contexts[0],
            "contexts": list(category.contexts),
        }
        for category in known
    ]
    next_id = 1
    with _mapper(workers) as apply:
        for stream, (split, first, count) in enumerate(wanted.splits()):
            (folder / split).mkdir()
            images, annotations = [], []
            part = replace(wanted, source=wanted.source.of_split(split))
            draw = partial(_draw, part, folder / split, stream, first)
            for image, objects in apply(draw, range(count)):
                for record in objects:
                    record["id"] = next_id
                    record["category_id"] = numbers[record.pop("category")]
                    if record["out_of_context"]:
                        image["out_of_context"] = next_id
                    next_id += 1
                images.append(image)
                annotations += objects
                if progress is not None:
                    progress(image["id"])
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
    # An interrupt reaches every process of the terminal; only the parent is to act on it.
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        yield partial(pool.map, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _draw(
    wanted: SceneSet, folder: Path, stream: int, first: int, index: int
) -> tuple[Record, list[Record]]:
    """Draw and save one image; its random stream depends on nothing but its own numbers."""
    rng = np.random.default_rng([wanted.seed, stream, index])
    scene = compose(wanted.source, wanted.size, wanted.out_of_context, rng)
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
        **({} if scene.background is None else {"background": scene.background}),
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
            **({} if item.name is None else {"cutout": item.name}),
        }
        for item in scene.objects
    ]
    return image, objects


def encode(mask: NDArray[np.bool_]) -> str:
    """The ``counts`` string of a mask (h, w) in COCO's compressed run-length encoding.

    Runs of 0 and 1 alternate in column-major order, beginning with 0. From the fourth on, each run
    is given as the difference to the run two before; each number is written in groups of 5 bits,
    lowest first, bit 6 saying that more follow, and shifted into printable ASCII by 48.
    """
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    if flat.size and flat[0]:
        runs.insert(0, 0)
    text = bytearray()
    for i, run in enumerate(runs):
        rest = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            bits = rest & 0x1F
            rest >>= 5
            # The last group's bit 5 is the sign: done once the rest repeats it.
            more = rest != (-1 if bits & 0x10 else 0)
            text.append((bits | (0x20 if more else 0)) + 48)
    return text.decode("ascii")


def bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The exact box of a mask that is not empty: x, y, width, height in pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert rows.size, "an empty mask has no box"
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1
