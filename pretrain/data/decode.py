"""From an image file to pixels, with every fault an ``ImageError``."""

from __future__ import annotations

import contextlib
import importlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

try:
    simplejpeg: Any = importlib.import_module("simplejpeg")
except ImportError:  # optional: the same pixels without it, a little later
    simplejpeg = None

JPEG = b"\xff\xd8\xff"
SIMPLE_COLORS = ("YCbCr", "Gray", "RGB")
"""What simplejpeg turns into RGB as Pillow does; CMYK is not among it."""

_FRAMES = frozenset(
    {*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)}
)
"""Markers of frame headers (ITU T.81, table B.1)."""

_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""

MAX_PIXELS = 178_956_970
"""More are taken for an attack on the memory; Pillow's own limit for other kinds of file."""


# Pillow's plugins let through what their parsing runs into.
PILLOW_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class ImageError(Exception):
    """An image cannot be used; the message says why."""


class Scratch:
    """Memory for one decoded image at a time, kept from one to the next.

    A fresh array of a megabyte costs its page faults, a tenth of the decoding.
    """

    def __init__(self, memory: NDArray[np.uint8] | None = None) -> None:
        self._bytes = np.empty(0, np.uint8) if memory is None else memory

    def take(self, size: int) -> NDArray[np.uint8]:
        """At least this many bytes; what was taken before is overwritten."""
        if size > len(self._bytes):
            self._bytes = np.empty(size, np.uint8)
        return self._bytes


def read_image(path: Path, size: tuple[int, int], scratch: Scratch | None = None) -> Tensor:
    """Decode an image file to uint8 (3, H, W), RGB.

    JPEG files go through simplejpeg where it is installed, else through torchvision; all others,
    and those they refuse, through Pillow. All give the same pixels.

    Args:
        path: of the file.
        size: width and height by the annotations. If they are those of the image turned by its
            EXIF orientation, it is turned.
        scratch: memory the image may lie in, valid until the next image is read into it.

    Raises:
        ImageError: the file cannot be read, is truncated, or has another size.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from None
    image = decode(content, scratch=scratch)
    if _size(image) != size and _size(image) == size[::-1]:
        image = decode(content, upright=True)
    if _size(image) != size:
        width, height = _size(image)
        raise ImageError(f"it has {width}x{height} px, but the annotations say {size[0]}x{size[1]}")
    return image


def decode(content: bytes, *, upright: bool = False, scratch: Scratch | None = None) -> Tensor:
    """Decode to uint8 (3, H, W), RGB; ``upright`` heeds the EXIF orientation.

    Raises:
        ImageError: not an image, or a truncated one.
    """
    if not content:
        raise ImageError("the file is empty")
    if content.startswith(JPEG):
        width, height = jpeg_size(content) or (0, 0)
        if width * height > MAX_PIXELS:
            raise ImageError(f"it claims {width}x{height} px, more than is reasonable")
        # What one of them refuses, the next may know; if not, Pillow says what is wrong.
        if simplejpeg is not None and not upright:
            with contextlib.suppress(ValueError):
                return decode_simplejpeg(content, scratch)
        with contextlib.suppress(RuntimeError):
            return decode_torchvision(content, upright=upright)
    return decode_pillow(content, upright=upright)


def decode_simplejpeg(content: bytes, scratch: Scratch | None = None) -> Tensor:
    """Decode a JPEG as it is stored; rows of pixels one after another in memory.

    Raises:
        ValueError: damaged, truncated or of another kind.
    """
    height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
    if colors not in SIMPLE_COLORS:
        raise ValueError(f"color space {colors}")
    buffer = None if scratch is None else scratch.take(height * width * 3)
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, buffer=buffer)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def decode_torchvision(content: bytes, *, upright: bool = False) -> Tensor:
    """Decode a JPEG.

    Raises:
        RuntimeError: damaged, truncated or of an unknown kind.
    """
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    pixels: Tensor = decode_jpeg(data, mode=ImageReadMode.RGB, apply_exif_orientation=upright)
    return pixels


def decode_pillow(content: bytes, *, upright: bool = False) -> Tensor:
    """Decode any kind of image that Pillow knows.

    Raises:
        ImageError: damaged, truncated or of an unknown kind.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            rgb = _to_rgb(ImageOps.exif_transpose(image) if upright else image)
    except UnidentifiedImageError:
        raise ImageError("not an image of a known kind") from None
    except PILLOW_ERRORS as error:
        raise ImageError(f"cannot be decoded: {error}") from None
    return torch.from_numpy(rgb).permute(2, 0, 1)


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """uint8 (H, W, 3), writable; alpha is dropped, 16 bits become 8."""
    if image.mode.startswith("I;16"):
        # Pillow's own conversion cuts off at 255 instead of scaling.
        gray = (np.asarray(image, np.uint16) >> 8).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError("32 bits per channel: the range of its values is unknown")
    if image.mode in ("P", "PA", "LA") or "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[2], image.shape[1]


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Width and height, px, that a JPEG claims to have; None if it has no frame header.

    It is known before memory for the pixels is taken.
    """
    at, end = 2, len(content)
    while at + 9 <= end:
        if content[at] != 0xFF:
            return None
        marker = content[at + 1]
        if marker == 0xFF:  # filling
            at += 1
        elif marker in _ALONE:
            at += 2
        elif marker in _FRAMES:
            height = int.from_bytes(content[at + 5 : at + 7])
            return int.from_bytes(content[at + 7 : at + 9]), height
        else:
            at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return None
