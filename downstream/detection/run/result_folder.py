"""The folder of one transfer: what it holds, and what may be replaced."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from downstream.detection.run.checkpoints import NAME, TAG, last_checkpoint
from downstream.results.collect import DETECTION_MARK
from downstream.results.result import FILE_NAME, Result, read_result
from pretrain.core.errors import InputError
from pretrain.core.files import write_text

LABELS = "labels.json"
PICTURES = "detections"
CONFIG = "config.yaml"
FILES = (FILE_NAME, TAG, "metrics.json", "detections.json", LABELS)
_FINGERPRINT = re.compile("[0-9a-f]{64}")


def finished(folder: Path, fingerprint: str) -> Result | None:
    """The folder's result, if it is that of this very transfer.

    Raises:
        InputError: it is the result of another.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    result = read_result(path)
    if result.provenance.get("fingerprint") != fingerprint:
        raise InputError(
            f"{path}: result of another transfer ('{result.run}'); choose another --output, "
            "or replace it with --fresh"
        )
    return result


def check_room(folder: Path, fingerprint: str, sources: Sequence[Path], *, fresh: bool) -> bool:
    """Check that the folder can take a transfer; nothing is changed.

    Args:
        folder: of the result.
        fingerprint: of the transfer.
        sources: files that it reads.
        fresh: replace what the folder holds.

    Returns:
        Whether to go on from its last checkpoint.

    Raises:
        InputError: it holds an unfinished transfer of something else; or a file that is not ours,
            or a source, would have to go.
    """
    if not fresh and last_checkpoint(folder) is not None:
        if _mark(folder) != fingerprint:
            raise InputError(
                f"{folder}: holds an unfinished transfer of another config, weights or data; give "
                "those to go on, choose another --output, or replace it with --fresh"
            )
        return True
    old = _written(folder)
    others = [path for path in (*old, folder / CONFIG) if path.exists()]
    if others and _mark(folder) is None:
        raise InputError(
            f"{others[0]}: in the way and not of a detection transfer; choose another --output"
        )
    for path in sources:
        if path.resolve() in {own.resolve() for own in old}:
            raise InputError(f"{path}: would be removed to make room; choose another --output")
    return False


def make_room(folder: Path, fingerprint: str) -> None:
    """Remove the files of an earlier transfer, and nothing else; mark the folder with this one."""
    for path in _written(folder):
        path.unlink()
    with contextlib.suppress(OSError):  # there is none, or it holds something else
        (folder / PICTURES).rmdir()
    write_text(folder / DETECTION_MARK, fingerprint + "\n")


def _written(folder: Path) -> list[Path]:
    """Files of a transfer that a new one replaces; the log goes on."""
    found = [folder / name for name in FILES if (folder / name).is_file()]
    found += [path for path in sorted(folder.glob("model_*.pth")) if NAME.fullmatch(path.name)]
    return found + [p for p in sorted((folder / PICTURES).glob("*.jpg")) if p.stem.isdecimal()]


def _mark(folder: Path) -> str | None:
    """The fingerprint of the transfer that the folder holds."""
    try:
        found = (folder / DETECTION_MARK).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return found if _FINGERPRINT.fullmatch(found) else None


def trim_curve(folder: Path, iteration: int) -> None:
    """Remove from the loss curve what will be run again, and a line that a kill has cut."""
    path = folder / "metrics.json"
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["iteration"] < iteration:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    write_text(path, "".join(kept))
