"""A small set of scenes and a network to match their regions with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from correspondence_runs import command_line, pretrain_on

import hcl


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> Path:
    """A folder with ``run`` and ``index`` of 48 scenes. Read only."""
    folder = tmp_path_factory.mktemp("correspondence")
    return pretrain_on(folder, scenes / "annotations/instances_train.json", scenes / "train")


@pytest.fixture(scope="session")
def correspond(base: Path) -> Callable[..., int]:
    """Call ``hcl correspond`` with the run of ``base``."""

    def call(output: Path, *arguments: str) -> int:
        return hcl.main(["correspond", *command_line(base, output, arguments)])

    return call


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory, correspond: Callable[..., int]) -> Path:
    """The finished correspondences of ``base``, half as many pairs as regions. Read only."""
    folder = tmp_path_factory.mktemp("done") / "out"
    assert correspond(folder, "--share", "0.5") == 0
    return folder
