"""The lists of the study on photographs of scenes (docs/study.md), as COCO-form files.

    python tools/study_lists.py DIR OUT

DIR holds the photographs, with ``scenes_{train,val}.tsv``, ``scene_categories.txt``,
``instances_{train,val}.json`` and ``split_b_{train,val}.txt``. Nothing is drawn at random: subsets
are chosen by the SHA-256 of file names, so that the lists are the same everywhere.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIDE = 128
HELD_OUT_PER_SCENE = 40
LEAST_BOXES = {"train": 200, "val": 50}
LEAST_SIDE = 16
TUNING_PART = 5
FEW_LABELS = 10

Annotation = dict[str, Any]


@dataclass(frozen=True)
class Photograph:
    """A line of ``scenes_*.tsv``."""

    file: str
    scene: int
    balanced: bool


@dataclass(frozen=True)
class Objects:
    """Annotations by file name, and all categories."""

    of: dict[str, list[Annotation]]
    categories: list[dict[str, Any]]


def main() -> None:
    """Write the lists and print what is in them."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DIR")
    parser.add_argument("output", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    data, output = arguments.data, arguments.output
    output.mkdir(parents=True, exist_ok=True)
    scene_lists(data, output)
    object_lists(data, output)


def scene_lists(data: Path, output: Path) -> None:
    """What is pretrained on, and images labeled with their scene."""
    train, val = (photographs(data / f"scenes_{split}.tsv") for split in ("train", "val"))
    names = [line for line in lines(data / "scene_categories.txt") if line]
    left_out = set(lines(data / "split_b_val.txt"))
    pretrain = [photo for photo in train if photo.file not in left_out]
    held: set[str] = set()
    for scene in range(len(names)):
        files = [photo.file for photo in pretrain if photo.scene == scene and photo.balanced]
        held.update(sorted(files, key=number_of)[:HELD_OUT_PER_SCENE])
    rest = [photo for photo in pretrain if photo.balanced and photo.file not in held]
    tune_val = [photo for photo in pretrain if photo.file in held]
    write(output / "pretrain.json", [photo.file for photo in pretrain], {}, [])
    for name, chosen in (
        ("tune_scene_train", rest),
        ("tune_scene_val", tune_val),
        ("scene_train", [photo for photo in train if photo.balanced]),
        ("scene_val", [photo for photo in val if photo.balanced]),
    ):
        whole = {photo.file: [whole_image(photo.scene)] for photo in chosen}
        categories = [{"id": n, "name": name} for n, name in enumerate(names, start=1)]
        write(output / f"{name}.json", [photo.file for photo in chosen], whole, categories)


def object_lists(data: Path, output: Path) -> None:
    """Objects of the categories of things with enough boxes: all, and those that are large."""
    files = {split: lines(data / f"split_b_{split}.txt") for split in ("train", "val")}
    objects = read_objects(data)
    boxes = {
        split: Counter(entry["category_id"] for file in names for entry in objects.of[file])
        for split, names in files.items()
    }
    categories = [
        category
        for category in objects.categories
        if category.get("supercategory") == "thing"
        and all(boxes[split][category["id"]] >= least for split, least in LEAST_BOXES.items())
    ]
    chosen = {category["id"] for category in categories}
    part = {file for file in files["train"] if number_of(file) % TUNING_PART == 0}
    few = [file for file in files["train"] if number_of(file) % FEW_LABELS == 0]

    def save(name: str, names: Sequence[str], keep: Callable[[Annotation], bool]) -> None:
        kept = {
            file: [entry for entry in objects.of[file] if entry["category_id"] in chosen]
            for file in names
        }
        kept = {file: [entry for entry in found if keep(entry)] for file, found in kept.items()}
        write(output / f"{name}.json", names, kept, categories)

    for split in ("train", "val"):
        save(f"things_{split}", files[split], lambda _: True)
        save(f"objects_{split}", files[split], is_large)
    save("things_train_10pct", few, lambda _: True)
    save("tune_objects_train", [file for file in files["train"] if file not in part], is_large)
    save("tune_objects_val", [file for file in files["train"] if file in part], is_large)


def photographs(file: Path) -> list[Photograph]:
    """The lines of a table with the columns file, scene, balanced, annotated."""
    rows = [line.split("\t") for line in lines(file)[1:]]
    return [Photograph(name, int(scene), balanced == "1") for name, scene, balanced, _ in rows]


def read_objects(data: Path) -> Objects:
    """The annotations of both published splits."""
    of: dict[str, list[Annotation]] = defaultdict(list)
    categories: list[dict[str, Any]] = []
    for split in ("train", "val"):
        document = json.loads((data / f"instances_{split}.json").read_text(encoding="utf-8"))
        names = {image["id"]: image["file_name"] for image in document["images"]}
        for entry in document["annotations"]:
            of[names[entry["image_id"]]].append(entry)
        categories = document["categories"]
    return Objects(of, categories)


def is_large(entry: Annotation) -> bool:
    """Whether both sides of the box have at least ``LEAST_SIDE`` pixels."""
    return bool(min(entry["bbox"][2:]) >= LEAST_SIDE)


def whole_image(scene: int) -> Annotation:
    """A box around the image, labeled with its scene."""
    return {"category_id": scene + 1, "bbox": [0, 0, SIDE, SIDE], "area": SIDE**2, "iscrowd": 0}


def write(
    path: Path,
    files: Iterable[str],
    annotations: dict[str, list[Annotation]],
    categories: list[dict[str, Any]],
) -> None:
    """Write a COCO-form file whose ids count from 1."""
    images = [
        {"id": number, "file_name": file, "width": SIDE, "height": SIDE}
        for number, file in enumerate(files, start=1)
    ]
    entries = [
        entry | {"image_id": image["id"]}
        for image in images
        for entry in annotations.get(str(image["file_name"]), ())
    ]
    entries = [entry | {"id": number} for number, entry in enumerate(entries, start=1)]
    document = {"images": images, "annotations": entries, "categories": categories}
    path.write_text(json.dumps(document), encoding="utf-8")
    print(f"{path}: {len(images)} images, {len(entries)} boxes")


def number_of(file: str) -> int:
    """A number that depends on the name alone."""
    return int(hashlib.sha256(file.encode()).hexdigest(), 16)


def lines(file: Path) -> list[str]:
    """The lines of a text file."""
    return file.read_text(encoding="utf-8").split("\n")[:-1]


if __name__ == "__main__":
    main()
