"""Command-line arguments: types of values, and arguments made from a settings class."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union

from pretrain.core.machine import MAX_WORKERS, default_workers

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from pretrain.core.settings import Settings

    S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Option:
    """How a setting is written on the command line; stands in the annotation of its field.

    Attributes:
        metavar: what stands for the value in ``--help``; one for each value of a pair.
        short: another flag, as in ``-o``.
        positional: it is a word without a flag.
        hidden: it is not an argument; the command sets it.
    """

    metavar: str | tuple[str, ...] | None = None
    short: str | None = None
    positional: bool = False
    hidden: bool = False


def add_settings(parser: argparse._ActionsContainer, kind: type[Settings]) -> None:
    """Add an argument for each field of a settings class.

    Flag, type, choices, range and default are those of the field, and the help is what the
    ``Attributes`` of the docstring say of it.
    """
    from pretrain.core.settings import documentation

    for name, field in kind.model_fields.items():
        option = _option(field)
        if option.hidden:
            continue
        keywords = _keywords(field)
        text = documentation(kind, name).removesuffix(".")
        default = keywords.get("default")
        if default is not None and default != () and not option.positional:
            shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
            text = f"{text} (default: {shown})"
        keywords["help"] = text.replace("%", "%%")
        if option.metavar is not None:
            keywords["metavar"] = option.metavar
        if option.positional:
            parser.add_argument(name, **keywords)
            continue
        flags = [f"--{name.replace('_', '-')}"]
        if option.short is not None:
            flags.insert(0, option.short)
        parser.add_argument(*flags, required=field.is_required(), **keywords)


def read_settings(kind: type[S], arguments: argparse.Namespace, *, source: str, **given: Any) -> S:
    """The settings that ``add_settings`` has asked for.

    Args:
        kind: the settings class.
        arguments: as parsed.
        source: the command, for messages.
        given: fields whose values are not those of the arguments.

    Raises:
        InputError: naming every fault.
    """
    from pretrain.core.settings import parse

    named = {name: getattr(arguments, name) for name in kind.model_fields if name not in given}
    return parse(kind, named | given, source=source)


def add_output(
    parser: argparse.ArgumentParser,
    what: str,
    default: str | None = "",
    *,
    metavar: str = "DIR",
) -> None:
    """Add ``-o/--output``.

    Args:
        parser: of the command.
        what: is written there, for ``--help``.
        default: of the option; "": it must be given.
        metavar: stands for the value in ``--help``.
    """
    required = default == ""
    value = Path(default) if default else None
    parser.add_argument(
        "-o", "--output", type=Path, required=required, default=value, metavar=metavar, help=what
    )


def add_workers(parser: argparse._ActionsContainer, what: str = "processes") -> None:
    """Add ``--workers``, whose default is ``machine.default_workers``."""
    parser.add_argument(
        "--workers",
        type=positive_int,
        default=default_workers(),
        metavar="N",
        help=f"{what} (default: the cores, {MAX_WORKERS} at most)",
    )


def add_fresh(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--fresh``: what an earlier run of the command has left is replaced."""
    parser.add_argument("--fresh", action="store_true", help=what)


def add_run(parser: argparse.ArgumentParser, override: str) -> None:
    """Add the arguments of a command that trains.

    Args:
        parser: of the command.
        override: an example of ``key=value``, for ``--help``.
    """
    parser.add_argument("config", help="a YAML file, or a preset's name")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=f"such as {override}")
    add_fresh(parser, "start over: replace the files of an earlier run of this folder")
    parser.add_argument("--print-config", action="store_true", help="print all settings and stop")


def _option(field: FieldInfo) -> Option:
    return next((item for item in field.metadata if isinstance(item, Option)), Option())


def _keywords(field: FieldInfo) -> dict[str, Any]:
    """What ``add_argument`` must be told of a field, but for its name and help."""
    annotation = field.annotation
    if typing.get_origin(annotation) in (Union, UnionType):
        (annotation,) = (part for part in typing.get_args(annotation) if part is not NoneType)
    if annotation is bool:
        return {"action": "store_true"}
    found: dict[str, Any] = {} if field.is_required() else {"default": field.default}
    if typing.get_origin(annotation) is tuple:
        inner, *others = typing.get_args(annotation)
        found["nargs"] = "+" if others == [Ellipsis] else 1 + len(others)
        annotation = inner
    limits = list(field.metadata)
    if typing.get_origin(annotation) is Annotated:
        annotation, *inner_limits = typing.get_args(annotation)
        limits += [item for one in inner_limits for item in getattr(one, "metadata", [one])]
    if typing.get_origin(annotation) is Literal:
        found["choices"] = typing.get_args(annotation)
    else:
        found["type"] = _type(annotation, limits)
    return found


def _type(annotation: Any, limits: list[Any]) -> Callable[[str], Any]:
    least = next((item.ge for item in limits if hasattr(item, "ge")), None)
    above = next((item.gt for item in limits if hasattr(item, "gt")), None)
    if annotation is int and least is not None:
        return at_least(least)
    if annotation is float and above == 0:
        return positive
    if annotation is float and least == 0:
        return not_negative
    assert annotation in (int, float, str, Path), f"no argument can be of type {annotation}"
    kind: Callable[[str], Any] = annotation
    return kind


def at_least(least: int) -> Callable[[str], int]:
    """The type of a whole number from ``least``, which is not negative."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least}, got '{text}'")
        return int(text)

    return read


positive_int = at_least(1)


def positive(text: str) -> float:
    """A finite number above 0."""
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, got '{text}'")
    return value


def not_negative(text: str) -> float:
    """A finite number from 0."""
    value = _number(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number from 0, got '{text}'")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
