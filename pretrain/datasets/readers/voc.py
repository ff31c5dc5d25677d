"""Pascal VOC: an XML file for every image, and lists of images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from pretrain.core.errors import InputError
from pretrain.datasets.headers import header_size
from pretrain.datasets.readers.common import (
    DEFAULT,
    DEGENERATE,
    DROP_IMAGES,
    MISSING,
    NO_BOXES,
    OUTSIDE,
    UNREADABLE,
    Options,
    checked_record,
    flag_bits,
    is_inside,
    listing,
    numbers,
    shown,
)
from pretrain.datasets.readers.hashed_file import HashedFile
from pretrain.datasets.records import Flag, Record, Stream

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""Of VOC 2007 to 2012; others are added as they appear."""

FLAG_TAGS = ("difficult", "truncated", "occluded")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
NO_XML = "annotation files missing"


@dataclass(frozen=True)
class ImageList:
    """A list of images of one year.

    Attributes:
        file: the list.
        prefix: of the year's folder below the root: "" or ``VOC2007/``.
    """

    file: Path
    prefix: str


def image_lists(root: Path, split: str) -> list[ImageList]:
    """Find the lists that ``split`` names.

    Args:
        root: a year's folder (VOC2012), or the folder of several (VOCdevkit).
        split: ``trainval``, or ``VOC2007/trainval+VOC2012/trainval`` below VOCdevkit, or a path to
            any list of image names.

    Raises:
        InputError: there is no such list.
    """
    found = []
    for part in split.split("+"):
        year, _, name = part.rpartition("/")
        prefix = f"{year}/" if year else ""
        official = root / prefix / "ImageSets/Main" / f"{name}.txt"
        if is_inside(part) and official.is_file():
            found.append(ImageList(official, prefix))
        elif Path(part).expanduser().is_file():
            found.append(ImageList(Path(part).expanduser(), ""))
        else:
            raise InputError(
                f"{official}: no such list of images; check data.split ({split!r}) and "
                "data.annotations (the folder that holds Annotations, ImageSets and JPEGImages)"
            )
    return found


def stream(annotations: Path, split: str = "trainval", options: Options = DEFAULT) -> Stream:
    """Read VOC 2007 to 2012, or data in its form.

    Corners are whole pixels counted from 1, both inclusive: x1 = xmin - 1, x2 = xmax. Parts of
    objects (heads, hands, feet) are no objects. An image has the width and height its XML gives.

    Args:
        annotations: the root (``image_lists``); image names are relative to it.
        split: see ``image_lists``.
        options: of all readers.
    """
    source = Stream(annotations, annotations)
    source.records = _records(source, split, options)
    return source


def state(root: Path, split: str) -> tuple[int, int]:
    """Bytes of the lists, and the last change of a list or of a folder of annotations."""
    parts = image_lists(root, split)
    stats = [part.file.stat() for part in parts]
    folders = [root / part.prefix / "Annotations" for part in parts]
    changed = [folder.stat().st_mtime_ns for folder in folders if folder.is_dir()]
    return sum(s.st_size for s in stats), max(*(s.st_mtime_ns for s in stats), *changed, 0)


def _records(source: Stream, split: str, options: Options) -> Iterator[Record]:
    root = source.annotations
    parts = image_lists(root, split)
    source.source_size, source.source_mtime_ns = state(root, split)
    labels = {name: label for label, name in enumerate(CLASSES)}
    source.dropped.update(dict.fromkeys(options.leave_out, 0))
    source.dropped.update({DEGENERATE: 0, OUTSIDE: 0})
    digest = hashlib.sha256()
    row = 0
    for part in parts:
        there = listing(root / part.prefix / "JPEGImages")
        for name in _read_list(part, digest):
            file_name = f"{part.prefix}JPEGImages/{name}.jpg"
            xml = root / part.prefix / "Annotations" / f"{name}.xml"
            if f"{name}.jpg" not in there:
                _drop_image(source, options, MISSING, file_name, "no such file")
                continue
            try:
                content = xml.read_bytes()
            except OSError as error:
                what = f"{xml.name}: {error.strerror}"
                _drop_image(source, options, NO_XML, file_name, what)
                continue
            digest.update(content)
            record = _record(source, xml, content, file_name, labels, options=options, row=row)
            if record is not None:
                yield record
                row += 1
    if row == 0:
        raise InputError(f"{parts[0].file}: none of its images is there; check data.split")
    source.source_sha256 = digest.hexdigest()
    source.number_categories(labels)


