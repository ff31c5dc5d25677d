"""The XML files of MiniPlaces' outlined objects."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from pretrain.core.errors import InputError

CORNERS = ("xmin", "ymin", "xmax", "ymax")
NO_OUTLINE = "outlines of fewer than three points"


class Outline(NamedTuple):
    """One object of an image; pixel coordinates with (0, 0) as the image's upper left corner.

    Attributes:
        label: number of the object's category.
        box: x, y, width, height, as in COCO files.
        polygon: x1 y1 x2 y2 ... of the outline; empty if it has fewer than three points.
    """

    label: int
    box: tuple[float, float, float, float]
    polygon: tuple[float, ...]

    @property
    def area(self) -> float:
        """Of the polygon, square pixels."""
        xs, ys = self.polygon[::2], self.polygon[1::2]
        after = (*xs[1:], *xs[:1]), (*ys[1:], *ys[:1])
        twice = sum(x * b - a * y for x, y, a, b in zip(xs, ys, *after, strict=True))
        return abs(twice) / 2


def read_outlines(file: Path, categories: int) -> list[Outline]:
    """Read the objects of one image.

    A file is a sequence of elements without a common root: ``filename``, ``folder``, ``class``, and
    ``objects`` once an object, with ``class`` (from 0), ``polygon`` (``pt`` with ``x`` and ``y``)
    and ``bndbox``. Pixels are counted from 1: a box reaches from xmin - 1 to xmax, and a point of
    an outline is the center of its pixel, x - 0.5.

    Args:
        file: the XML file.
        categories: how many there are.

    Raises:
        InputError: it cannot be read, or is not of this form.
    """
    try:
        content = file.read_bytes()
        if b"<!" in content:  # entities can grow without bound
            raise InputError(f"{file}: holds a declaration or comment; remove it")
        tree = ElementTree.fromstring(b"<image>" + content + b"</image>")
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{file}: not valid XML: {error}; unpack its archive again") from None
    return [
        _outline(item, f"{file}: object {number}", categories)
        for number, item in enumerate(tree.findall("objects"), start=1)
    ]


def _outline(item: ElementTree.Element, at: str, categories: int) -> Outline:
    label = (item.findtext("class") or "").strip()
    if not label.isdecimal() or int(label) >= categories:
        raise InputError(f"{at}: <class> is '{label}', not a number from 0 to {categories - 1}")
    try:
        x1, y1, x2, y2 = (float(item.findtext(f"bndbox/{tag}") or "") for tag in CORNERS)
        points = [
            float(point.findtext(axis) or "") - 0.5
            for point in item.findall("polygon/pt")
            for axis in ("x", "y")
        ]
    except ValueError:
        raise InputError(f"{at}: a box or point without its numbers; unpack it again") from None
    box = (x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1)
    return Outline(int(label), box, tuple(points) if len(points) >= 6 else ())
