"""Sources of scenes by the names the command line knows them by."""

from __future__ import annotations

import argparse
from pathlib import Path

from pretrain.core.errors import InputError
from pretrain.datasets.scenes.scene_source import Source

NAMES = "procedural, procedural:CONTEXT,..., tuxpaint, tuxpaint:DIR"


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--source`` to a command."""
    parser.add_argument(
        "--source",
        default="procedural",
        metavar="SOURCE",
        help="procedural (default); procedural:CONTEXT,...: some of its contexts alone, with the "
        "categories at home there; tuxpaint: photographs of objects before photographs, from "
        "Debian's packages, fetched with apt-get; tuxpaint:DIR: the same, unpacked in DIR",
    )


def open_source(text: str) -> Source:
    """The source of this name.

    Raises:
        InputError: there is none of the name, or its pictures are missing.
    """
    name, colon, rest = text.partition(":")
    if name == "procedural" and (rest or not colon):
        return _procedural(rest)
    if name == "tuxpaint" and (rest or not colon):
        from pretrain.datasets.scenes.tuxpaint.bank import open_tuxpaint

        return open_tuxpaint(Path(rest) if rest else None)
    raise InputError(f"--source '{text}': unknown; choose from {NAMES}")


def _procedural(contexts: str) -> Source:
    """The drawn scenes, all of them or those of some contexts (separated by commas)."""
    from pretrain.datasets.scenes.contexts import PROCEDURAL
    from pretrain.datasets.scenes.procedural import ProceduralSource

    if not contexts:
        return ProceduralSource()
    names = tuple(contexts.split(","))
    unknown = [name for name in names if name not in PROCEDURAL.names]
    if unknown or len(set(names)) < max(len(names), 2):
        raise InputError(
            f"--source 'procedural:{contexts}': name two or more different contexts of "
            f"{', '.join(PROCEDURAL.names)}"
        )
    return ProceduralSource(PROCEDURAL.only(names))
