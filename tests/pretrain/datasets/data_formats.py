"""A COCO file written out again as other data sets are."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

OPENIMAGES_COLUMNS = [
    *("ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax"),
    *("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"),
]


class Document:
    """A COCO document with its boxes by image."""

    def __init__(self, file: Path) -> None:
        content: dict[str, Any] = json.loads(file.read_text())
        self.content = content
        self.images = sorted(content["images"], key=lambda image: image["file_name"])
        self.names = {c["id"]: c["name"] for c in content["categories"]}
        self.boxes: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in self.images}
        for annotation in content["annotations"]:
            self.boxes[annotation["image_id"]].append(annotation)


def openimages_rows(document: Document, digits: int | None) -> list[list[str]]:
    """Lines of a box file; ``digits`` after the point, None: all there are."""
    rows = []
    for image in document.images:
        for box in document.boxes[image["id"]]:
            x, y, w, h = box["bbox"]
            shares = [
                *(x / image["width"], (x + w) / image["width"]),
                *(y / image["height"], (y + h) / image["height"]),
            ]
            numbers = [repr(s) if digits is None else f"{s:.{digits}f}" for s in shares]
            name = f"/m/{box['category_id']:05d}"
            flags = ["0", "-1", str(box.get("iscrowd", 0)), "0", "0"]
            rows.append([Path(image["file_name"]).stem, "xclick", name, "1", *numbers, *flags])
    return rows


def write_openimages(
    document: Document, folder: Path, *, digits: int | None = 6, bom: bool = False
) -> tuple[Path, Path]:
    """Box file and class descriptions."""
    folder.mkdir(parents=True, exist_ok=True)
    boxes, classes = folder / "boxes.csv", folder / "classes.csv"
    encoding = "utf-8-sig" if bom else "utf-8"
    with boxes.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file)
        writer.writerow(OPENIMAGES_COLUMNS)
        writer.writerows(openimages_rows(document, digits))
    with classes.open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([f"/m/{n:05d}", name] for n, name in document.names.items())
    return boxes, classes


def write_voc(document: Document, images: Path, root: Path, split: str = "train") -> None:
    """A year's folder, with links to the images."""
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / name).mkdir(parents=True, exist_ok=True)
    stems = []
    for image in document.images:
        stem = Path(image["file_name"]).stem
        stems.append(stem)
        (root / f"JPEGImages/{stem}.jpg").symlink_to(images / image["file_name"])
        tree = ElementTree.Element("annotation")
        ElementTree.SubElement(tree, "filename").text = f"{stem}.jpg"
        size = ElementTree.SubElement(tree, "size")
        for side in ("width", "height"):
            ElementTree.SubElement(size, side).text = str(image[side])
        for box in document.boxes[image["id"]]:
            item = ElementTree.SubElement(tree, "object")
            ElementTree.SubElement(item, "name").text = document.names[box["category_id"]]
            ElementTree.SubElement(item, "difficult").text = "0"
            corners = ElementTree.SubElement(item, "bndbox")
            x, y, w, h = box["bbox"]
            for tag, value in (("xmin", x + 1), ("ymin", y + 1), ("xmax", x + w), ("ymax", y + h)):
                ElementTree.SubElement(corners, tag).text = str(value)
        ElementTree.ElementTree(tree).write(root / f"Annotations/{stem}.xml")
    (root / f"ImageSets/Main/{split}.txt").write_text("".join(f"{stem}\n" for stem in stems))


def write_lvis(document: Document, file: Path, folder_name: str) -> None:
    """An LVIS v1 file of images in one folder."""
    images = []
    for image in document.images:
        url = f"http://images.cocodataset.org/{folder_name}/{image['file_name']}"
        kept = {key: image[key] for key in ("id", "width", "height")}
        images.append(kept | {"coco_url": url, "neg_category_ids": [1], "flickr_url": ""})
    annotations = [
        {key: a[key] for key in ("id", "image_id", "category_id", "bbox", "area", "segmentation")}
        for a in document.content["annotations"]
    ]
    categories = [
        {"id": n, "name": name, "synset": f"{name}.n.01"} for n, name in document.names.items()
    ]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(content))
