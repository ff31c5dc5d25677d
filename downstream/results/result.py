"""One result, one file: the fixed schema of which every table is made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pretrain.core.errors import InputError
from pretrain.core.files import write_json
from pretrain.core.settings import Settings

SCHEMA = 1
FILE_NAME = "result.json"


class Result(Settings):
    """What one transfer of one backbone gave.

    Attributes:
        schema_version: of this file.
        task: what was measured.
        run: the pretraining run's name, the row of the table.
        metrics: numbers by name: ``bbox/AP`` and ``segm/AP50`` in percent (detectron2's unit),
            ``recall/backbone/euclidean@1`` in [0, 1].
        protocol: settings that must agree for two results to be comparable, never the seed. Of a
            detector ``model``, ``head``, ``norm`` and ``input`` may be said here in the words of
            ``downstream.results.protocols``; else they are read from ``config.yaml`` beside it.
        provenance: command, code version, weights' sha256, data fingerprint, machine, seconds;
            ``world``, the number of processes (1 where it is not said); ``val.annotations`` of a
            detector's test set; ``seconds`` of its training, an iteration and evaluation.
        artifacts: files for the report, relative to the result's folder; ``results`` are a
            detector's detections in COCO's result format.
    """

    schema_version: int = SCHEMA
    task: Literal["detection", "retrieval", "probe"]
    run: str
    metrics: dict[str, float]
    protocol: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    artifacts: dict[str, Any] = {}


def write_result(result: Result, folder: Path) -> Path:
    """Write ``folder/result.json`` atomically and return its path.

    Raises:
        InputError: the folder cannot be written to.
    """
    path = folder / FILE_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, result.model_dump(), indent=2)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    return path


def read_result(path: Path) -> Result:
    """Read a result.

    Raises:
        InputError: the file is missing or unreadable, is not JSON, or has another schema.
    """
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            f"{file}: no such result; run `hcl detect`, `hcl retrieve` or `hcl probe` first"
        )
    try:
        return Result.model_validate(json.loads(file.read_text(encoding="utf-8")), strict=False)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{file}: not a result file of schema {SCHEMA}: {error}") from None


def told(folder: Path, *, reused: bool) -> str:
    """What the user sees of a result that was written, or was there before."""
    path = folder / FILE_NAME
    if reused:
        return f"{path}: already there, same weights and options\nmeasure again with --fresh"
    return f"{path}: written"


def finished(
    folder: Path, task: str, run: str, protocol: Mapping[str, Any], identity: Mapping[str, Any]
) -> Result | None:
    """The result in ``folder`` if there is one.

    Args:
        folder: of the result.
        task: that was asked for.
        run: the row.
        protocol: of the result asked for.
        identity: what must agree of its provenance.

    Raises:
        InputError: it is another one than asked for, or the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder}: is a file; name a folder")
    if not (folder / FILE_NAME).is_file():
        return None
    result = read_result(folder)
    wanted = {"task": task, "run": run, **protocol, **identity}
    there = {"task": result.task, "run": result.run, **result.protocol, **result.provenance}
    other = [key for key, value in wanted.items() if there.get(key) != value]
    if other:
        raise InputError(
            f"{folder / FILE_NAME}: holds another result ({', '.join(other)}); choose another "
            "--output, or replace it with --fresh"
        )
    return result
