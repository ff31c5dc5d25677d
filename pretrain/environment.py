"""Where a number comes from: code, libraries and machine, for the record of runs and results."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import torch
import torchvision

from pretrain import __version__


def versions() -> dict[str, str | None]:
    """Versions of the code and of what it stands on; ``commit`` is None outside a checkout."""
    return {
        "hcl": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
    }


def machine(device: torch.device) -> str:
    """The device and the machine around it, in words."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{name}, {os.cpu_count()} cores, {platform.machine()}"


def _commit() -> str | None:
    """The checkout's commit, with ``+`` where files differ from it; of a job's copy as noted."""
    root = Path(__file__).resolve().parent.parent
    if (root / "COMMIT").is_file():
        return (root / "COMMIT").read_text(encoding="utf-8").strip() or None
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12"]
    done = subprocess.run(describe, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
