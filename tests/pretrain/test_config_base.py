"""Faults of configurations that stand on others."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.config import load_settings
from pretrain.core.errors import InputError


@pytest.mark.parametrize(
    ("files", "messages"),
    [
        ({"a": "base: b\n", "b": "base: a\n"}, ["a.yaml -> b.yaml -> a.yaml"]),
        ({"a": "base: a\n"}, ["'base': configurations go in a circle: a.yaml -> a.yaml"]),
        ({"a": "base: quickstrat\n"}, ["a.yaml: 'base': ", "did you mean 'quickstart'"]),
        ({"a": "base: [quickstart]\n"}, ["a.yaml: 'base': give the name"]),
        (
            {"a": "base: b\n", "b": "base: quickstart\noptim: {lrr: 1}\n"},
            ["b.yaml: ", "'optim.lrr'"],
        ),
        (
            {"a": "base: b\noptim: {lrr: 1}\n", "b": "base: quickstart\n"},
            ["a.yaml: ", "'optim.lrr'"],
        ),
    ],
)
def test_base__faults(tmp_path: Path, files: dict[str, str], messages: list[str]) -> None:
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        load_settings(str(tmp_path / "a.yaml"))
    assert len(str(error.value).splitlines()) == 1
    for message in messages:
        assert message in str(error.value)


def test_base__later_values_win_section_by_section(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: quickstart\noptim: {lr: 0.5}\nhcl: {weight: 0.2}\n")
    (tmp_path / "b.yaml").write_text("base: a\noptim: {momentum: 0.8}\nhcl: null\n")
    b, root = load_settings(str(tmp_path / "b.yaml")), load_settings("quickstart")
    assert b.optim == root.optim.model_copy(update={"lr": 0.5, "momentum": 0.8})
    assert b.hcl is None
    assert b.data == root.data
