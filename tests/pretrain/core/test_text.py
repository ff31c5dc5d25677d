"""Small pieces of text."""

from __future__ import annotations

import math

from pretrain.core.text import duration, flat, suggest


def test_duration() -> None:
    seconds = (0.4, 5, 65, 3540, 3599.7, 3700, 86_399, 90_000, 200_000, math.inf)
    assert [duration(s) for s in seconds] == [
        *("0 s", "5 s", "1 min 05 s", "59 min 00 s", "1 h 00 min", "1 h 01 min", "23 h 59 min"),
        *("1 d 1 h", "2 d 7 h", "?"),
    ]


def test_flat() -> None:
    assert flat({"a": {"b": {"c": 1}, "d": []}, "e": {}}) == {"a.b.c": 1, "a.d": [], "e": {}}


def test_suggest() -> None:
    names = {"pretrain": 1, "probe": 2}
    assert suggest("pretrian", names, "none", prefix="hcl ") == "did you mean 'hcl pretrain'?"
    assert suggest("xyz", names, "one of those") == "one of those"
