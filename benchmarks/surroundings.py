"""What stands beside every measured number: hardware, versions, commit, load."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path


def surroundings(
    device: str = "cpu", packages: tuple[str, ...] = ("torch", "numpy")
) -> dict[str, object]:
    """To be taken before the measurement; ``packages`` are those whose versions matter."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": _accelerator() if device == "cuda" else "cpu",
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in packages},
        "load_before": os.getloadavg(),
    }


def _accelerator() -> str:
    import torch  # noqa: PLC0415  # a benchmark of memory must not load it

    return torch.cuda.get_device_name()


def _git(*words: str) -> str:
    done = subprocess.run(("git", *words), capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _processor() -> str:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.is_file() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
