"""``hcl explain KEY``: what a setting means, its default and range, and which presets set it."""

from __future__ import annotations

import argparse
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pretrain.core.command import Command
from pretrain.core.config import read_yaml
from pretrain.core.errors import InputError
from pretrain.core.presets import configs_root
from pretrain.core.settings import documentation, sections_in
from pretrain.core.text import nearest

WIDTH = 96
MAX_PRESETS = 6
"""Of one value, so many presets are named."""


@dataclass(frozen=True)
class Setting:
    """One setting of one kind of configuration.

    Attributes:
        key: dotted, as on the command line.
        field: type, default and range.
        meaning: what the docstring of its class says of it.
        method: for settings below ``method``, which methods have it.
    """

    key: str
    field: FieldInfo
    meaning: str
    method: tuple[str, ...] = ()


def settings_of(kind: str) -> dict[str, list[Setting]]:
    """All settings of a kind of configuration by key; several where methods differ in one.

    Args:
        kind: ``pretrain``, ``retrieval`` or ``cluster``, as the folders of ``configs/``.
    """
    found: dict[str, list[Setting]] = {}
    for setting in _all_of(kind):
        known = found.setdefault(setting.key, [])
        same = next((other for other in known if _alike(other, setting)), None)
        if same is not None:
            known[:] = [other for other in known if other is not same]
            known.append(replace(same, method=(*same.method, *setting.method)))
        else:
            known.append(setting)
    return found


def _alike(one: Setting, other: Setting) -> bool:
    same = one.meaning == other.meaning and describe(one.field) == describe(other.field)
    return same and _default(one.field) == _default(other.field)


def _all_of(kind: str) -> Iterator[Setting]:
    if kind == "pretrain":
        from pretrain.config import RunSettings
        from pretrain.methods.base import method_class, method_names

        yield from _fields(RunSettings, "")
        for name in method_names():
            yield from _fields(method_class(name).settings_class, "method.", (name,))
    elif kind == "retrieval":
        from downstream.retrieval.finetune.settings import FinetuneSettings

        yield from _fields(FinetuneSettings, "")
    else:
        from slurm.cluster import ClusterSettings

        yield from _fields(ClusterSettings, "")


def _fields(owner: type[BaseModel], prefix: str, method: tuple[str, ...] = ()) -> Iterator[Setting]:
    for name, field in owner.model_fields.items():
        yield Setting(f"{prefix}{name}", field, documentation(owner, name), method)
        if prefix + name != "method":
            for section in sections_in(field.annotation):
                yield from _fields(section, f"{prefix}{name}.", method)


def describe(field: FieldInfo) -> str:
    """The type and range of a field, as in ``number, at least 0``."""
    parts = [_type(field.annotation)]
    limits = [("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")]
    for item in [*field.metadata, *_metadata(field.annotation)]:
        for name, words in limits:
            if (value := getattr(item, name, None)) is not None and str(value) != "inf":
                parts.append(f"{words} {value}")
    return ", ".join(dict.fromkeys(parts))


def _metadata(annotation: Any) -> list[Any]:
    """Limits inside ``Annotated[float, ...] | None``."""
    found: list[Any] = []
    if typing.get_origin(annotation) is typing.Annotated:
        for item in annotation.__metadata__:
            found += getattr(item, "metadata", None) or [item]
    for part in typing.get_args(annotation):
        if typing.get_origin(annotation) is not Literal:
            found += _metadata(part)
    return found


NAMES = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    Any: "anything",
}


def _type(annotation: Any) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        text = ", ".join(map(str, parts))
    elif origin in (typing.Union, types.UnionType):
        text = " or ".join(_type(part) for part in parts)
    elif origin is typing.Annotated:
        text = _type(parts[0])
    elif origin is tuple:
        kind = " and ".join(dict.fromkeys(_type(part) for part in parts if part is not Ellipsis))
        text = f"list of {kind}" if Ellipsis in parts else f"list of {len(parts)}: {kind}"
    elif origin is dict:
        text = "mapping"
    elif sections_in(annotation):
        text = "section"
    else:
        text = NAMES.get(annotation, str(getattr(annotation, "__name__", annotation)))
    return text


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "none: it must be given"
    default = field.get_default(call_default_factory=True)
    return "its settings' own" if isinstance(default, BaseModel) else _yaml(default)


