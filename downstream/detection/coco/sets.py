"""COCO-format sets, by path: checked once, then given to detectron2 as its records."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.core.errors import InputError
from pretrain.core.files import sha256

Record = dict[str, Any]


@dataclass(frozen=True)
class CocoSet:
    """One split.

    Attributes:
        annotations: the JSON file.
        sha256: of that file.
        category_ids: as in the file, ascending; detectron2's class k is ``category_ids[k]``.
        category_names: in the same order.
        records: detectron2's standard records, one an image, ascending image id; category ids
            are positions in ``category_ids``.
    """

    annotations: Path
    sha256: str
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    records: list[Record]

    def objects(self) -> Iterator[tuple[Record, Record]]:
        """Every annotation that is no crowd, with its image's record."""
        for record in self.records:
            for annotation in record["annotations"]:
                if not annotation["iscrowd"]:
                    yield record, annotation

    def uses_rle(self) -> bool:
        """Whether some object's mask is run-length coded rather than polygons."""
        return any(isinstance(a.get("segmentation"), dict) for _, a in self.objects())

    def require_masks(self) -> None:
        """Check that every object has a mask.

        Raises:
            InputError: naming the first that has none.
        """
        for record, annotation in self.objects():
            if "segmentation" not in annotation:
                raise InputError(
                    f"{self.annotations}: annotation {annotation['id']} of "
                    f"{Path(record['file_name']).name} has no usable segmentation; "
                    "for boxes only set MODEL.MASK_ON False"
                )

    def ground_truth(self) -> dict[str, Any]:
        """The set in COCO's format with the fields evaluation needs.

        Annotations are numbered from 1: COCO's evaluation takes id 0 for 'no match'.
        """
        images = [
            {"id": r["image_id"], "width": r["width"], "height": r["height"]} for r in self.records
        ]
        annotations = [
            {
                **{key: value for key, value in annotation.items() if key != "bbox_mode"},
                "image_id": record["image_id"],
                "category_id": self.category_ids[annotation["category_id"]],
            }
            for record in self.records
            for annotation in record["annotations"]
        ]
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number
        names = zip(self.category_ids, self.category_names, strict=True)
        categories = [{"id": number, "name": name} for number, name in names]
        return {"images": images, "annotations": annotations, "categories": categories}


def read_coco(annotations: Path, images: Path) -> CocoSet:
    """Read and check a COCO instances file and the presence of its images.

    Raises:
        InputError: naming file, entry and remedy.
    """
    return from_content(load_instances(annotations), annotations, images)


def load_instances(annotations: Path) -> Any:
    """The content of an annotation file.

    Raises:
        InputError: it is missing or not JSON.
    """
    if not annotations.is_file():
        raise InputError(f"{annotations}: no such annotation file")
    try:
        return json.loads(annotations.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{annotations}: not JSON: {error}") from None


def from_content(content: Any, annotations: Path, images: Path) -> CocoSet:
    """Check the content of a COCO instances file and the presence of its images.

    Raises:
        InputError: naming file, entry and remedy.
    """
    if not images.is_dir():
        raise InputError(f"{images}: no such folder of images")
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in keys):
        raise InputError(f"{annotations}: not a COCO instances file: it needs lists {keys}")
    where = str(annotations)
    categories = _by_id(content["categories"], "category", where, name=str)
    files = _by_id(content["images"], "image", where, file_name=str, width=int, height=int)
    if not files or not categories:
        raise InputError(f"{annotations}: it holds no {'categories' if files else 'images'}")
    _check_files(files, images, where)
    position = {number: k for k, number in enumerate(sorted(categories))}
    records: dict[int, Record] = {
        number: {
            "file_name": str(images / entry["file_name"]),
            "image_id": number,
            "width": entry["width"],
            "height": entry["height"],
            "annotations": [],
        }
        for number, entry in sorted(files.items())
    }
    objects = _by_id(content["annotations"], "annotation", where, image_id=int, category_id=int)
    for number, entry in objects.items():
        at = f"{where}: annotation {number}"
        if entry["image_id"] not in records:
            raise InputError(f"{at}: image_id {entry['image_id']} is not among the images")
        if entry["category_id"] not in position:
            raise InputError(f"{at}: category_id {entry['category_id']} is not among categories")
        record = records[entry["image_id"]]
        record["annotations"].append(_annotation(entry, position, record, at))
    return CocoSet(
        annotations,
        sha256(annotations),
        tuple(sorted(categories)),
        tuple(categories[number]["name"] for number in sorted(categories)),
        list(records.values()),
    )


