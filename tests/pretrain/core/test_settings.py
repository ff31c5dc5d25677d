"""Strict settings."""

from __future__ import annotations

import pytest

from pretrain.core.errors import InputError
from pretrain.core.settings import Settings, parse


class Inner(Settings):
    learning_rate: float = 0.1
    pair: tuple[int, int] = (1, 2)


class Outer(Settings):
    name: str
    inner: Inner = Inner()
    maybe: Inner | None = None


def test_parse() -> None:
    outer = parse(Outer, {"name": "a", "inner": {"pair": [3, 4]}}, source="f.yaml")
    assert outer.inner.pair == (3, 4)


def test_parse__reports_every_fault_at_once() -> None:
    values = {"inner": {"learning_rat": 1, "pair": [1]}, "maybe": {"pear": [1, 2]}, "zzz": 0}
    with pytest.raises(InputError) as error:
        parse(Outer, values, source="f.yaml")
    text = str(error.value)
    assert "f.yaml: missing key 'name'" in text
    assert "unknown key 'inner.learning_rat': did you mean 'learning_rate'?" in text
    assert "'inner.pair.1'" in text
    assert "unknown key 'maybe.pear': did you mean 'pair'?" in text
    assert "unknown key 'zzz'" in text


def test_parse__refuses_text_for_a_number() -> None:
    with pytest.raises(InputError, match=r"'inner\.learning_rate'.*got 'fast'"):
        parse(Outer, {"name": "a", "inner": {"learning_rate": "fast"}}, source="f.yaml")
