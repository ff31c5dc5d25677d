"""Self-contained HTML pages: no script, no file beside them; pictures as data URIs in a budget."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from downstream.results.analysis_record import FigureRecord

BUDGET = 6 * 2**20
"""Bytes of all encoded pictures together, before base64 adds a third."""

# A larger figure goes into pages as JPEG.
_VECTOR_BYTES = 2**19

# Longest side in px and JPEG quality, best first.
_LADDER = ((1000, 85), (800, 82), (640, 80), (480, 75), (360, 70), (240, 60))


@dataclass(frozen=True)
class Picture:
    """An encoded picture: a data URI and its size in px."""

    uri: str
    width: int
    height: int


def render_template(package: str, name: str, **values: Any) -> str:
    """A template of a package with these values; every text in them is escaped."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files(package).joinpath(name)
    return environment.from_string(source.read_text(encoding="utf-8")).render(**values)


def inline(paths: Sequence[Path], budget: int = BUDGET) -> dict[Path, Picture]:
    """Encode all pictures at the largest size that keeps them within ``budget`` together.

    A file that is not a readable picture is left out, and so are the last ones where even the
    smallest size is too much.
    """
    encoded: dict[Path, Picture] = {}
    for side, quality in _LADDER:
        encoded = _encode_all(paths, side, quality)
        if sum(len(picture.uri) for picture in encoded.values()) <= budget * 4 / 3:
            return encoded
    kept: dict[Path, Picture] = {}
    room = budget * 4 // 3
    for path, picture in encoded.items():
        room -= len(picture.uri)
        if room < 0:
            break
        kept[path] = picture
    return kept


def embedded(record: FigureRecord, folder: Path) -> str | None:
    """The figure as a data URI: the SVG, or where that is large or missing the PNG as JPEG.

    Only files inside the folder are taken; None where there is none.
    """
    svg, png = (_inside(folder, name) for name in (record.svg, record.png))
    if svg is not None and svg.stat().st_size <= _VECTOR_BYTES:
        data = base64.b64encode(svg.read_bytes()).decode("ascii")
        return f"data:image/svg+xml;base64,{data}"
    picture = None if png is None else inline([png], _VECTOR_BYTES).get(png)
    return None if picture is None else picture.uri


def _inside(folder: Path, name: str) -> Path | None:
    path = (folder / name).resolve()
    return path if path.is_relative_to(folder.resolve()) and path.is_file() else None


def _encode_all(paths: Sequence[Path], side: int, quality: int) -> dict[Path, Picture]:
    pictures = {path: _encode(path, side, quality) for path in dict.fromkeys(paths)}
    return {path: picture for path, picture in pictures.items() if picture is not None}


def _encode(path: Path, side: int, quality: int) -> Picture | None:
    try:
        with Image.open(path) as image:
            image.thumbnail((side, side), Image.Resampling.LANCZOS)
            rgb = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    buffer = io.BytesIO()
    rgb.save(buffer, "JPEG", quality=quality, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(f"data:image/jpeg;base64,{data}", rgb.width, rgb.height)
