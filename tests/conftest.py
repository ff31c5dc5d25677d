"""Fixtures shared by the whole suite."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from order_of_tests import QUICK, TESTS, place
from xdist.scheduler import LoadFileScheduling

REPOSITORY = TESTS.parent

torch.set_num_threads(1)
# Ignored where the tests were started by nohup or in a script's background, and children inherit
# that: the tests that interrupt them would wait in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Scheduler(LoadFileScheduling):  # type: ignore[misc]
    """A file goes to one worker; all tests on a real Slurm to one, which mostly waits."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "cluster" if "slurm/test_cluster_" in file else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``--dist loadfile``."""
    return Scheduler(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first; skip what the machine cannot run, and say why."""
    items.sort(key=lambda item: place(item.path))
    for item in items:
        if item.path.stem in QUICK:
            item.add_marker(pytest.mark.quick)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; none here"))


@pytest.fixture(scope="session")
def coco_tiny() -> Path:
    """A folder with real COCO images: annotations/, train2017/, val2017/."""
    folder = Path(os.environ.get("HCL_COCO_TINY", REPOSITORY.parent / "shared/data/coco_tiny"))
    if not (folder / "annotations/instances_val2017.json").is_file():
        pytest.skip(f"needs real COCO images in {folder} (or HCL_COCO_TINY)")
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set of embedded scenes: annotations/, train/ (48 images), val/ (8 images)."""
    import hcl

    folder = tmp_path_factory.mktemp("scenes")
    arguments = ["--images", "48", "--val", "8", "--size", "96", "--seed", "5", "--workers", "1"]
    assert hcl.main(["data", "scenes", str(folder / "set"), *arguments]) == 0
    return folder / "set"
