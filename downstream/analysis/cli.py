"""``hcl analyze``: hard negatives, hyperbolicity, norms, and recall over a setting."""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
from typing import get_args

from downstream.analysis.options import KINDS
from pretrain.core.arguments import add_settings, read_settings
from pretrain.core.command import Command


def run(kind: str, arguments: argparse.Namespace) -> int:
    """Make one analysis: figures, ``report.html`` and ``analysis.json``."""
    options = read_settings(KINDS[kind], arguments, source=f"hcl analyze {kind}")
    chosen = options.chosen()

    from downstream.analysis.findings import numbers, publish
    from downstream.results.analysis_record import Kind, check_folder

    name = next(each for each in get_args(Kind) if each == kind)
    check_folder(options.output, name, chosen, fresh=options.fresh)
    module = importlib.import_module(f"downstream.analysis.{kind.replace('-', '_')}")
    found = module.analyze(options)
    record = publish(found, name, chosen, arguments.command_line, options.output)
    lines = numbers(record.values)
    width = max((len(key) for key, _ in lines), default=0)
    print(record.title)
    for key, value in lines:
        print(f"  {key:<{width}}  {value}")
    for warning in record.warnings:
        print(f"warning: {warning}")
    print(f"{options.output / 'report.html'}: written, {len(record.figures)} figures")
    return 0


COMMANDS = {
    kind: Command(
        f"analyze {kind}",
        " ".join((inspect.getdoc(options) or "").partition("Attributes:")[0].split()),
        functools.partial(add_settings, kind=options),
        functools.partial(run, kind),
        renamed={"--overwrite": "--fresh"},
    )
    for kind, options in KINDS.items()
}
