"""Sources of scenes by the names the command line knows them by."""

from __future__ import annotations

import argparse
from pathlib import Path

from pretrain.data.scenes.source import Source
from pretrain.errors import InputError

NAMES = "procedural, tuxpaint, tuxpaint:DIR"


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--source`` to a command."""
    parser.add_argument(
        "--source",
        default="procedural",
        metavar="SOURCE",
        help="procedural (default); tuxpaint: photographs of objects before photographs, from "
        "Debian's packages, fetched with apt-get; tuxpaint:DIR: the same, unpacked in DIR",
    )


def open_source(text: str) -> Source:
    """The source of this name.

    Raises:
        InputError: there is none of the name, or its pictures are missing.
    """
    name, colon, folder = text.partition(":")
    if name == "procedural" and not colon:
        from pretrain.data.scenes.procedural import ProceduralSource

        return ProceduralSource()
    if name == "tuxpaint" and (folder or not colon):
        from pretrain.data.scenes.tuxpaint.bank import open_tuxpaint

        return open_tuxpaint(Path(folder) if folder else None)
    raise InputError(f"--source '{text}': unknown; choose from {NAMES}")
