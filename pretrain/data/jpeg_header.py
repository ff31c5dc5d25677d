"""The size a JPEG claims to have, before memory for its pixels is taken."""

from __future__ import annotations

FRAMES = frozenset({*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)})
"""Markers of frame headers (ITU T.81, table B.1)."""

ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Width and height, px, by the first frame header; None if there is none."""
    at, end = 2, len(content)
    while at + 9 <= end:
        if content[at] != 0xFF:
            return None
        marker = content[at + 1]
        if marker == 0xFF:  # filling
            at += 1
        elif marker in ALONE:
            at += 2
        elif marker in FRAMES:
            height = int.from_bytes(content[at + 5 : at + 7])
            return int.from_bytes(content[at + 7 : at + 9]), height
        else:
            at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return None
