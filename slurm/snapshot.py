"""The code of a submission, kept: a queued job runs what was submitted."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import pretrain

PARTS = ("hcl.py", "setup.py", "hcl_configs", "configs", "pretrain", "downstream", "slurm")
KINDS = {".py", ".yaml", ".j2"}


def snapshot(folder: Path) -> Path:
    """Copy this program's source below ``folder``; returns where.

    Copies are named for their content: submissions of the same code share one.
    """
    from pretrain.environment import versions  # which loads torch

    root = Path(pretrain.__file__).resolve().parent.parent
    files: dict[str, bytes] = {}
    for part in PARTS:
        top = root / part
        found = [top] if top.is_file() else sorted(top.rglob("*"))
        for file in found:
            if file.suffix in KINDS and file.is_file():
                files[str(file.relative_to(root))] = file.read_bytes()
    commit = versions()["commit"]
    files["COMMIT"] = f"{commit}\n".encode() if commit else b""
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    target = folder / digest.hexdigest()[:16]
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder))
    for name, content in files.items():
        (temporary / name).parent.mkdir(parents=True, exist_ok=True)
        (temporary / name).write_bytes(content)
    temporary.chmod(0o755)
    try:
        os.rename(temporary, target)  # noqa: PTH104 - fails where another was first
    except OSError:
        shutil.rmtree(temporary)
        if not target.is_dir():
            raise
    return target
