"""Configurations: YAML files that stand on others, and ``key=value`` on top.

Every command that takes settings reads them here, so that a value means the same in all files and
on all command lines.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml

from pretrain.core.errors import InputError
from pretrain.core.presets import find_config
from pretrain.core.settings import Settings

Values = dict[str, Any]
T = TypeVar("T")
S = TypeVar("S", bound=Settings)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``1e-4`` as text; here it is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


class TextLoader(yaml.BaseLoader):
    """Leaves all scalars text, as written, and allows no key twice: for words of commands."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Like the base class, but strict."""
        keys = [key.value for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.YAMLError(f"'{twice[0]}' stands twice (line {node.start_mark.line + 1})")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, loader: type[yaml.SafeLoader | yaml.BaseLoader] = _Loader) -> Values:
    """The mapping of a YAML file.

    Raises:
        InputError: it is not YAML, or not a mapping.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping of settings")
    return values


@dataclass(frozen=True)
class Configs(Generic[S]):
    """The configurations of one kind.

    Attributes:
        kind: the folder of ``configs/`` with presets of this kind.
        build: makes settings of plain values, given with the name of their source; raises
            ``InputError`` with every fault.
    """

    kind: str
    build: Callable[[Values, str], S]

    def load(self, name: str, overrides: Sequence[str] = ()) -> S:
        """Read a configuration by path or preset name and apply ``key=value`` overrides.

        Raises:
            InputError: naming every fault of the file and of the overrides.
        """
        path = find_config(name, self.kind)
        return settings_with(self.read(path), overrides, self.build, str(path))

    def of_command(self, arguments: argparse.Namespace) -> S | None:
        """The settings of ``arguments.add_run``; None where they were to be printed, and are."""
        settings = self.load(arguments.config, arguments.overrides)
        if arguments.print_config:
            print(dump_yaml(settings), end="")
            return None
        return settings

    def read(self, path: Path, below: tuple[Path, ...] = ()) -> Values:
        """The values of a configuration file, on top of those of the one it names as ``base``.

        ``base`` is a file beside this one, a path or a preset. It is a complete configuration, and
        its faults are reported under its own name.

        Args:
            path: of the file.
            below: the files that led here by their ``base``.

        Raises:
            InputError: a file is not a mapping, a base is faulty or not there, or bases go in a
                circle.
        """
        values = read_yaml(path)
        if "base" not in values:
            return values
        name = values.pop("base")
        if not isinstance(name, str):
            raise InputError(f"{path}: 'base': give the name of a configuration, not {name!r}")
        chain = (*below, path.resolve())
        beside = path.parent / (name if name.endswith(".yaml") else f"{name}.yaml")
        try:
            base = beside if beside.is_file() else find_config(name, self.kind)
        except InputError as error:
            raise InputError(f"{path}: 'base': {error}") from None
        if base.resolve() in chain:
            circle = " -> ".join(file.name for file in (*chain, base))
            raise InputError(f"{path}: 'base': configurations go in a circle: {circle}")
        inherited = self.read(base, chain)
        self.build(inherited, str(base))
        return _merge(inherited, values)


def override(values: Values, texts: Iterable[str]) -> Values:
    """Set each ``key=value`` in nested values, which are changed and returned.

    A key is a dotted path. A value is read as YAML; what is not YAML is text.

    Raises:
        InputError: not of that form, or the key goes through a value.
    """
    for text in texts:
        key, equals, raw = text.partition("=")
        if not equals or not key:
            raise InputError(f"'{text}': overrides are written key=value, as in optim.lr=0.1")
        *parents, last = key.split(".")
        section = values
        for part in parents:
            inner = section.get(part)
            if inner is None:
                inner = section[part] = {}
            if not isinstance(inner, dict):
                raise InputError(f"'{text}': '{part}' is a value, not a section")
            section = inner
        section[last] = read_value(raw)
    return values


def settings_with(
    values: Values, texts: Sequence[str], build: Callable[[Values, str], T], source: str
) -> T:
    """Settings of a file and of ``key=value`` on top.

    Args:
        values: of the file.
        texts: overrides.
        build: makes settings of values, given with the name of their source.
        source: the file.

    Raises:
        InputError: naming every fault; of the command line, where the file alone is sound.
    """
    changed = override(copy.deepcopy(values), texts)
    try:
        return build(changed, source)
    except InputError:
        if texts:
            with contextlib.suppress(InputError):
                build(values, source)
                source = "command line"
        return build(changed, source)


def read_value(text: str) -> Any:
    """One value as YAML gives it, with the numbers of configuration files."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return text


def dump_yaml(settings: Settings) -> str:
    """The resolved settings as YAML that ``read_yaml`` reads back."""
    values = settings.model_dump(mode="json")
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _merge(below: Values, above: Values) -> Values:
    """Sections key by key; anything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        before = below.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            merged[key] = _merge(before, value)
        else:
            merged[key] = value
    return merged
