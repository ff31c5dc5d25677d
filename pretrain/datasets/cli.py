"""``hcl data``: a table of contents. Each subcommand's module is loaded when it is called."""

from __future__ import annotations

import importlib
import sys

from pretrain.core.errors import InputError
from pretrain.core.text import suggest

COMMANDS = {
    # name: (module with `main(argv) -> int`, what it does)
    "prepare": ("pretrain.datasets.commands.prepare", "a known set: archives or folders, indexed"),
    "check": ("pretrain.datasets.commands.check", "read every image and box of an index"),
    "show": ("pretrain.show", "a contact sheet of what a run sees of an index"),
    "stats": ("pretrain.datasets.commands.stats", "counts, sizes and classes of an index"),
    "propose": ("pretrain.datasets.commands.propose", "an index with boxes for images without"),
    "pack": ("pretrain.datasets.commands.pack", "images decoded and shrunk once, for training"),
    "select": ("pretrain.datasets.commands.select", "an index of the images of several classes"),
    "scenes": ("pretrain.datasets.commands.scenes", "generate scenes of many objects from a seed"),
    # Named, not imported: it builds on this package.
    "crops": ("downstream.retrieval.datasets.crop_folder", "objects as a folder of class folders"),
}


def usage() -> str:
    """The text of ``hcl data --help``."""
    lines = [
        "usage: hcl data COMMAND ...   (hcl data COMMAND --help says more)",
        "",
        "Make, check and look at data sets.",
        "",
    ]
    width = max(map(len, COMMANDS))
    lines += [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Run ``hcl data COMMAND ...``."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage(), file=sys.stdout if argv else sys.stderr)
        raise SystemExit(0 if argv else 2)  # as argparse does in every other command
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        hint = suggest(name, COMMANDS, f"commands: {', '.join(COMMANDS)}")
        raise InputError(f"unknown command '{name}'; {hint}")
    status: int = importlib.import_module(COMMANDS[name][0]).main(rest)
    return status
