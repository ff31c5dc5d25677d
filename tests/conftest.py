"""Fixtures shared by the whole suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what the machine cannot run, and say why."""
    for item in items:
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