@contextlib.contextmanager
def registered(**sets: CocoSet) -> Iterator[None]:
    """Make the sets known to detectron2 under the given names, for a while."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    def forget() -> None:
        for name in sets:
            if name in DatasetCatalog.list():
                DatasetCatalog.remove(name)
            if name in MetadataCatalog.list():
                MetadataCatalog.remove(name)

    forget()
    for name, coco_set in sets.items():
        DatasetCatalog.register(name, lambda records=coco_set.records: records)
        MetadataCatalog.get(name).set(thing_classes=list(coco_set.category_names))
    try:
        yield
    finally:
        forget()


def builtin_paths(name: str) -> tuple[Path, Path]:
    """Annotations and images of a set detectron2 knows by name, such as ``coco_2017_val``.

    They lie under the folder in the environment variable ``DETECTRON2_DATASETS``.

    Raises:
        InputError: detectron2 knows no such instance set.
    """
    from detectron2.data import MetadataCatalog

    metadata = MetadataCatalog.get(name) if name in MetadataCatalog.list() else None
    if metadata is None or not hasattr(metadata, "json_file"):
        raise InputError(
            f"data set '{name}' is not known; give --train and --val ANNOTATIONS IMAGES"
        )
    return Path(metadata.json_file), Path(metadata.image_root)


def _by_id(entries: list[Any], kind: str, where: str, **fields: type) -> dict[int, dict[str, Any]]:
    """Entries by their id, each checked to have ``fields``."""
    found: dict[int, dict[str, Any]] = {}
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or type(entry.get("id")) is not int:
            raise InputError(f"{where}: {kind} at position {place} has no integer 'id'")
        number = entry["id"]
        if number in found:
            raise InputError(f"{where}: two entries have {kind} id {number}; ids must be unique")
        for name, wanted in fields.items():
            if type(entry.get(name)) is not wanted:
                raise InputError(f"{where}: {kind} {number}: '{name}' must be {wanted.__name__}")
        found[number] = entry
    return found


def _check_files(files: dict[int, dict[str, Any]], images: Path, where: str) -> None:
    # One listing a folder, not one look-up a file: 118,000 look-ups take minutes on a network.
    listings: dict[Path, set[str]] = {}
    for number, entry in files.items():
        path = images / entry["file_name"]
        if path.parent not in listings:
            known = path.parent.iterdir() if path.parent.is_dir() else ()
            listings[path.parent] = {file.name for file in known}
        if path.name not in listings[path.parent]:
            raise InputError(f"{path}: image {number} of {where} is missing")
        if entry["width"] <= 0 or entry["height"] <= 0:
            raise InputError(f"{where}: image {number}: width and height must be positive")


def _annotation(
    entry: dict[str, Any], position: dict[int, int], record: Record, at: str
) -> dict[str, Any]:
    from detectron2.structures import BoxMode

    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise InputError(f"{at}: 'bbox' must be [x, y, width, height]")
    annotation = {
        "id": entry["id"],
        "bbox": [float(value) for value in box],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": position[entry["category_id"]],
        "iscrowd": int(entry.get("iscrowd", 0)),
        "area": float(entry.get("area", box[2] * box[3])),
    }
    segmentation = usable_segmentation(entry.get("segmentation"), record, at)
    if segmentation is not None:
        annotation["segmentation"] = segmentation
    return annotation


def usable_segmentation(value: Any, record: Record, at: str) -> Any:
    """Compressed RLE or polygons; None where neither is there."""
    import pycocotools.mask

    if isinstance(value, dict):
        if value.get("size") != [record["height"], record["width"]] or "counts" not in value:
            raise InputError(
                f"{at}: RLE needs counts and size [{record['height']}, {record['width']}], "
                "its image's height and width"
            )
        if isinstance(value["counts"], list):
            return pycocotools.mask.frPyObjects(value, *value["size"])
        return value
    if isinstance(value, list):
        polygons = [p for p in value if isinstance(p, list) and p and len(p) % 2 == 0]
        # Points and lines get three corners: shorter lists mean boxes to pycocotools and are
        # refused by detectron2.
        return [p + p[-2:] * max(0, 3 - len(p) // 2) for p in polygons] or None
    return None
