"""The files of examples/ run as they are, and print what their heads say."""

from __future__ import annotations

import re
import runpy
import sys
import tempfile
from pathlib import Path

import pytest

import hcl
from pretrain.methods import base

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
def test_example(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, which has imported torch already."""
    if name == "export_and_load":
        pytest.importorskip("detectron2")
    arguments, expected = EXAMPLES[name]
    file = str(ROOT / f"examples/{name}.py")
    monkeypatch.setattr(sys, "argv", [file, *arguments])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = {name: base.method_class(name) for name in base.method_names()}
    monkeypatch.setattr(base, "_methods", own)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    try:
        runpy.run_path(file, run_name="__main__")
    except SystemExit as end:
        assert not end.code
    out, errors = capsys.readouterr()
    assert re.search(expected, errors if name == "own_method" else out), out + errors
