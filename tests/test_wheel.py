"""An installed wheel finds its presets, and brings no package it should not."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import hcl

ROOT = Path(hcl.__file__).resolve().parent


def test_wheel(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    source = tmp_path / "source"  # setuptools leaves a build folder beside setup.py
    subprocess.run(
        ["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(source)], check=True
    )
    subprocess.run([*build, "--wheel-dir", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    tops = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"hcl.py", "hcl_configs", "pretrain", "downstream", "slurm"}
    for arguments, expected in (
        (["pretrain", "quickstart", "--print-config"], "backbone: resnet18"),
        (["compare", "--help"], "usage: hcl compare"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "hcl", *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
