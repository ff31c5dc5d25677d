"""``hcl data crops``: the objects of a COCO-format set as a folder of class folders."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field

from downstream.retrieval.datasets.crops import Classes
from pretrain.core.arguments import Option, add_output, add_settings, read_settings
from pretrain.core.command import Command
from pretrain.core.errors import InputError
from pretrain.core.files import new_folder
from pretrain.core.settings import Settings


class Options(Settings):
    """What ``hcl data crops`` is asked for; its arguments are made from this.

    Attributes:
        annotations: COCO-format instances.
        images: folder of their images.
        output: folder to make; it may exist if it is empty.
        size: side of a crop; the box becomes a square.
        classes: fine: the categories; coarse: their supercategories.
        min_side: leave out boxes whose shorter side is less.
        context: by how much of its extent a box grows on every side.
        on_bad_box: boxes without area or outside their image: refuse the set, or leave them out.
    """

    annotations: Annotated[Path, Option("ANNOTATIONS", positional=True)]
    images: Annotated[Path, Option("IMAGES", positional=True)]
    output: Annotated[Path, Option(hidden=True)]
    size: Annotated[int, Field(ge=1, le=4096), Option("PX")] = 64
    classes: Classes = "fine"
    min_side: Annotated[float, Field(ge=0), Option("PX")] = 16.0
    context: Annotated[float, Field(ge=0), Option("SHARE")] = 0.1
    on_bad_box: Literal["error", "drop"] = "error"


def run(arguments: argparse.Namespace) -> int:
    """Run ``hcl data crops ANNOTATIONS IMAGES -o OUT``."""
    options = read_settings(Options, arguments, source="hcl data crops")
    counts = write_crops(options)
    print(f"{options.output}: {sum(counts.values())} objects of {len(counts)} classes")
    width = max(map(len, counts))
    for name, count in counts.items():
        print(f"  {name:<{width}} {count:>7}")
    print(f"to fine-tune on it: hcl retrieve train quickstart_vit data.root={options.output}")
    return 0


def write_crops(options: Options) -> dict[str, int]:
    """Write every object as ``OUTPUT/CLASS/IMAGE_NUMBER.png``, or nothing at all.

    Returns:
        the number of objects by class folder, sorted.

    Raises:
        InputError: the set cannot be read, two classes would share a folder or two images
            their files' names, or the output is not empty or cannot be written.
    """
    import numpy as np
    from torchvision.io import write_png

    from downstream.retrieval.datasets.crops import class_names
    from downstream.retrieval.objects import choose_objects, cut_objects
    from pretrain.datasets.readers.coco import read as read_coco

    out, annotations = options.output, options.annotations
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: exists already and is never overwritten; choose another folder")
    report = read_coco(annotations, options.images, on_bad_box=options.on_bad_box)
    objects = choose_objects(report, min_side=options.min_side, max_per_category=None)
    classes = class_names(objects.categories, annotations, options.classes)
    folders = folder_names(classes, annotations)
    shown = np.unique(objects.image)
    names = file_names([objects.records[image].file_name for image in shown], annotations)
    counts: dict[str, int] = {}
    with new_folder(out.expanduser().resolve()) as made:
        for image, name in zip(shown, names, strict=True):
            rows = np.flatnonzero(objects.image == image)
            crops = cut_objects(objects, rows, options.size, options.context)
            for number, crop in enumerate(crops):
                folder = folders[int(objects.labels[rows[number]])]
                counts[folder] = counts.get(folder, 0) + 1
                (made / folder).mkdir(exist_ok=True)
                write_png(crop.contiguous(), str(made / folder / f"{name}_{number:02d}.png"))
    return dict(sorted(counts.items()))


def folder_names(classes: Sequence[str], source: Path) -> list[str]:
    """What the folder of each class is called: other characters than words' become ``_``.

    Raises:
        InputError: two different classes would share a folder.
    """
    made = [_safe(name) for name in classes]
    first: dict[str, str] = {}
    for name, folder in zip(classes, made, strict=True):
        # Not by case alone: some file systems do not tell such folders apart.
        other = first.setdefault(folder.casefold(), name)
        if other != name:
            raise InputError(
                f"{source}: categories '{other}' and '{name}' would both be the folder "
                f"'{folder}'; rename one"
            )
    return made


def file_names(images: Sequence[str], source: Path) -> list[str]:
    """How the files of each image's objects begin: its folders and its stem, joined by ``_``.

    Raises:
        InputError: the files of two images would have the same names.
    """
    made = []
    first: dict[str, str] = {}
    for image in images:
        path = PurePosixPath(image)
        name = "_".join(_safe(part) for part in (*path.parent.parts, path.stem))
        made.append(name)
        if name.casefold() in first:
            raise InputError(
                f"{source}: the objects of images '{first[name.casefold()]}' and '{image}' would "
                f"both be '{name}_00.png' and so on; rename one"
            )
        first[name.casefold()] = image
    return made


def _safe(name: str) -> str:
    """One part of a path: other characters than words' become ``_``."""
    return re.sub(r"[^\w .()+-]", "_", name).strip(". ") or "_"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_settings(parser, Options)
    add_output(parser, "folder to make", None)


COMMAND = Command(
    "data crops",
    "Write the objects of a COCO-format set as OUT/CLASS/IMAGE_NUMBER.png, a "
    "folder of class folders, as metric learning reads it (data.name=folder).",
    add_arguments,
    run,
    output_was_word=True,
)
