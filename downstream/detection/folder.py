"""The folder of one transfer: what it holds, and what may be replaced."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from downstream.results import FILE_NAME, Result, read_result
from pretrain.errors import InputError

LABELS = "labels.json"
FILES = (FILE_NAME, "metrics.json", "log.txt", "last_checkpoint", "detections.json", LABELS)


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
            "or replace it with --overwrite"
        )
    return result


def make_room(folder: Path, fingerprint: str, *, resume: bool, overwrite: bool) -> None:
    """Prepare the folder: marked with the transfer it holds, and empty unless resumed.

    Raises:
        InputError: it holds an unfinished transfer, and none or another was to be resumed; or
            a file that is not ours would have to go.
    """
    mark = folder / "fingerprint.txt"
    started = (folder / "last_checkpoint").is_file()
    if resume and started:
        if not mark.is_file() or mark.read_text(encoding="ascii").strip() != fingerprint:
            raise InputError(
                f"{folder}: its checkpoint is of another config, weights or data; give those, "
                "or start anew with --overwrite and without --resume"
            )
        return
    if started and not overwrite:
        raise InputError(
            f"{folder}: holds an unfinished transfer; go on with --resume, or replace it "
            "with --overwrite"
        )
    # detectron2 appends to its curve, and reads whatever checkpoint is marked as the last.
    old = [folder / name for name in (*FILES, "detections") if (folder / name).exists()]
    old += folder.glob("model_*.pth*")
    if old and not mark.is_file():
        raise InputError(
            f"{old[0]}: in the way and not of a detection transfer; choose another --output"
        )
    for path in old:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(fingerprint + "\n", encoding="ascii")


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
    # In place: detectron2 holds the file open and appends to it.
    path.write_text("".join(kept), encoding="utf-8")
