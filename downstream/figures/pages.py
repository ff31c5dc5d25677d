"""Self-contained HTML pages: no script, no file beside them, nothing fetched."""

from __future__ import annotations

from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined


def render_template(package: str, name: str, **values: Any) -> str:
    """A template of a package with these values; every text in them is escaped."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files(package).joinpath(name)
    return environment.from_string(source.read_text(encoding="utf-8")).render(**values)