def _read_list(part: ImageList, digest: hashlib._Hash) -> list[str]:
    """Names; lists of one class mark its images with 1, uncertain ones with 0, others with -1."""
    file = HashedFile(part.file, "data.split")
    names: dict[str, None] = {}
    for number, line in enumerate(file.lines(), start=1):
        fields = line.split()
        if not fields or (len(fields) > 1 and fields[1] == "-1"):
            continue
        name = fields[0]
        if not is_inside(name) or "/" in name or name in names:
            what = "twice the same image" if name in names else "not the name of an image"
            raise InputError(f"{part.file}: line {number}: {what}: {shown(line.strip())}; mend it")
        names[name] = None
    digest.update(file.sha256.encode())
    return list(names)


def _drop_image(source: Stream, options: Options, reason: str, name: str, what: str) -> None:
    if options.on_bad_image == "error":
        raise InputError(f"{source.images / name}: {reason}: {what}; {DROP_IMAGES}")
    source.drop(reason, name, what)


def _record(
    source: Stream,
    xml: Path,
    content: bytes,
    file_name: str,
    labels: dict[str, int],
    *,
    options: Options,
    row: int,
) -> Record | None:
    tree = _parse(xml, content)
    try:
        width, height = _size(tree, source.images / file_name)
    except ValueError as error:
        _drop_image(source, options, UNREADABLE, file_name, str(error))
        return None
    chosen, corners, flags = [], [], []
    for number, item in enumerate(tree.findall("object"), start=1):
        at = f"{xml}: object {number}"
        said = [tag for tag in FLAG_TAGS if (item.findtext(tag) or "").strip() == "1"]
        bits = sum(int(Flag[tag.upper()]) for tag in said)
        if bits & options.unwanted:
            first = next(name for name in options.leave_out if flag_bits((name,)) & bits)
            source.dropped[first] += 1
            continue
        name = (item.findtext("name") or "").strip()
        if not name:
            raise InputError(f"{at}: no <name>; mend it")
        chosen.append(labels.setdefault(name, len(labels)))
        corners.append(_corners(item, at))
        flags.append(bits)
    boxes = np.array(corners, np.float64).reshape(-1, 4)
    known = np.array(chosen, np.int32), row, np.array(flags, np.uint8)
    return checked_record(
        source,
        options,
        Record(file_name, width, height, NO_BOXES, *known),
        boxes,
        at=str(xml),
        describe=lambda n: f"x1 y1 x2 y2 {numbers(boxes[n])} in {width}x{height} px",
    )


def _parse(xml: Path, content: bytes) -> ElementTree.Element:
    """The tree of a file; declarations of entities, which can grow without bound, are refused."""
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise InputError(f"{xml}: declares a document type, which VOC files do not; remove it")
    try:
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{xml}: not valid XML: {error}; download or write it again") from None


def _size(tree: ElementTree.Element, image: Path) -> tuple[int, int]:
    """Width and height of the XML, or where it gives none, of the image's header."""
    try:
        width, height = (int(tree.findtext(f"size/{side}") or 0) for side in ("width", "height"))
    except ValueError:
        width = height = 0
    return (width, height) if width > 0 and height > 0 else header_size(image)


def _corners(item: ElementTree.Element, at: str) -> tuple[float, float, float, float]:
    texts = [item.findtext(f"bndbox/{tag}") for tag in CORNERS]
    try:
        x1, y1, x2, y2 = (float(text or "") for text in texts)
    except ValueError:
        raise InputError(f"{at}: <bndbox> without four numbers, found {texts}; mend it") from None
    return x1 - 1, y1 - 1, x2, y2
