"""One file with a part of the study's photographs, for a machine with a GPU (docs/study.md).

    python tools/study_gpu_data.py DIR INDEX FILE.tar.gz

DIR as for tools/study_lists.py, with its lists in DIR/study; INDEX: the proposals. The file has at
most ``LIMIT`` bytes: all images of the object tasks, 20 validation photographs of each scene, and
as many training photographs as fit, chosen by the SHA-256 of their names; and their lists, with
the proposals as boxes of study/pretrain.json.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from study_lists import number_of

from pretrain.data.index import Index

LIMIT = 60 * 2**20
VAL_PER_SCENE = 20
Document = dict[str, Any]


def main() -> None:
    """Choose, and write the file."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DIR")
    parser.add_argument("index", type=Path, metavar="INDEX")
    parser.add_argument("output", type=Path, metavar="FILE.tar.gz")
    arguments = parser.parse_args()
    data: Path = arguments.data
    names = ("objects_train", "objects_val", "scene_train", "scene_val")
    lists = {name: read(data / "study" / f"{name}.json") for name in names}
    pretrain = with_boxes(Index.open(arguments.index))
    wanted = [file for name in names[:2] for file in files_of(lists[name])]
    wanted += few_of_each_scene(lists["scene_val"])
    rest = {*files_of(pretrain), *files_of(lists["scene_train"])} - set(wanted)
    wanted += sorted(rest, key=number_of)
    # The compressed lists and the names of the files take less than a tenth.
    chosen, room = [], LIMIT * 9 // 10
    for file in wanted:
        room -= (data / file).stat().st_size
        if room < 0:
            break
        chosen.append(file)
    kept = set(chosen)
    with tarfile.open(arguments.output, "w:gz", compresslevel=5) as archive:
        for file in chosen:
            archive.add(data / file, file)
        for name, document in {**lists, "pretrain": pretrain}.items():
            text = json.dumps(restricted(document, kept), separators=(",", ":")).encode()
            entry = tarfile.TarInfo(f"study/{name}.json")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    size = arguments.output.stat().st_size
    assert size <= LIMIT, f"{size} bytes"
    print(f"{arguments.output}: {len(chosen)} photographs, {size / 2**20:.1f} MiB")


def read(file: Path) -> Document:
    """A COCO-form file."""
    document: Document = json.loads(file.read_text(encoding="utf-8"))
    return document


def with_boxes(index: Index) -> Document:
    """An index of proposals in COCO's form, boxes to a tenth of a pixel."""
    images, annotations = [], []
    for row in range(len(index)):
        width, height = index.size(row)
        file = str(index.path(row).relative_to(index.images))
        images.append({"id": row + 1, "file_name": file, "width": width, "height": height})
        for x1, y1, x2, y2 in index.boxes(row).tolist():
            box = [round(value, 1) for value in (x1, y1, x2 - x1, y2 - y1)]
            annotations.append({"image_id": row + 1, "category_id": 1, "bbox": box})
    entries = [entry | {"id": number} for number, entry in enumerate(annotations, start=1)]
    categories = [{"id": 1, "name": "proposal"}]
    return {"images": images, "annotations": entries, "categories": categories}


def few_of_each_scene(document: Document) -> list[str]:
    """The first ``VAL_PER_SCENE`` images of each category."""
    scene = {entry["image_id"]: entry["category_id"] for entry in document["annotations"]}
    taken: Counter[int] = Counter()
    chosen = []
    for image in document["images"]:
        taken[scene[image["id"]]] += 1
        if taken[scene[image["id"]]] <= VAL_PER_SCENE:
            chosen.append(str(image["file_name"]))
    return chosen


def restricted(document: Document, kept: set[str]) -> Document:
    """The part of a document that is about some images."""
    images = [image for image in document["images"] if image["file_name"] in kept]
    ids = {image["id"] for image in images}
    annotations = [entry for entry in document["annotations"] if entry["image_id"] in ids]
    for entry in annotations:
        entry.pop("segmentation", None)
    return {**document, "images": images, "annotations": annotations}


def files_of(document: Document) -> list[str]:
    """File names in order."""
    return [str(image["file_name"]) for image in document["images"]]


if __name__ == "__main__":
    main()
