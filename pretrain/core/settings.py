"""Strict typed settings: unknown keys are errors, and all faults are reported at once."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, Union

from pydantic import BaseModel, ConfigDict, ValidationError

from pretrain.core.errors import InputError
from pretrain.core.text import suggest

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Base of every settings class: immutable, no unknown keys, no silent coercion of types."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True
    )


def parse(kind: type[S], values: Mapping[str, Any], *, source: str, at: str = "") -> S:
    """Build ``kind`` from plain values.

    Args:
        kind: the settings class.
        values: nested mappings as YAML gives them.
        source: what to call the origin in messages, usually the file name.
        at: dotted prefix of these values inside the source.

    Raises:
        InputError: naming every fault of ``values`` at once, one line each.
    """
    try:
        # YAML writes tuples as lists; strict mode would refuse them.
        return kind.model_validate(_tuples(values))
    except ValidationError as error:
        lines = [_line(kind, fault, at) for fault in error.errors()]
        unique = list(dict.fromkeys(lines))
        raise InputError(f"{source}: " + f"\n{source}: ".join(unique)) from None


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return value


def _line(kind: type[BaseModel], fault: Mapping[str, Any], at: str) -> str:
    path = [str(part) for part in fault["loc"]]
    name = ".".join([at, *path] if at else path)
    if fault["type"] == "extra_forbidden":
        elsewhere = [] if path[:-1] else [key for key in _nested(kind) if key.endswith(f".{name}")]
        if elsewhere:  # as in device=cpu for train.device=cpu
            return f"unknown key '{name}': did you mean '{elsewhere[0]}'?"
        hint = suggest(path[-1], _keys(kind, path[:-1]), "it is not a setting")
        return f"unknown key '{name}': {hint}"
    if fault["type"] == "missing":
        return f"missing key '{name}'"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"'{name}': {message[:1].lower()}{message[1:]}, got {fault['input']!r}"


def _keys(kind: type[BaseModel], path: list[str]) -> list[str]:
    """The valid keys of the settings class reached from ``kind`` by ``path``."""
    model: type[BaseModel] = kind
    for part in path:
        field = model.model_fields.get(part)
        found = sections_in(field.annotation) if field else []
        if not found:
            return []
        model = found[0]
    return list(model.model_fields)


def _nested(kind: type[BaseModel]) -> list[str]:
    """The keys of all sections below ``kind``, dotted, outer ones first."""
    inner = {
        name: sections[0]
        for name, field in kind.model_fields.items()
        if (sections := sections_in(field.annotation))
    }
    direct = [f"{name}.{key}" for name, model in inner.items() for key in model.model_fields]
    return direct + [f"{name}.{key}" for name, model in inner.items() for key in _nested(model)]


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes in a type such as ``HCLSettings | None``."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (Union, types.UnionType, Annotated):
        return [found for part in typing.get_args(annotation) for found in sections_in(part)]
    return []


def documentation(kind: type[BaseModel], name: str) -> str:
    """What the ``Attributes`` of a class's docstring say of a field; "" where they say nothing."""
    for owner in kind.__mro__:
        text = inspect.cleandoc(owner.__doc__ or "")
        block = re.search(r"^Attributes:\n((?:    .*\n?|\n)*)", text, re.M)
        entries = re.split(r"^    (?=\w+:)", block[1], flags=re.M) if block else []
        for entry in entries:
            key, colon, meaning = entry.partition(":")
            if colon and key.strip() == name:
                return " ".join(meaning.split()).replace("``", "`")
    return ""
