"""``hcl data crops``: the objects of a COCO-format set as a folder of class folders."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import get_args

from downstream.retrieval.datasets.crops import Classes
from pretrain.core.arguments import add_output, not_negative
from pretrain.core.command import Command
from pretrain.core.errors import InputError
from pretrain.core.files import new_folder
from pretrain.datasets.readers.common import OnBad


def run(arguments: argparse.Namespace) -> int:
    """Run ``hcl data crops ANNOTATIONS IMAGES -o OUT``."""
    counts = write_crops(
        arguments.annotations,
        arguments.images,
        arguments.output,
        size=arguments.size,
        classes=arguments.classes,
        min_side=arguments.min_side,
        context=arguments.context,
        on_bad_box=arguments.on_bad_box,
    )
    print(f"{arguments.output}: {sum(counts.values())} objects of {len(counts)} classes")
    width = max(map(len, counts))
    for name, count in counts.items():
        print(f"  {name:<{width}} {count:>7}")
    print(f"to fine-tune on it: hcl retrieve train quickstart_vit data.root={arguments.output}")
    return 0


def write_crops(
    annotations: Path,
    images: Path,
    out: Path,
    *,
    size: int = 64,
    classes: Classes = "fine",
    min_side: float = 16.0,
    context: float = 0.1,
    on_bad_box: OnBad = "error",
) -> dict[str, int]:
    """Write every object as ``out/CLASS/IMAGE_NUMBER.png``, or nothing at all.

    Args:
        annotations: COCO-format instances.
        images: folder of their images.
        out: folder to make; it may exist if it is empty.
        size: side of a crop, px; the box becomes a square.
        classes: ``fine``, the categories, or ``coarse``, their supercategories.
        min_side: px; boxes with a shorter side are left out.
        context: share of its extent by which a box grows on every side, from 0.
        on_bad_box: ``error`` or ``drop``, boxes without area or outside their image.

    Returns:
        the number of objects by class folder, sorted.

    Raises:
        InputError: the set cannot be read, two classes would share a folder or two images
            their files' names, or ``out`` is not empty or cannot be written.
    """
    import numpy as np
    from torchvision.io import write_png

    from downstream.retrieval.datasets.crops import class_names
    from downstream.retrieval.objects import choose_objects, cut_objects
    from pretrain.datasets.readers.coco import read as read_coco

    _refuse_held(out)
    report = read_coco(annotations, images, on_bad_box=on_bad_box)
    objects = choose_objects(report, min_side=min_side, max_per_category=None)
    folders = folder_names(class_names(objects.categories, annotations, classes), annotations)
    shown = np.unique(objects.image)
    names = file_names([objects.records[image].file_name for image in shown], annotations)
    counts: dict[str, int] = {}
    with new_folder(out.expanduser().resolve()) as made:
        for image, name in zip(shown, names, strict=True):
            rows = np.flatnonzero(objects.image == image)
            for number, crop in enumerate(cut_objects(objects, rows, size, context)):
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


def _refuse_held(out: Path) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists():
        raise InputError(f"{out}: exists already and is never overwritten; choose another folder")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("annotations", type=Path, metavar="ANNOTATIONS", help="COCO-format instances")
    add("images", type=Path, metavar="IMAGES", help="folder of their images")
    add_output(parser, "folder to make", None)
    add("--size", type=_side, default=64, metavar="PX", help="side of a crop (default: 64)")
    add(
        "--classes",
        choices=get_args(Classes),
        default="fine",
        help="fine: the categories; coarse: their supercategories (default: fine)",
    )
    add(
        "--min-side",
        type=not_negative,
        default=16.0,
        metavar="PX",
        help="leave out boxes whose shorter side is less (default: 16)",
    )
    add(
        "--context",
        type=not_negative,
        default=0.1,
        metavar="SHARE",
        help="by how much of its extent a box grows on every side (default: 0.1)",
    )
    add(
        "--on-bad-box",
        choices=["error", "drop"],
        default="error",
        help="boxes without area or outside their image: refuse the set, or leave them out",
    )


def _side(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 4096, got '{text}'")
    return int(text)


COMMAND = Command(
    "data crops",
    "Write the objects of a COCO-format set as OUT/CLASS/IMAGE_NUMBER.png, a "
    "folder of class folders, as metric learning reads it (data.name=folder).",
    add_arguments,
    run,
    output_was_word=True,
)
