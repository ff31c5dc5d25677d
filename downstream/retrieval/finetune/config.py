"""Reading a fine-tuning configuration: presets, ``base`` and overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from downstream.retrieval.finetune.settings import FinetuneSettings
from pretrain.core.config import read_config, settings_with
from pretrain.core.presets import find_config
from pretrain.core.settings import parse

KIND = "retrieval"
"""Folder of the presets below ``configs/``."""


def load_settings(name: str, overrides: Sequence[str] = ()) -> FinetuneSettings:
    """Read a configuration by path or preset name and apply ``key=value`` overrides.

    Raises:
        InputError: naming every fault of the file and of the overrides.
    """
    path = find_config(name, KIND)
    return settings_with(read_values(path), overrides, _build, str(path))


def read_values(path: Path) -> dict[str, Any]:
    """The values of a configuration file and of those it stands on; each base is checked.

    Raises:
        InputError: a file is not a mapping, a base is faulty or not there, or bases go in a circle.
    """
    return read_config(path, KIND, _build)


def _build(values: dict[str, Any], source: str) -> FinetuneSettings:
    return from_values(values, source=source)


def from_values(values: dict[str, Any], *, source: str) -> FinetuneSettings:
    """Settings from nested plain values.

    Raises:
        InputError: naming every fault.
    """
    return parse(FinetuneSettings, values, source=source)
