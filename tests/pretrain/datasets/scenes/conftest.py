"""One small generated set, shared by the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.datasets.scenes.coco_writer import write
from pretrain.datasets.scenes.scene_set import SceneSet


@pytest.fixture(scope="session")
def wanted() -> SceneSet:
    return SceneSet(images=70, val=20, seed=5, size=80, out_of_context=0.3)


@pytest.fixture(scope="session")
def scenes(wanted: SceneSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "set"
    assert write(wanted, folder) == "made"
    return folder
