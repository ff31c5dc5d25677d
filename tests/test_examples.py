"""The files of examples/ run as they are, each in a process of its own, and print what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hcl

ROOT = Path(hcl.__file__).resolve().parent
MAX_LINES = 80
# name: (arguments, what the last lines must match)
EXAMPLES = {
    "moco_hcl": (["2"], r"step 2: sphere \d+\.\d{3}, ball \d+\.\d{3}\n$"),
    "hyperbolic_loss": ([], r"own group: 100% \(chance 12%\)\n.*4\.86\d\n$"),
    "recall_three_geometries": ([], r"\n(?:(?:sphere|ball|both) +(?:R@\d+ 0\.\d{3} *){3}\n){3}$"),
    "export_and_load": ([], r"512, 4, 4\)\}\nlargest difference: (0\.0e\+00|\d\.\de-0[5-9])\n$"),
    "own_method": (["5"], r"simclr \d+\.\d+"),
}


def test_every_example_is_tested_and_short() -> None:
    files = {path.stem: path for path in (ROOT / "examples").glob("*.py")}
    assert files.keys() == EXAMPLES.keys()
    for path in files.values():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES, path


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, tmp_path: Path) -> None:
    if name == "export_and_load":
        pytest.importorskip("detectron2")
    arguments, expected = EXAMPLES[name]
    environment = {
        **os.environ,
        **{"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, str(ROOT / f"examples/{name}.py"), *arguments],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(expected, done.stdout + (done.stderr if name == "own_method" else "")), (
        done.stdout + done.stderr
    )
