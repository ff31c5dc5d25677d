"""``hcl analyze``: hard negatives, hyperbolicity, norms, and recall over a setting."""

from __future__ import annotations

import argparse
import functools
import importlib
import re
from pathlib import Path
from typing import Any, get_args

from downstream.analysis import options
from pretrain.core.command import Command
from pretrain.core.errors import InputError

# Where a path is meant to stand: a setting.
_OVERRIDE = re.compile(r"[a-z_]+(\.\w+)+=")

# Options that say where and how, not what.
_APART = {"output", "fresh", "device", "command_line"}


def run(kind: str, arguments: argparse.Namespace) -> int:
    """Make one analysis: figures, ``report.html`` and ``analysis.json``."""
    if kind != "sweep":
        _split_items(kind, arguments)
    chosen = {name: _plain(value) for name, value in vars(arguments).items() if name not in _APART}

    from downstream.analysis.findings import publish
    from downstream.analysis.page import numbers
    from downstream.results.analysis_record import Kind, check_folder

    name = next(each for each in get_args(Kind) if each == kind)
    check_folder(arguments.output, name, chosen, fresh=arguments.fresh)
    module = importlib.import_module(f"downstream.analysis.{kind.replace('-', '_')}")
    found = module.analyse(arguments)
    record = publish(found, name, chosen, arguments.command_line, arguments.output)
    lines = numbers(record.values)
    width = max((len(key) for key, _ in lines), default=0)
    print(record.title)
    for key, value in lines:
        print(f"  {key:<{width}}  {value}")
    for warning in record.warnings:
        print(f"warning: {warning}")
    print(f"{arguments.output / 'report.html'}: written, {len(record.figures)} figures")
    return 0


def _split_items(kind: str, arguments: argparse.Namespace) -> None:
    """Tell the runs from the settings among the words of the command line."""
    words: list[str] = arguments.__dict__.pop("items")
    arguments.overrides = [
        word for word in words if _OVERRIDE.match(word) and not Path(word).exists()
    ]
    arguments.runs = [Path(word) for word in words if word not in arguments.overrides]
    most = options.MOST_RUNS.get(kind)
    if not arguments.runs or (most is not None and len(arguments.runs) > most):
        wanted = {1: "one RUN", 2: "one or two RUNs"}.get(most or 0, "at least one RUN")
        raise InputError(f"{kind}: needs {wanted}, got {len(arguments.runs)}; see --help")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, list) else value


COMMANDS = {
    kind: Command(
        f"analyze {kind}",
        purpose,
        functools.partial(options.add_arguments, kind),
        functools.partial(run, kind),
        renamed={"--overwrite": "--fresh"},
    )
    for kind, purpose in options.KINDS.items()
}
