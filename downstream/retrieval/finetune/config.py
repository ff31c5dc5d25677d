"""Reading a fine-tuning configuration: presets, ``base`` and overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from downstream.retrieval.finetune.settings import FinetuneSettings
from pretrain.config import read_yaml
from pretrain.core.errors import InputError
from pretrain.core.presets import find_config
from pretrain.core.settings import parse

KIND = "retrieval"


def load_settings(name: str, overrides: Sequence[str] = ()) -> FinetuneSettings:
    """Read a configuration by path or preset name and apply ``key=value`` overrides.

    A file may name another as ``base``; its own values then stand on top.

    Raises:
        InputError: naming every fault of the file and of the overrides.
    """
    path = find_config(name, KIND)
    values = _read(path, ())
    for text in overrides:
        override(values, text)
    return parse(FinetuneSettings, values, source=str(path))


def dump_yaml(settings: FinetuneSettings) -> str:
    """The resolved settings as YAML that ``load_settings`` reads back."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def override(values: dict[str, Any], text: str) -> None:
    """Set one ``key=value`` in nested values.

    Raises:
        InputError: not of that form, or the key goes through a value.
    """
    key, equals, raw = text.partition("=")
    if not equals or not key:
        raise InputError(f"'{text}': overrides are written key=value, as in optim.lr=3e-5")
    *parents, last = key.split(".")
    section = values
    for part in parents:
        inner = section.setdefault(part, {})
        if not isinstance(inner, dict):
            raise InputError(f"'{text}': '{part}' is a value, not a section")
        section = inner
    section[last] = _value(raw)


def _value(raw: str) -> Any:
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError:
        return raw
    if isinstance(value, str):  # YAML 1.1 reads 3e-5 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _read(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    values = read_yaml(path)
    name = values.pop("base", None)
    if name is None:
        return values
    chain = (*below, path.resolve())
    beside = path.parent / f"{str(name).removesuffix('.yaml')}.yaml"
    base = beside if beside.is_file() else find_config(str(name), KIND)
    if base.resolve() in chain:
        raise InputError(f"{path}: 'base': configurations go in a circle at {base.name}")
    return _merge(_read(base, chain), values)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Sections key by key; anything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        before = below.get(key)
        both = isinstance(before, dict) and isinstance(value, dict)
        merged[key] = _merge(before, value) if both else value  # type: ignore[arg-type]
    return merged