def _yaml(value: Any) -> str:
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False)
    return text.removesuffix("...\n").strip()


def presets_with(kind: str, key: str) -> dict[str, list[str]]:
    """The values that presets give a setting themselves, each with the presets' names."""
    found: dict[str, list[str]] = {}
    for file in sorted((configs_root() / kind).glob("*.yaml")):
        value: Any = read_yaml(file)
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                break
            value = value[part]
        else:
            found.setdefault(_yaml(value), []).append(file.stem)
    return found


def explain(kind: str, key: str, settings: list[Setting]) -> str:
    """The text for one setting of one kind of configuration."""
    lines = []
    for setting in settings:
        of = f", method {', '.join(setting.method)}" if setting.method else ""
        lines.append(f"{key}   ({kind}{of})")
        lines += textwrap.wrap(setting.meaning, WIDTH, initial_indent="  ", subsequent_indent="  ")
        sections = sections_in(setting.field.annotation) if key != "method" else []
        if sections:
            summary = inspect.cleandoc(sections[0].__doc__ or "").split("\n\n")[0]
            lines += textwrap.wrap(" ".join(summary.split()), WIDTH, initial_indent="  ")
            fields = f"settings: {', '.join(sections[0].model_fields)}"
            lines += textwrap.wrap(fields, WIDTH, initial_indent="  ", subsequent_indent="    ")
        else:
            lines.append(f"  value: {describe(setting.field)}")
        lines.append(f"  default: {_default(setting.field)}")
    if not sections_in(settings[0].field.annotation):
        for value, names in presets_with(kind, key).items():
            more = f" and {len(names) - MAX_PRESETS} more" if len(names) > MAX_PRESETS else ""
            lines.append(f"  set to {value} in {', '.join(names[:MAX_PRESETS])}{more}")
    return "\n".join(lines)


KINDS = ("pretrain", "retrieval", "cluster")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="such as optim.lr")
    parser.add_argument(
        "--kind", choices=KINDS, help="of pretraining, metric learning or a cluster (default: all)"
    )


def _run(arguments: argparse.Namespace) -> int:
    kinds = (arguments.kind,) if arguments.kind else KINDS
    known = {kind: settings_of(kind) for kind in kinds}
    found = [
        explain(kind, arguments.key, settings[arguments.key])
        for kind, settings in known.items()
        if arguments.key in settings
    ]
    if not found:
        raise InputError(f"no setting '{arguments.key}'; {_nearest(arguments.key, known)}")
    print("\n\n".join(found))
    return 0


def _nearest(key: str, known: Mapping[str, Mapping[str, Any]]) -> str:
    """What may have been meant: the same last word elsewhere, else the most similar keys."""
    keys = list(dict.fromkeys(name for settings in known.values() for name in settings))
    last = key.rpartition(".")[2]
    near = [name for name in keys if name.rpartition(".")[2] == last][:5]
    near = near or nearest(key, keys, 3, 0.5)
    if not near:
        words = {name.rpartition(".")[2]: name for name in reversed(keys)}
        near = [words[word] for word in nearest(last, words, 3, 0.6)]
    if near:
        return "did you mean " + " or ".join(f"'{name}'" for name in near) + "?"
    top = dict.fromkeys(name.split(".", maxsplit=1)[0] for name in keys)
    return f"sections and settings at the top: {', '.join(top)}"


COMMAND = Command(
    "explain",
    "What a setting means, its default and range, and which presets set it to "
    "what. A section, such as optim, lists its settings.",
    _add_arguments,
    _run,
    for_jobs=False,
)
