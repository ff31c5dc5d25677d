"""Small pieces of text that messages and tables are made of."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any


def suggest(
    name: str, known: Iterable[str], otherwise: str, *, prefix: str = "", cutoff: float = 0.4
) -> str:
    """A hint at the known name that is most like a mistyped one.

    Args:
        name: as typed.
        known: names that would have been right.
        otherwise: the hint where none is like it.
        prefix: stands before the suggested name, as in ``hcl pretrain``.
        cutoff: from 0 to 1, how alike they must be.
    """
    near = nearest(name, known, 1, cutoff)
    return f"did you mean '{prefix}{near[0]}'?" if near else otherwise


def nearest(name: str, known: Iterable[str], count: int, cutoff: float) -> list[str]:
    """The known names most like ``name``, at most ``count``; ``cutoff`` as in ``suggest``."""
    return difflib.get_close_matches(name, list(known), n=count, cutoff=cutoff)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = value
    return found


def duration(seconds: float) -> str:
    """Seconds in words: ``2 d 3 h``, ``4 h 05 min``, ``6 min 02 s``, ``7 s``."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
