"""One analysis, one folder: figures as PNG and SVG, ``report.html`` and ``analysis.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from pretrain.core.errors import InputError
from pretrain.core.files import write_text
from pretrain.core.settings import Settings

SCHEMA = 1
FILE_NAME = "analysis.json"
PAGE_NAME = "report.html"

Kind = Literal["hard-negatives", "delta", "norms", "sweep"]


class Source(Settings):
    """What was analyzed.

    Attributes:
        name: of the run, as the figures call it.
        path: as given.
        sha256: of the checkpoint, the file of embeddings or ``result.json``.
        step: of the checkpoint, where there is one.
        fingerprint: of the data set, where it has one.
    """

    name: str
    path: str
    sha256: str
    step: int | None = None
    fingerprint: str | None = None


class FigureRecord(Settings):
    """A figure: its files in the folder of the analysis, and what it shows."""

    name: str
    caption: str
    png: str
    svg: str


class AnalysisRecord(Settings):
    """The content of ``analysis.json``.

    Attributes:
        schema_version: of this file.
        kind: of the analysis.
        title: heading.
        created: when, UTC.
        command: what the user typed.
        options: by which the analysis is told from another; never where it is written.
        sources: what was analyzed.
        values: what was measured.
        notes: what one must know to read it rightly.
        warnings: what speaks against the numbers.
        figures: in the order of the report.
    """

    schema_version: int = SCHEMA
    kind: Kind
    title: str
    created: str
    command: str
    options: dict[str, Any]
    sources: tuple[Source, ...]
    values: dict[str, Any]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    figures: tuple[FigureRecord, ...]


def read_record(path: Path) -> AnalysisRecord:
    """Read ``analysis.json``, or that of a folder.

    Raises:
        InputError: the file is missing, is not JSON, or has another schema.
    """
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{file}: no such analysis; run `hcl analyze` first")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return AnalysisRecord.model_validate(values, strict=False)
    except (ValueError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{file}: not an analysis of schema {SCHEMA} ({reason}); run `hcl analyze` again"
        ) from None


def write_record(record: AnalysisRecord, folder: Path) -> None:
    """Write ``folder/analysis.json`` atomically."""
    text = json.dumps(record.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(folder / FILE_NAME, text + "\n")


def check_folder(folder: Path, kind: Kind, options: dict[str, Any], *, fresh: bool) -> None:
    """Refuse a folder that holds something else; the same analysis may be made again.

    Raises:
        InputError: naming what is there.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder}: is a file; name a folder")
    if fresh:
        return
    remedy = "choose another --output, or replace it with --fresh"
    if not (folder / FILE_NAME).is_file():
        if (folder / PAGE_NAME).exists():
            raise InputError(f"{folder / PAGE_NAME}: is there already; {remedy}")
        return
    there = read_record(folder)
    other = [
        key
        for key in sorted(there.options.keys() | options.keys())
        if there.options.get(key) != options.get(key)
    ]
    if there.kind != kind:
        other = [there.kind]
    if other:
        raise InputError(
            f"{folder / FILE_NAME}: holds another analysis ({', '.join(other)}); {remedy}"
        )


def clear(folder: Path) -> None:
    """Remove what an earlier analysis of the folder wrote."""
    if not (folder / FILE_NAME).is_file():
        return
    try:
        figures = read_record(folder).figures
    except InputError:
        return  # of no schema we know: its figures are not ours to tell
    (folder / FILE_NAME).unlink()
    for figure in figures:
        for name in (figure.png, figure.svg):
            if Path(name).name == name:
                (folder / name).unlink(missing_ok=True)
