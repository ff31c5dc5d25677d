"""PASCAL VOC's folders as detectron2's records and, for evaluation, in COCO's format."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from downstream.detection.coco.sets import CocoSet, Record
from pretrain.core.errors import InputError
from pretrain.datasets.readers.voc import CLASSES, stream
from pretrain.datasets.records import Flag

NAME = re.compile(r"voc_(\d{4})_(train|val|trainval|test)")
IDS = tuple(range(1, len(CLASSES) + 1))


@dataclass(frozen=True)
class VocSet(CocoSet):
    """One or several lists of images.

    Attributes:
        year: of the last list; 2007 has the 11-point metric.
    """

    year: int


def read_voc(names: Sequence[str], root: Path) -> VocSet:
    """Read sets such as ``voc_2007_trainval`` below ``root``, which holds VOC2007 and VOC2012.

    Boxes are those of detectron2: x1 = xmin - 1, x2 = xmax. Difficult objects are trained on, as
    detectron2 does, and count neither way in evaluation.

    Raises:
        InputError: a name, file or annotation is not VOC's.
    """
    from detectron2.structures import BoxMode

    matches = [NAME.fullmatch(name) for name in names]
    parts = [f"VOC{match[1]}/{match[2]}" for match in matches if match]
    if len(parts) != len(names):
        raise InputError(f"data sets {list(names)}: give VOC's alone, as voc_2007_trainval")
    source = stream(root, "+".join(parts))
    records: list[Record] = []
    for row in source.records:
        record: Record = {
            "file_name": str(root / row.file_name),
            "image_id": _number(row.file_name),
            "width": row.width,
            "height": row.height,
            "annotations": [],
        }
        assert row.flags is not None, "VOC's reader sets them"
        for box, label, flags in zip(row.boxes, row.labels, row.flags, strict=True):
            if label >= len(CLASSES):
                raise InputError(f"{root / row.file_name}: an object of no class of VOC")
            x1, y1, x2, y2 = (float(value) for value in box)
            record["annotations"].append(
                {
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": int(label),
                    "iscrowd": 0,
                    "area": (x2 - x1) * (y2 - y1),
                    "difficult": int(bool(flags & Flag.DIFFICULT)),
                }
            )
        records.append(record)
    for number, annotation in enumerate(a for record in records for a in record["annotations"]):
        annotation["id"] = number + 1
    records.sort(key=lambda record: int(record["image_id"]))
    year = int(parts[-1][3:7])
    file = root / f"{'+'.join(names)}.json"
    assert source.source_sha256, "the stream has been read to its end"
    return VocSet(file, source.source_sha256, IDS, CLASSES, records, year)


def _number(file_name: str) -> int:
    stem = Path(file_name).stem
    digits = stem.replace("_", "")
    if not digits.isascii() or not digits.isdigit():
        raise InputError(f"{file_name}: VOC's images have names such as 000005 or 2008_000002")
    return int(digits)
