"""docs/architecture.svg shows the imports as they are."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from graphlib import CycleError
from pathlib import Path
from types import ModuleType

import pytest

import hcl

ROOT = Path(hcl.__file__).resolve().parent
SCRIPT = ROOT / "tools/draw_architecture.py"


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_architecture", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_current() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_package_is_drawn_above_what_it_imports(drawing: ModuleType) -> None:
    graph = drawing.read_graph()
    assert {"slurm", "downstream.retrieval", "pretrain.geometry"} <= graph.keys()
    assert graph["pretrain.geometry"] <= {"pretrain.core"}
    assert "pretrain.losses" in graph["pretrain.methods"]
    picture = drawing.draw(graph)
    heights = {
        name: int(y)
        for y, name in re.findall(r'<text x="\d+" y="(\d+)" text-anchor="middle">([^<]+)<', picture)
    }
    assert heights.keys() == graph.keys()
    for box, targets in graph.items():
        for target in targets:
            assert heights[box] < heights[target], (box, target)


def test_arrows_that_others_imply_are_left_out(drawing: ModuleType) -> None:
    graph = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert drawing.reduced(graph, drawing.reachable(graph)) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_a_circle_is_refused(drawing: ModuleType) -> None:
    with pytest.raises(CycleError, match="cycle"):
        drawing.draw(
            {"slurm": {"pretrain.a"}, "pretrain.a": {"pretrain.b"}, "pretrain.b": {"pretrain.a"}}
        )
