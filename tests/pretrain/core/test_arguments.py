"""Arguments made from a settings class."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from pretrain.core.arguments import Option, add_settings, read_settings
from pretrain.core.errors import InputError
from pretrain.core.settings import Settings


class Meal(Settings):
    """What to cook.

    Attributes:
        dish: what it is.
        output: where 100 % of it goes.
        guests: who come to
            the table.
        hot: whether it is.
        size: of a plate.
        wine: to drink; default: none.
        pair: of spoons.
        salt: in g.
        courses: by number.
        command: not asked.
    """

    dish: Annotated[str, Option("DISH", positional=True)]
    output: Annotated[Path, Option("DIR", short="-o")]
    guests: Annotated[int, Field(ge=1), Option("N")] = 4
    hot: bool = False
    size: Literal["small", "large"] = "small"
    wine: tuple[Literal["red", "white"], ...] = ()
    pair: Annotated[tuple[Path, Path] | None, Option(("LEFT", "RIGHT"))] = None
    salt: Annotated[float | None, Field(gt=0)] = None
    courses: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2)
    command: Annotated[tuple[str, ...], Option(hidden=True)] = ()


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="cook")
    add_settings(made, Meal)
    return made


def read(words: str) -> Meal:
    arguments = parser().parse_args(words.split())
    return read_settings(Meal, arguments, source="cook", command=("cook",))


def test_defaults_are_those_of_the_settings() -> None:
    assert read("soup -o x") == Meal(dish="soup", output=Path("x"), command=("cook",))


def test_every_kind_of_field() -> None:
    found = read("soup --output x --guests 2 --hot --size large --wine red white --pair a b")
    assert found.model_dump() == {
        "dish": "soup",
        "output": Path("x"),
        "guests": 2,
        "hot": True,
        "size": "large",
        "wine": ("red", "white"),
        "pair": (Path("a"), Path("b")),
        "salt": None,
        "courses": (1, 2),
        "command": ("cook",),
    }


def test_help_is_the_documentation() -> None:
    text = " ".join(parser().format_help().split())
    for line in (
        "-o DIR, --output DIR where 100 % of it goes",
        "--guests N who come to the table (default: 4)",
        "--hot whether it is --size {small,large} of a plate (default: small)",
        "--pair LEFT RIGHT of spoons",
        "by number (default: 1 2)",
    ):
        assert line in text
    assert "command" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("soup", "required: -o/--output"),
        ("soup -o x --guests 0", "must be a whole number from 1, got '0'"),
        ("soup -o x --salt -1", "must be a positive number, got '-1'"),
        ("soup -o x --courses 1 0", "must be a whole number from 1, got '0'"),
        ("soup -o x --size huge", "choose from"),
        ("soup -o x --command a", "unrecognized arguments"),
    ],
)
def test_faults(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read(words)
    assert message in capsys.readouterr().err


def test_the_settings_have_the_last_word() -> None:
    arguments = parser().parse_args(["soup", "-o", "x"])
    with pytest.raises(InputError, match="cook: 'guests': "):
        read_settings(Meal, arguments, source="cook", command=(), guests=0)
