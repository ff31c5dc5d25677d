"""The code of a submission, kept: a queued job runs what was submitted."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pretrain
from pretrain.core.errors import InputError
from pretrain.core.files import new_folder

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
    try:
        with new_folder(target) as made:
            for name, content in files.items():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                (made / name).write_bytes(content)
    except InputError:
        if not target.is_dir():  # else another was first
            raise
    return target
