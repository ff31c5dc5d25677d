"""``hcl presets [KIND]``: the configurations that come with the project, a line for each."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import textwrap
from pathlib import Path

from pretrain.core.command import Command
from pretrain.core.presets import configs_root

KINDS = {
    # folder of configs/: the command that takes its files
    "pretrain": "hcl pretrain NAME",
    "detection": "hcl detect NAME",
    "retrieval": "hcl retrieve train NAME",
    "pipeline": "hcl pipeline NAME",
    "cluster": "hcl submit --cluster NAME, hcl pipeline FILE --cluster NAME",
}


def summary(file: Path) -> str:
    """The first sentence of the comment at the head of a file; "" where there is none."""
    lines: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or (lines and line.strip() == "#"):
            break
        lines.append(line.lstrip("#").strip())
    return re.split(r"(?<!\bal)\.\s+(?=[A-Z`])", " ".join(lines), maxsplit=1)[0].rstrip(".:")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", choices=list(KINDS), help="default: all kinds")


def _run(arguments: argparse.Namespace) -> int:
    chosen = arguments.kind
    # Whole sentences where a program or a pager reads them.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    for kind in [chosen] if chosen else KINDS:
        files = sorted((configs_root() / kind).glob("*.yaml"))
        print(f"{kind}: {KINDS[kind]}")
        column = max(len(file.stem) for file in files) + 4
        for file in files:
            text = textwrap.shorten(summary(file), max(20, width - column), placeholder=" ...")
            print(f"  {file.stem:<{column - 2}}{text}")
    return 0


COMMAND = Command(
    "presets",
    "List the configurations that come with the project. A command takes the name "
    "of one in the place of a file; `hcl pretrain NAME --print-config` shows all of its "
    "settings.",
    _add_arguments,
    _run,
    for_jobs=False,
)
